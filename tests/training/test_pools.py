"""Neighbours of a subset: pixels of the offline job, softened labels, retrieval that never finds the image itself."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.identity import PUBLIC_SALT, SALT_VARIABLE
from pipeline.job.config import JobConfig
from pipeline.media.rules import PLAIN
from pipeline.models.config import ModelConfig
from pipeline.operators import Boomerang
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from training.classifier.filtering import FilterConfig
from training.compare.config import NearConfig
from training.compare.pools import blended, made, pool_of, retrieved
from training.data.cache import build_cache
from training.data.images import Images, load_images

SIDE, CLASSES, COUNT = builders.SIDE, builders.CLASSES, 7


class Mean(nn.Module):
    """Features: the mean of each channel; logits: the same, however often."""

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 3 * self.features(pixels)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return builders.model_folder(tmp_path / "model")


@pytest.fixture
def subset(tmp_path: Path) -> Images:
    shard = builders.shard(tmp_path / "in" / "a.tar", COUNT)
    return load_images(WebDatasetInput(urls=str(shard)), tmp_path / "cache", (SIDE, SIDE), PLAIN, name="data")


def near(model: Path, **changes: object) -> NearConfig:
    given = {
        "model": {"path": str(model), "batch_size": 4},
        "operator": {"name": "boomerang", "t_boom": [0.2, 0.6], "steps": 2},
        "copies": 2,
    }
    return NearConfig.model_validate(given | changes)


def test_pixels_are_those_of_the_offline_job(
    model: Path, subset: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SALT_VARIABLE, PUBLIC_SALT.decode())
    source = tmp_path / "in" / "a.tar"
    changes = {"operator.t_boom": [0.2, 0.6], "operator.copies": 2}
    run_job(make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", model, **changes), "test")))
    written = {}
    with tarfile.open(next((tmp_path / "out" / "data").glob("*.tar"))) as archive:
        for member in archive:
            if member.name.endswith(".png"):
                data = archive.extractfile(member)
                assert data is not None
                written[f"a/{member.name.removesuffix('.png')}"] = np.asarray(Image.open(io.BytesIO(data.read())))
    pixels = made(near(model), subset, "cpu", tmp_path / "pools")[0].permute(0, 1, 3, 4, 2).numpy()
    for copy in range(2):
        for i, key in enumerate(subset.keys):
            assert np.array_equal(pixels[copy, i], written[f"{key}-{copy}"]), (key, copy)


def test_pixels_are_kept_and_found_again(model: Path, subset: Images, tmp_path: Path) -> None:
    first, sound = made(near(model), subset, "cpu", tmp_path / "pools")
    assert sound.all()
    (file,) = (tmp_path / "pools").iterdir()
    before = file.stat().st_mtime_ns
    assert torch.equal(made(near(model, p=0.9), subset, "cpu", tmp_path / "pools")[0], first)
    assert file.stat().st_mtime_ns == before
    made(near(model, copies=3), subset, "cpu", tmp_path / "pools")
    assert len(list((tmp_path / "pools").iterdir())) == 2


def test_labels_of_the_source_softened_by_the_level(model: Path, subset: Images, tmp_path: Path) -> None:
    config = near(model, gamma=0.8, operator={"name": "boomerang", "t_boom": 0.5, "steps": 1})
    pool = pool_of(config, subset, Mean(), CLASSES, "cpu", tmp_path, None)
    own = pool.targets.gather(2, subset.labels.expand(2, -1)[..., None])
    torch.testing.assert_close(own, torch.full_like(own, 1 - 0.5**0.8), atol=2e-3, rtol=0)
    torch.testing.assert_close(pool.targets.sum(2), torch.ones(2, COUNT))
    assert torch.equal(pool.weights, torch.ones(2, COUNT))


def test_labels_of_the_baseline_and_its_filter(model: Path, subset: Images, tmp_path: Path) -> None:
    config = near(model, labels="baseline", filter=FilterConfig(kind="threshold", at=0.4))
    pool = pool_of(config, subset, Mean(), CLASSES, "cpu", tmp_path, None)
    predicted = Mean()(pool.pixels[1].float() / 127.5 - 1).softmax(1)
    torch.testing.assert_close(pool.targets[1], predicted)
    confident = predicted.gather(1, subset.labels[:, None])[:, 0] >= 0.4
    assert torch.equal(pool.weights[1], confident.float())
    assert 0 < confident.sum() < COUNT


def test_blends_stay_in_their_class(subset: Images) -> None:
    flat = Images(
        keys=subset.keys, labels=subset.labels,
        pixels=(10 + 50 * subset.labels)[:, None, None, None].expand(-1, 3, 4, 4).byte(),
    )  # fmt: skip
    assert torch.equal(blended(flat, (0.3, 0.7), 0), flat.pixels)
    mixed = blended(subset, (0.2, 0.8), 0)
    assert not torch.equal(mixed, subset.pixels)
    assert not torch.equal(mixed, blended(subset, (0.2, 0.8), 1))
    assert torch.equal(blended(subset, (1.0, 1.0), 0), subset.pixels)


def test_retrieval_finds_the_nearest_others(subset: Images, tmp_path: Path) -> None:
    cache = build_cache(WebDatasetInput(urls=str(tmp_path / "in" / "a.tar")), tmp_path / "cache", (SIDE, SIDE), PLAIN)
    found = retrieved(subset, cache, Mean(), 2, "cpu")
    features = Mean().features(subset.pixels.float() / 127.5 - 1)
    for row in range(COUNT):
        distances = (features - features[row]).norm(dim=1)
        for copy, other in enumerate(distances.argsort()[1:3].tolist()):
            assert torch.equal(found[copy, row], subset.pixels[other])


def test_sources_that_make_no_sense_are_refused(model: Path) -> None:
    with pytest.raises(ValueError, match="gamma softens the source's label"):
        near(model, gamma=0.8, labels="baseline")
    with pytest.raises(ValueError, match="give model and operator, or retrieve"):
        NearConfig(model=ModelConfig(path="x"))
    with pytest.raises(ValueError, match="copies"):
        NearConfig(model=ModelConfig(path="x"), operator=Boomerang(copies=2))
