"""The stage for NeMo Curator, on a stand-in of the part of its interface that we use (nemo_curator 1.0 and later)."""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.media.pixels import decode
from tests import builders

X, Y = TypeVar("X"), TypeVar("Y")


class ProcessingStage(Generic[X, Y]):
    """Takes and gives tasks; `name`, `resources` and `batch_size` (of tasks) are plain attributes there."""

    name, batch_size = "ProcessingStage", 1
    resources: Any = None


@dataclass
class Resources:
    cpus: float = 1.0
    gpus: float = 0.0


@dataclass
class ImageObject:
    image_path: str = ""
    image_id: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    image_bytes: bytes | None = None
    image_data: Any = None
    embedding: Any = None
    aesthetic_score: float | None = None
    nsfw_score: float | None = None


@dataclass
class ImageBatch:
    task_id: str = ""
    data: list[ImageObject] = field(default_factory=list)


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the stage, imported over the stand-in."""
    names: dict[str, dict[str, Any]] = {
        "nemo_curator": {},
        "nemo_curator.stages": {},
        "nemo_curator.stages.base": {"ProcessingStage": ProcessingStage},
        "nemo_curator.stages.resources": {"Resources": Resources},
        "nemo_curator.tasks": {"ImageBatch": ImageBatch},
    }
    for name, content in names.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "pipeline.hooks.nemo_curator", raising=False)
    from pipeline.hooks import nemo_curator

    yield nemo_curator
    sys.modules.pop("pipeline.hooks.nemo_curator", None)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return builders.model_folder(tmp_path_factory.mktemp("model"), classes=None)


OPERATOR = {"name": "boomerang", "t_boom": 0.4, "steps": 2}


def image(number: int, size: tuple[int, int] = (8, 8)) -> ImageObject:
    pixels = decode(builders.picture(number, size))[0]
    return ImageObject(image_id=f"{number:04d}", image_data=pixels, image_bytes=b"original", aesthetic_score=0.5)


def by_id(batch: ImageBatch) -> dict[str, Any]:
    return {image.image_id: image.image_data for image in batch.data}


def test_neighbours_hang_on_ids_and_not_on_batches(stages: Any, unlabelled: Path) -> None:
    stage = stages.NeighbourStage(OPERATOR, str(unlabelled), images_at_once=4, gpus=0)
    assert stage.resources.gpus == 0
    assert stage.inputs() == stage.outputs() == (["data"], [])
    images = [image(i, (11, 9)) for i in range(5)]
    task = ImageBatch(task_id="a", data=images)
    stage = pickle.loads(pickle.dumps(stage.__dict__)) and stage  # what travels to a worker
    stage.setup()
    done = stage.process(task)
    assert [image.image_id for image in done.data] == [image.image_id for image in images]
    assert done.task_id == "a"
    assert task.data[0].image_data.shape == (9, 11, 3)  # what was given stays as it was
    for made in done.data:
        assert (made.image_data.shape, made.image_data.dtype) == ((8, 8, 3), np.uint8)
        assert (made.image_bytes, made.aesthetic_score) == (None, None)
    other = by_id(stage.process(ImageBatch(data=[*images[::-1][:2], image(9)])))
    for name, pixels in by_id(done).items():
        if name in other:
            assert np.abs(pixels.astype(int) - other[name]).max() <= 1
    stage.teardown()


def test_a_batch_without_images_stays_one(stages: Any, unlabelled: Path) -> None:
    assert stages.NeighbourStage(OPERATOR, str(unlabelled), gpus=0).process(ImageBatch()).data == []


def test_images_that_cannot_be_done_are_one_sentence(stages: Any, unlabelled: Path) -> None:
    stage = stages.NeighbourStage(OPERATOR, str(unlabelled), gpus=0)
    with pytest.raises(UserError, match=r"^an image has no image_id"):
        stage.process(ImageBatch(data=[ImageObject(image_data=image(0).image_data)]))
    with pytest.raises(UserError, match=r"^0: image_data is None; uint8 \[H, W, 3\] is expected"):
        stage.process(ImageBatch(data=[ImageObject(image_id="0")]))


def test_labels_come_from_the_metadata(stages: Any, model: Path) -> None:
    with pytest.raises(UserError, match=r"^label: the model takes one for each image; name the field of metadata"):
        stages.NeighbourStage(OPERATOR, str(model), gpus=0)
    stage = stages.NeighbourStage(OPERATOR, str(model), gpus=0, label="class", images_at_once=2)
    with pytest.raises(UserError, match=r"^0000: metadata has no class"):
        stage.process(ImageBatch(data=[image(0)]))
    given = image(0)
    given.metadata["class"] = 2
    assert len(stage.process(ImageBatch(data=[given])).data) == 1


def test_without_nemo_curator_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nemo_curator", None)
    monkeypatch.delitem(sys.modules, "pipeline.hooks.nemo_curator", raising=False)
    with pytest.raises(UserError, match=r"^a stage for NeMo Curator needs its package"):
        import pipeline.hooks.nemo_curator  # noqa: F401
