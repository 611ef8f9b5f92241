"""What torch may round and reorder, while doppel computes and afterwards."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import torch

from pipeline.diffusion.exactness import exact

CUDNN, PRODUCTS = torch.backends.cudnn, torch.backends.cuda.matmul


def state() -> list[Any]:
    """Of both of torch's switches; the older can't be read where the newer was used."""
    modes = (CUDNN.conv, CUDNN.rnn, PRODUCTS, torch.backends.mkldnn.matmul)
    seen: list[Any] = [mode.fp32_precision for mode in modes] + [CUDNN.deterministic, CUDNN.benchmark]
    for old in (lambda: CUDNN.allow_tf32, torch.get_float32_matmul_precision):
        with suppress(RuntimeError):
            seen.append(old())
    return seen


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    modes = (CUDNN.conv, CUDNN.rnn, PRODUCTS, torch.backends.mkldnn.matmul)
    before = [mode.fp32_precision for mode in modes]
    yield
    CUDNN.deterministic = CUDNN.benchmark = False
    CUDNN.allow_tf32 = True
    torch.set_float32_matmul_precision("highest")
    for mode, precision in zip(modes, before, strict=True):
        mode.fp32_precision = precision


def training() -> None:
    """As a training that cares for speed alone."""
    CUDNN.benchmark = True
    torch.set_float32_matmul_precision("medium")


def newer(mode: Any, precision: str) -> Callable[[], None]:
    return lambda: setattr(mode, "fp32_precision", precision)


@pytest.mark.parametrize(
    "user",
    [
        lambda: None,
        training,
        lambda: setattr(CUDNN, "allow_tf32", False),
        newer(CUDNN.conv, "ieee"),
        newer(PRODUCTS, "tf32"),
        newer(torch.backends, "ieee"),
    ],
    ids=["defaults", "training", "older", "newer-convolutions", "newer-products", "newer-all"],
)
def test_nothing_is_rounded_or_reordered_within_and_nothing_is_changed_after(user: Callable[[], None]) -> None:
    user()
    before = state()
    for _ in range(2):
        with exact(), exact():  # the recogniser's inside the job's
            assert not CUDNN.allow_tf32
            assert torch.get_float32_matmul_precision() == "highest"
            assert CUDNN.conv.fp32_precision != "tf32" != PRODUCTS.fp32_precision
            assert CUDNN.deterministic
            assert not CUDNN.benchmark
        assert state() == before


def test_also_after_an_error() -> None:
    training()
    before = state()
    with pytest.raises(ValueError, match="no"), exact():
        raise ValueError("no")
    assert state() == before
