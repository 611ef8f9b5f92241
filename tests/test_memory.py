"""Batches that fit: the size is found once, kept by the job, and halved where it was too much all the same."""

import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config import validate
from pipeline.engine.batch_size import BatchSize, largest_batch, remember, remembered
from pipeline.engine.planning import make_plan
from pipeline.engine.transforming import try_sizes
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.models.pixel import PixelModel
from pipeline.streams.store import DiskStore
from tests import builders
from tests.test_run import run


def fits(limit: int) -> Any:
    def work(items: list[int]) -> list[int]:
        if len(items) > limit:
            raise torch.OutOfMemoryError("no")
        return [10 * item for item in items]

    return work


@pytest.mark.parametrize(("images", "limit", "left"), [(8, 8, 8), (8, 5, 4), (7, 1, 1), (9, 2, 2)])
def test_every_item_is_done_once_and_in_order(images: int, limit: int, left: int, caplog: Any) -> None:
    size = BatchSize(images)
    seen = [pair for items, made in size.each(range(20), fits(limit)) for pair in zip(items, made, strict=False)]
    assert seen == [(i, 10 * i) for i in range(20)]
    assert size.images == left
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"out of memory: going on with model.batch_size {n}" for n in halves(images, left)
    ]


def halves(start: int, end: int) -> list[int]:
    found = []
    while start > end:
        start = (start + 1) // 2
        found.append(start)
    return found


def test_work_sees_one_size_only() -> None:
    sizes: list[int] = []
    list(BatchSize(4).each(range(6), lambda items: sizes.append(len(items))))
    assert sizes == [4, 4]


def test_one_image_that_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match="out of memory with one image: try"):
        list(BatchSize(4).each(range(6), fits(0)))
    with pytest.raises(UserError, match="out of memory with one image: try"):
        largest_batch(lambda images: fits(0)([0] * images))


@pytest.mark.parametrize(("limit", "found"), [(1, 1), (5, 4), (64, 64), (9999, 512)])
def test_the_largest_power_of_two_that_fits(limit: int, found: int) -> None:
    assert largest_batch(lambda images: fits(limit)([0] * images)) == found


def test_a_kernel_that_cannot_take_more_ends_the_search_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def work(images: int) -> None:
        if images > 4:
            raise RuntimeError("integer out of range\nat some place")

    assert largest_batch(work) == 4
    assert [r.getMessage() for r in caplog.records] == [
        "batch_size auto: 8 images fail (integer out of range); 4 are taken"
    ]


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("no"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_too_little_memory(error: Exception, memory: bool) -> None:
    """Libraries beside torch's allocator say it in their own words."""

    def work(items: list[int]) -> list[int]:
        if len(items) > 2:
            raise error
        return items

    size = BatchSize(4)
    if memory:
        assert [made for _, made in size.each([1, 2], work)] == [[1, 2]]
        assert size.images == 2
    else:
        with pytest.raises(type(error)):
            list(size.each([1, 2], work))


def test_an_error_with_one_image_is_an_error() -> None:
    def broken(images: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be"):
        largest_batch(broken)


def test_what_a_failed_batch_held_is_gone_before_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error's traceback holds the frames, and they the tensors."""
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def work(items: list[int]) -> list[int]:
        tensor = torch.zeros(3)
        held.append(weakref.ref(tensor))
        if len(items) > 1:
            raise torch.OutOfMemoryError("no")
        return items

    monkeypatch.setattr("pipeline.engine.batch_size.free", lambda: alive.extend(ref() is not None for ref in held))
    assert [made for _, made in BatchSize(4).each([1], work)] == [[1]]
    assert alive == [False, False, False]  # at the first halving one, at the second both


def test_it_is_found_once(tmp_path: Path) -> None:
    hashes = dict.fromkeys(("config", "model", "second_model", "judge", "code"), "0")
    asked: list[int] = []
    for _ in range(3):
        size = remembered(DiskStore(tmp_path, tmp_path / ".parts"), hashes, lambda: asked.append(1) or 16)  # type: ignore[func-returns-value]
        assert size == 16
        remember(DiskStore(tmp_path, tmp_path / ".parts"), hashes, size)
    assert asked == [1]
    assert remembered(DiskStore(tmp_path, tmp_path / ".parts"), hashes | {"code": "another"}, lambda: 5) == 16
    assert remembered(DiskStore(tmp_path, tmp_path / ".parts"), hashes | {"model": "another"}, lambda: 5) == 5


def test_a_job_goes_on_with_half_and_the_batch_size_stands_in_the_provenance(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = builders.shard(tmp_path / "in.tar", 7)
    encode = PixelModel.encode

    def scarce(self: PixelModel, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 2:
            raise torch.OutOfMemoryError("no")
        return encode(self, pixels)

    run(builders.recipe(source, tmp_path / "plain", model, **{"model.batch_size": 2}))
    monkeypatch.setattr(PixelModel, "encode", scarce)
    counts = run(builders.recipe(source, tmp_path / "out", model, **{"model.batch_size": 4})).counts
    assert counts.written == 7
    made, plain = (builders.members_of(tmp_path / out / "data" / "in.tar") for out in ("out", "plain"))
    assert {n: c for n, c in made.items() if n.endswith("png")} == {n: c for n, c in plain.items() if n.endswith("png")}
    assert {json.loads(c)["batch_size"] for n, c in made.items() if n.endswith("doppel.json")} == {2}


def test_auto_is_remembered_in_the_job(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = builders.shard(tmp_path / "in.tar", 5)
    run(builders.recipe(source, tmp_path / "out", model, **{"model.batch_size": "auto"}))
    file = tmp_path / "out" / "batch_size.json"
    found = json.loads(file.read_text())
    assert found["batch_size"] == 8
    file.write_text(json.dumps(found | {"batch_size": 3}))
    (tmp_path / "out" / "shards" / "in.json").unlink()
    run(builders.recipe(source, tmp_path / "out", model, **{"model.batch_size": "auto"}))
    made = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    assert {json.loads(c)["batch_size"] for n, c in made.items() if n.endswith("doppel.json")} == {3}


def test_auto_tries_real_batches_with_all_that_the_recipe_gives(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a CUDA device: the operator runs on blank images until memory is out."""
    encode, sizes = PixelModel.encode, list[int]()

    def scarce(self: PixelModel, pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        if len(pixels) > 11:
            raise torch.OutOfMemoryError("no")
        return encode(self, pixels)

    monkeypatch.setattr(PixelModel, "encode", scarce)
    changes = {"operator": {"name": "sdedit", "steps": 50}, "mask": {"shape": "half"}, "guide": {"previous": 1}}
    recipe = builders.recipe(tmp_path / "in.tar", tmp_path / "out", model, **changes, **{"model.batch_size": "auto"})
    job = make_plan(validate(JobConfig, recipe, "test"), batch_size=1)
    assert try_sizes(job, "cpu:0") == 8
    assert set(sizes) == {1, 2, 4, 8, 16}
