"""Outputs as a stranger reads them, with webdataset and `datasets`: keys and labels intact, from every input."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from tests import builders

NAMES = ["cat", "dog", "owl"]
COUNT = 7


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same seven pictures as tars, parquet and a folder; keys have dots."""
    from datasets import ClassLabel, Dataset, Features, Image, Value

    root = tmp_path_factory.mktemp("sources")
    builders.tar(
        root / "tars" / "set.tar",
        [
            member
            for i in range(COUNT)
            for member in ((f"IMG.{i:04d}.png", builders.picture(i)), (f"IMG.{i:04d}.cls", b"%d" % (i % 3)))
        ],
    )
    features = Features({"photo": Image(), "animal": ClassLabel(names=NAMES), "score": Value("float64")})
    rows = {
        "photo": [{"bytes": builders.picture(i), "path": None} for i in range(COUNT)],
        "animal": [i % 3 for i in range(COUNT)],
        "score": [i / 3 for i in range(COUNT)],
    }
    Dataset.from_dict(rows, features=features).to_parquet(root / "set.parquet")
    for i in range(COUNT):
        file = root / "folder" / NAMES[i % 3] / f"IMG.{i:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(builders.picture(i))
    return {
        "webdataset": {"format": "webdataset", "urls": str(root / "tars" / "set.tar"), "label_names": NAMES},
        "hub": {"format": "hub", "path": str(root / "set.parquet")},
        "folder": {"format": "folder", "path": str(root / "folder")},
    }


def run(source: dict[str, Any], out: Path, model: Path, output: str) -> Path:
    changes = {"output.format": output, "operator.t_boom": 0, "classes": "numbers"}
    content = builders.recipe("", out, model, **changes)
    content["input"] = source
    manifest = run_job(make_plan(validate(JobConfig, content, "test")))
    assert manifest.counts.written == COUNT
    return out / "data"


@pytest.mark.parametrize("kind", ["webdataset", "hub", "folder"])
def test_webdataset_reads_our_tars(kind: str, sources: dict[str, dict[str, Any]], tmp_path: Path, model: Path) -> None:
    import webdataset as wds

    data = run(sources[kind], tmp_path / "out", model, "webdataset")
    urls = [str(p) for p in sorted(data.glob("*.tar"))]
    if kind == "webdataset":  # the names are the input's, so is the rule that reads them
        reader = wds.WebDataset(urls, shardshuffle=False, empty_check=False)
        assert [s["__key__"] for s in reader] == ["IMG"]  # as webdataset read the input
        return
    found = list(wds.WebDataset(urls, shardshuffle=False).decode("pil"))
    assert len({s["__key__"] for s in found}) == COUNT
    for sample in found:
        assert sample["png"].size == (builders.SIDE, builders.SIDE)
        assert sample["doppel.json"]["operator"] == "boomerang"
    assert sorted(s["cls"] for s in found) == sorted(i % 3 for i in range(COUNT))


@pytest.mark.parametrize("kind", ["webdataset", "hub", "folder"])
def test_load_dataset_reads_our_parquet(
    kind: str, sources: dict[str, dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    from datasets import load_dataset

    data = run(sources[kind], tmp_path / "out", model, "parquet")
    found = load_dataset(str(data), split="train", cache_dir=str(tmp_path / "cache"))
    image, label = ("photo", "animal") if kind == "hub" else ("image", "label")
    assert found.features[label].names == NAMES
    assert sorted(found[label]) == sorted(i % 3 for i in range(COUNT))
    assert found[0][image].size == (builders.SIDE, builders.SIDE)
    if kind == "hub":
        assert found["score"] == [i / 3 for i in range(COUNT)]
    if kind == "webdataset":
        assert found["key"] == [f"IMG.{i:04d}" for i in range(COUNT)]
    assert len(set(found["key"])) == COUNT


@pytest.mark.parametrize("kind", ["webdataset", "hub", "folder"])
def test_load_dataset_reads_our_folder(
    kind: str, sources: dict[str, dict[str, Any]], tmp_path: Path, model: Path
) -> None:
    from datasets import load_dataset

    data = run(sources[kind], tmp_path / "out", model, "folder")
    found = load_dataset("imagefolder", data_dir=str(data), split="train", cache_dir=str(tmp_path / "cache"))
    assert found.features["label"].names == NAMES
    assert sorted(found["label"]) == sorted(i % 3 for i in range(COUNT))


def test_dots_in_keys_survive_every_way(sources: dict[str, dict[str, Any]], tmp_path: Path, model: Path) -> None:
    """Folder → tar → folder: level 0, so the pictures are the same ones under the same names."""
    tars = run(sources["folder"], tmp_path / "one", model, "webdataset")
    back = {"format": "webdataset", "urls": f"{tars}/*.tar", "label_names": NAMES}
    folder = run(back, tmp_path / "two", model, "folder")
    for i in range(COUNT):
        (file,) = (folder / NAMES[i % 3]).glob(f"*%2FIMG.{i:04d}.png")
        assert (decode(file.read_bytes())[0] == decode(builders.picture(i))[0]).all()


@pytest.mark.parametrize("output", ["webdataset", "parquet", "folder"])
def test_sets_without_labels_and_with_wrong_ones(output: str, tmp_path: Path) -> None:
    """−1 is how data sets write "no label"; a number without a name is a row in quarantine, not the end of the job."""
    pictures = [(f"{i}.{e}", c) for i in range(4) for e, c in (("png", builders.picture(i)), ("cls", b"%d" % (i - 1)))]
    source = builders.tar(tmp_path / "in.tar", pictures)  # labels -1, 0, 1, 2
    content = builders.recipe(
        source, tmp_path / "out", None, **{"output.format": output, "input.label_names": NAMES[:2]}
    )
    manifest = run_job(make_plan(validate(JobConfig, content, "test")))
    assert manifest.counts.written == 3
    (reason,) = [
        c
        for n, c in builders.members_of(tmp_path / "out" / "quarantine" / "in.tar").items()
        if n.endswith(".reason.json")
    ]
    assert b"label 2 is out of range: the data set names 0 to 1" in reason


@pytest.mark.parametrize("use_labels", [True, False])
def test_the_models_class_names_belong_to_the_data_only_where_its_labels_are_used(
    use_labels: bool, tmp_path: Path
) -> None:
    import json

    from datasets import load_dataset

    folder = builders.model_folder(tmp_path / "named", classes=4)  # three, and the one for "none"
    (folder / "doppel.json").write_text(json.dumps({"class_names": NAMES, "null_label": 3}))
    label = b"2" if use_labels else b"41"
    source = builders.tar(tmp_path / "in.tar", [("0.png", builders.picture(0)), ("0.cls", label)])
    changes = {"output.format": "parquet", "operator.condition": "own" if use_labels else "none"}
    changes |= {"classes": "numbers"} if use_labels else {}
    content = builders.recipe(source, tmp_path / "out", folder, **changes)
    assert run_job(make_plan(validate(JobConfig, content, "test"))).counts.written == 1
    found = load_dataset(str(tmp_path / "out" / "data"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["label"] == [int(label)]
    assert getattr(found.features["label"], "names", None) == (NAMES if use_labels else None)
