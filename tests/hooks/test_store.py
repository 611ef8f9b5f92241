"""The store against the job that wrote it: every image, byte for byte, and nothing that is not finished or ours."""

import io
import json
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.hooks.items import key_of
from pipeline.hooks.store import NeighbourStore, Weighted, read_weights
from pipeline.job.config import JobConfig
from pipeline.media.output_keys import OutputKey
from pipeline.media.provenance import Provenance
from tests import builders


def ran(tmp_path: Path, model: Path | None, source: Path, **changes: object) -> JobConfig:
    config = validate(JobConfig, builders.recipe(source, tmp_path / "out", model, **changes), "test")
    run_job(make_plan(config))
    return config


def copied(job: JobConfig, tmp_path: Path) -> Path:
    return Path(shutil.copytree(job.output.path, tmp_path / "copy"))


def pixels(image: Image.Image | None) -> np.ndarray:
    assert image is not None
    return np.asarray(image)


def test_every_copy_of_every_key_is_the_jobs_own(job: JobConfig) -> None:
    store = NeighbourStore.open(job.output.path, expect=job)
    written = {
        name: content
        for shard in "ab"
        for name, content in builders.members_of(Path(job.output.path) / "data" / f"{shard}.tar").items()
        if name.endswith(".png")
    }
    assert len(store) == len(written) == 20
    for name, content in written.items():
        key, copy = name.removesuffix(".png").split("-")
        assert store.copies(key) == 2
        assert np.array_equal(pixels(store.get(key, int(copy))), pixels(Image.open(io.BytesIO(content))))


def test_what_is_not_there_is_none(job: JobConfig) -> None:
    store = NeighbourStore.open(job.output.path)
    assert store.copies("nobody") == 0
    assert store.get("nobody", 0) is None
    assert store.get("0001", 2) is None
    assert store.get("0001", -1) is None


def test_it_travels_to_another_process(job: JobConfig) -> None:
    store = NeighbourStore.open(job.output.path)
    data = pickle.dumps(store)
    assert len(data) < 2000 + 100 * len(store)
    assert np.array_equal(pixels(pickle.loads(data).get("0007", 1)), pixels(store.get("0007", 1)))


def test_only_finished_shards_count(job: JobConfig, tmp_path: Path) -> None:
    folder = copied(job, tmp_path)
    (folder / "shards" / "a.json").unlink()
    store = NeighbourStore.open(folder)
    assert [store.copies(key) for key in ("0000", "0009")] == [0, 2]
    (folder / "data" / "b.tar").unlink()
    with pytest.raises(UserError, match="no shard of the job is finished"):
        NeighbourStore.open(folder)


def test_one_copy_keys_with_dots_and_grey_images(tmp_path: Path, model: Path) -> None:
    names = ("IMG.2020.01", "a-0", "sub/b")
    source = builders.tar(
        tmp_path / "in.tar",
        [part for i, name in enumerate(names)
         for part in ((f"{name}.png", builders.picture(i, mode="L")), (f"{name}.cls", b"1"))],
    )  # fmt: skip
    store = NeighbourStore.open(ran(tmp_path, model, source).output.path)
    assert [store.copies(name) for name in names] == [1, 1, 1]
    image = store.get("IMG.2020.01", 0)
    assert image is not None
    assert (image.mode, image.size) == ("L", (8, 8))


def test_keys_of_a_folder_are_those_of_its_reader(tmp_path: Path, model: Path) -> None:
    for i, name in enumerate(("cat/IMG.1.png", "dog/2.png")):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        (tmp_path / "in" / name).write_bytes(builders.picture(i))
    content = builders.recipe(
        "", tmp_path / "out", model, classes="numbers", input={"format": "folder", "path": str(tmp_path / "in")}
    )
    run_job(make_plan(validate(JobConfig, content, "test")))
    store = NeighbourStore.open(tmp_path / "out")
    assert [store.copies(key) for key in ("cat/IMG.1", "dog/2")] == [1, 1]


def test_the_first_member_is_the_image_among_other_pictures_and_older_provenance(tmp_path: Path, model: Path) -> None:
    members = [("0.jpg", builders.picture(0, kind="JPEG")), ("0.png", builders.picture(9)), ("0.cls", b"1")]
    members += [
        ("0.doppel.json", b'{"copy": 7}'),
        ("0.txt", b"after it"),
        ("1.jpg", builders.picture(1)),
        ("1.cls", b"0"),
    ]
    config = ran(tmp_path, model, builders.tar(tmp_path / "in.tar", members), **{"input.image": "jpg"})
    written = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    store = NeighbourStore.open(config.output.path)
    assert np.array_equal(pixels(store.get("0", 0)), pixels(Image.open(io.BytesIO(written["0.jpg.png"]))))
    assert np.array_equal(pixels(store.get("1", 0)), pixels(Image.open(io.BytesIO(written["1.png"]))))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"operator": {"name": "boomerang", "t_boom": 0.9, "steps": 2, "copies": 2}}, r"operator\.t_boom\.fraction"),
        ({"image": {"fit": "crop"}}, r"image\.fit \(resize → crop\)"),
    ],
)
def test_a_store_from_another_configuration_is_refused(job: JobConfig, change: dict[str, object], named: str) -> None:
    other = validate(JobConfig, {**job.model_dump(mode="json"), **change}, "test")
    with pytest.raises(UserError, match=f"a store from another configuration: it differs in {named}"):
        NeighbourStore.open(job.output.path, expect=other)


def test_another_salt_or_model_is_another_configuration(job: JobConfig, tmp_path: Path) -> None:
    (tmp_path / "salt").write_bytes(b"sixteen secret bytes")
    fields = job.model_dump(mode="json")
    salted = validate(JobConfig, {**fields, "run": {"salt_file": str(tmp_path / "salt")}}, "test")
    with pytest.raises(UserError, match=r"differs in the salt$") as caught:
        NeighbourStore.open(job.output.path, expect=salted)
    assert "sixteen" not in str(caught.value)
    other = builders.model_folder(tmp_path / "other", seed=1)
    trained = validate(JobConfig, {**fields, "model": {**fields["model"], "path": str(other)}}, "test")
    with pytest.raises(UserError, match=r"differs in the model's files$"):
        NeighbourStore.open(job.output.path, expect=trained)


def test_a_store_of_older_code_and_elsewhere_will_do(job: JobConfig, tmp_path: Path) -> None:
    folder = copied(job, tmp_path)
    content = json.loads((folder / "job.json").read_text())
    content["hashes"]["code"] = "0" * 64
    (folder / "job.json").write_text(json.dumps(content))
    assert len(NeighbourStore.open(folder, expect=job)) == 20


@pytest.mark.parametrize("file", ["job.json", "shards/a.json"])
def test_a_store_of_the_previous_version_is_refused(job: JobConfig, tmp_path: Path, file: str) -> None:
    folder = copied(job, tmp_path)
    content = json.loads((folder / file).read_text())
    del content["version"]
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{file} was written by an older version of doppel"):
        NeighbourStore.open(folder)


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no doppel job"):
        NeighbourStore.open(tmp_path)
    source = builders.shard(tmp_path / "in.tar", 2)
    ran(tmp_path, None, source, **{"output.format": "parquet"})
    with pytest.raises(UserError, match=r"holds parquet output; a store needs output\.format webdataset"):
        NeighbourStore.open(tmp_path / "out")


def test_a_key_of_several_shards_needs_the_name_of_its_own(tmp_path: Path, model: Path) -> None:
    for name in ("cat/x", "dog/x", "y"):
        builders.shard(tmp_path / "in" / f"{name}.tar", 2, first=0 if name == "cat/x" else 1)
    store = NeighbourStore.open(ran(tmp_path, model, tmp_path / "in" / "{cat/,dog/,}*.tar").output.path)
    assert len(store) == 6
    assert store.copies("cat-x/0001") == store.copies("y/0001") == 1
    assert pixels(store.get("cat-x/0001", 0)).tolist() != pixels(store.get("dog-x/0001", 0)).tolist()
    assert store.copies("y/0000") == store.copies("z/0001") == 0
    with pytest.raises(UserError, match="'x/0001' may be that of a sample in cat-x or dog-x"):
        store.copies("x/0001")
    for key in ("0000", "0001"):  # which of them another shard had, but has lost to the quarantine, is not known
        with pytest.raises(UserError, match=f"key {key!r} may be that of another shard's.* in common; .*'cat-x/{key}'"):
            store.copies(key)


def test_while_a_job_is_unfinished_a_key_alone_names_nobody(tmp_path: Path) -> None:
    builders.shard(tmp_path / "in" / "a.tar", 2)
    builders.shard(tmp_path / "in" / "b.tar", 2, first=2)
    store = NeighbourStore.open(ran(tmp_path, None, tmp_path / "in" / "*.tar", limit=2).output.path)
    with pytest.raises(UserError, match="has not gone through all its input"):
        store.copies("0001")
    assert store.copies("a/0001") == 1


def test_items_of_webdataset_find_their_shard_by_the_end_of_its_name(tmp_path: Path) -> None:
    for name in ("cat/x", "dog/y"):
        builders.shard(tmp_path / "in" / f"{name}.tar", 2)
    store = NeighbourStore.open(ran(tmp_path, None, tmp_path / "in" / "*" / "*.tar").output.path)
    item = {"__url__": f"{tmp_path}/in/dog/y.tar", "__key__": "0001"}
    assert key_of(None, item) == "y/0001"
    assert np.array_equal(pixels(store.get(key_of(None, item), 0)), pixels(store.get("dog-y/0001", 0)))


def test_damage_is_told_where_it_lies(job: JobConfig, tmp_path: Path) -> None:
    folder = copied(job, tmp_path)
    store = NeighbourStore.open(folder)
    (folder / "data" / "a.tar").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=r"a\.tar: the neighbour of '0001' cannot be read"):
        store.get("0001", 0)
    (folder / "data" / "a.tar").write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match=r"a\.tar is not a tar that doppel wrote"):
        NeighbourStore.open(folder)


def test_no_member_name_reaches_the_file_system(tmp_path: Path, model: Path) -> None:
    """A record that names a file elsewhere is not followed."""
    source = builders.shard(tmp_path / "in.tar", 2)
    folder = Path(ran(tmp_path, model, source).output.path)
    record = json.loads((folder / "shards" / "in.json").read_text())
    (folder / "elsewhere.tar").write_bytes((folder / "data" / "in.tar").read_bytes())
    record["files"] = {"data/../elsewhere.tar": ""}
    (folder / "shards" / "in.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="is no file of a job"):
        NeighbourStore.open(folder)


def test_weights_drop_some_and_hold_back_others(job: JobConfig, tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text('{"a/0000-0": 0, "a/0001-1": 0.25, "a/0002-0": 0, "a/0002-1": 0}')
    whole = NeighbourStore.open(job.output.path)
    store = NeighbourStore.open(job.output.path, weights=read_weights(tmp_path / "weights.json"))
    assert isinstance(store, Weighted)
    assert [store.copies(key) for key in ("0000", "0001", "0002", "0003")] == [1, 2, 0, 2]
    assert np.array_equal(pixels(store.get("0000", 0)), pixels(whole.get("0000", 1)))
    assert (store.weight("0001", 0), store.weight("0001", 1)) == (1, 0.25)


def test_weights_of_something_else_are_refused(job: JobConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'a/9999-0', which is not in the store"):
        NeighbourStore.open(job.output.path, weights={"a/9999-0": 1})
    with pytest.raises(UserError, match=r"the weight of 'a/0000-0' is 1\.5"):
        NeighbourStore.open(job.output.path, weights={"a/0000-0": 1.5})
    (tmp_path / "w.json").write_text("[1]")
    with pytest.raises(UserError, match="a JSON object"):
        read_weights(tmp_path / "w.json")
    (tmp_path / "w.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_weights(tmp_path / "w.json")


def provenance(key: OutputKey) -> bytes:
    return Provenance(key=key, code="", config="").to_json().encode()


def test_views_are_no_neighbours(tmp_path: Path) -> None:
    """An operator's further images of a sample (which have a name) have other pixels than its neighbour."""
    from pipeline.hooks.store import scan

    file = builders.tar(
        tmp_path / "a.tar",
        [
            ("k-0.png", b"1"), ("k-0.doppel.json", provenance(OutputKey("k", 0))),
            ("k-0-low.png", b"22"), ("k-0-low.doppel.json", provenance(OutputKey("k", 0, "low"))),
            ("k-1.png", b"333"), ("k-1.doppel.json", provenance(OutputKey("k", 1))),
        ],
    )  # fmt: skip
    assert [(entry.key, entry.copy, entry.size) for entry in scan(file)] == [
        ("k", 0, 1),
        ("k", 1, 3),
    ]
    with tarfile.open(file) as tar:
        assert [e.offset for e in scan(file)] == [tar.getmember(name).offset_data for name in ("k-0.png", "k-1.png")]
