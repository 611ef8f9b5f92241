"""Memory that runs out for real, and weights that wait in main memory."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config import validate
from pipeline.diffusion.exactness import exact
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine.batch_size import free
from pipeline.engine.planning import make_plan
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.job_records import Counts
from tests import builders, tiny
from tests.test_run import run

pytestmark = pytest.mark.gpu

FASHION = "embedded:fashion_mnist/model"
SAMPLE = "embedded:fashion_mnist/sample/t10k-00000.tar.gz"
COUNT = 150


@contextmanager
def limited(size: int, cuda: torch.device) -> Iterator[None]:
    """This process may take so many bytes of the device."""
    free()
    torch.cuda.set_per_process_memory_fraction(size / torch.cuda.mem_get_info(cuda)[1], cuda)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
        free()


def recipe(out: Path, batch_size: int | str) -> dict[str, Any]:
    return builders.recipe(
        SAMPLE,
        out,
        Path(FASHION),
        **{"run.devices": ["cuda:0"], "model.batch_size": batch_size, "limit": COUNT, "classes": "numbers"},
    )


@pytest.fixture(scope="module")
def enough_for_64(cuda: torch.device, tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes, with a quarter to spare: 512 images want many times that."""
    free()
    torch.cuda.reset_peak_memory_stats(cuda)
    run(recipe(tmp_path_factory.mktemp("probe") / "out", 64))
    return int(1.25 * torch.cuda.max_memory_reserved(cuda))


def sizes(out: Path) -> set[int]:
    members = builders.members_of(out / "data" / "t10k-00000.tar")
    return {json.loads(c)["batch_size"] for name, c in members.items() if name.endswith("doppel.json")}


def test_auto_ends_below_what_does_not_fit(cuda: torch.device, enough_for_64: int, tmp_path: Path) -> None:
    with limited(enough_for_64, cuda):
        manifest = run(recipe(tmp_path / "out", "auto"))
    found = json.loads((tmp_path / "out" / "batch_size.json").read_text())["batch_size"]
    assert 16 <= found < 512
    assert sizes(tmp_path / "out") == {found}
    assert manifest.counts.written == manifest.counts.images == COUNT
    run(recipe(tmp_path / "out", "auto"))  # finished; what was found is not sought again, and nothing has changed


def test_a_batch_that_does_not_fit_is_halved(
    cuda: torch.device, enough_for_64: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with limited(enough_for_64, cuda), caplog.at_level(logging.WARNING, "doppel"):
        manifest = run(recipe(tmp_path / "out", 1024))
    warned = [int(r.getMessage().split()[-1]) for r in caplog.records if "going on with" in r.getMessage()]
    assert warned[:2] == [512, 256]
    assert sizes(tmp_path / "out") == {warned[-1]}
    assert manifest.counts == Counts(read=COUNT, written=COUNT, images=COUNT, quarantined=0, undecodable=0)


def test_the_trial_leaves_nothing_behind(cuda: torch.device, tmp_path: Path) -> None:
    free()
    before = torch.cuda.memory_reserved(cuda)
    content = recipe(tmp_path / "out", "auto") | {"run": {"devices": ["cuda:0"]}}
    assert make_plan(validate(JobConfig, content, "test")).batch_size == 512
    assert torch.cuda.memory_reserved(cuda) <= before + 40 * 2**20  # the workspace of cuBLAS may be new, and stays


OPERATOR = Boomerang(t_boom=0.5, steps=3, guidance=2)  # type: ignore[arg-type]
CAPTIONS = ["a cat", "a dog"]


@torch.inference_mode()
@exact()
def edited(folder: Path, offload: str, cuda: torch.device) -> tuple[Tensor, int]:
    """The images, and how many bytes of the device they took at most."""
    free()
    before = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    model = load_model(ModelConfig(path=str(folder), offload=offload), "cuda:0")  # type: ignore[arg-type]
    pixels = 0.5 * torch.randn(2, 3, *model.size, generator=torch.Generator().manual_seed(0)).to(cuda)
    given, noise = Given(pixels=pixels, captions=CAPTIONS), KeyedNoise(b"salt", CAPTIONS, "boomerang", 0)
    images = OPERATOR(model, model.encode(pixels), given, noise).pixels
    assert images.device == cuda
    return images.cpu(), torch.cuda.max_memory_allocated(cuda) - before


@pytest.mark.parametrize("family", ["sd", "lcm", "sdxl"])
def test_offloading_changes_memory_and_no_image(cuda: torch.device, tmp_path: Path, family: str) -> None:
    folder = tiny.FAMILIES[family](tmp_path / family)
    edited(folder, "none", cuda)  # workspaces, once and for all
    wanted, peak = edited(folder, "none", cuda)
    for offload in ("model", "sequential"):
        images, less = edited(folder, offload, cuda)
        torch.testing.assert_close(images, wanted, rtol=0, atol=1e-5)
        if offload == "sequential":
            assert less < peak
