"""What the README and the shipped files promise; what the documents show is in test_documents."""

import gzip
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.assets import ROOT as ASSETS
from pipeline.cli import main
from pipeline.config import load_config
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from pipeline.models.licence import read_licence
from pipeline.models.training_set import read_training_set
from pipeline.recipes import read_recipe, shipped
from pipeline.streams.shards import WebDatasetInput
from tests import builders

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def embedded(content: dict[str, Any]) -> bool:
    return all(str(place).startswith("embedded:") for place in (content["model"]["path"], content["input"].get("urls")))


@pytest.mark.parametrize(("name", "most"), [("lfw_faces", 14e6), ("lfw_faces_128", 19e6)])
def test_face_models_are_small_and_say_what_they_are(name: str, most: float) -> None:
    model = ASSETS / name / "model"
    assert 1e7 < sum(f.stat().st_size for f in model.rglob("*")) < most
    assert read_licence(model).noncommercial
    assert "research demonstration, trained on Labeled Faces in the Wild" in (model / "README.md").read_text()


@pytest.mark.parametrize("name", ["fashion_mnist", "colour_mnist"])
def test_the_embedded_files_are_small(name: str) -> None:
    sizes = {part: sum(f.stat().st_size for f in (ASSETS / name / part).rglob("*")) for part in ("model", "sample")}
    assert 1e6 < sizes["model"] < 8e6
    assert 1e4 < sizes["sample"] < 1e6


@pytest.mark.parametrize(("name", "images", "most"), [("fashion_unlabelled", 55_000, 8e6), ("cifar10", 45_000, 16.5e6)])
def test_the_denoisers_of_comparisons_say_what_they_have_seen(name: str, images: int, most: float) -> None:
    model = ASSETS / name / "model"
    seen = read_training_set(model)
    assert seen is not None
    assert len(seen["keys"]) == len(seen["contents"]) == images
    assert sum(f.stat().st_size for f in model.rglob("*")) < most


def test_the_embedded_digits_are_in_colour_and_of_all_classes() -> None:
    (shard,) = WebDatasetInput(urls=("embedded:colour_mnist/sample/*.tar.gz",)).open().shards
    samples: list[Any] = list(shard.read())
    assert {s.label for s in samples} == set(range(10))
    assert np.stack([decode(s.image)[0] for s in samples]).std(-1).mean() > 5


def test_the_sample_is_the_first_thousand_test_images() -> None:
    source = builders.SHARED / "fashion_mnist"
    if not source.is_dir():
        pytest.skip(f"{source} is not here")
    images = np.frombuffer(gzip.decompress((source / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((source / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    shards = WebDatasetInput(urls=("embedded:fashion_mnist/sample/*.tar.gz",)).open().shards
    samples: list[Any] = [s for shard in shards for s in shard.read()]
    assert [s.label for s in samples] == labels[:1000].tolist()
    decoded = np.stack([decode(s.image)[0][..., 0] for s in samples])
    assert np.array_equal(decoded, images.reshape(-1, 28, 28)[:1000])


def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With one step instead of twenty; `test_the_whole_demo` takes them all."""
    changes = ["operator.steps=1"]

    def fewer(kind: type[JobConfig], source: str, overrides: list[str]) -> JobConfig:
        return load_config(kind, source, [*overrides, *changes])

    monkeypatch.setattr("pipeline.commands.demo.load_config", fewer)
    with monkeypatch.context() as patch:  # of another job, one shard
        patch.setattr("pipeline.commands.demo.draw_sheet", lambda *_: None)
        changes.append("input.urls=embedded:fashion_mnist/sample/t10k-00000.tar.gz")
        assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out" / "data").glob("*.tar"))) == 1
    capsys.readouterr()
    del changes[1]
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0  # starts anew
    said = capsys.readouterr().out
    assert "│ images" in said
    assert " 1000 " in said
    assert len(list((tmp_path / "out" / "data").glob("*.tar"))) == 4
    sheet = np.asarray(Image.open(tmp_path / "out" / "contact_sheet.png"))
    assert sheet.shape[0] > 5 * 84
    assert sheet.std() > 40


@pytest.mark.slow
def test_the_whole_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures of the README, up to the rounding of another machine."""
    assert main(["demo", "--out", str(tmp_path / "out")]) == 0
    said, promised = (
        {
            name: re.search(rf"│ {name} .*?│([^│]*)│\n", text)[1]
            for name in ("nearest other", "nearest original", "PSNR")
        }  # type: ignore[index]
        for text in (capsys.readouterr().out, README)
    )
    for name, text in promised.items():
        number = float(re.search(r"[\d.]+", text)[0])  # type: ignore[index]
        assert float(re.search(r"[\d.]+", said[name])[0]) == pytest.approx(number, abs=1), name  # type: ignore[index]


JOBS = [name for name, file in shipped().items() if file.parent.name == "job" and embedded(read_recipe(file, "job"))]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", JOBS)
def test_every_job_recipe_runs_and_previews(recipe: str, tmp_path: Path) -> None:
    out = f"output.path={tmp_path / 'out'}"
    assert main(["preview", recipe, "-n", "4", "-o", str(tmp_path / "sheet.png")]) == 0
    assert np.asarray(Image.open(tmp_path / "sheet.png")).std() > 20
    assert main(["run", recipe, "--limit", "6", "--set", out, "--set", "model.batch_size=6"]) == 0
    assert list((tmp_path / "out" / "data").glob("*.tar"))
