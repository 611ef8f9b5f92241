"""Same call, same bytes, and float32 that is float32: on CUDA, torch's defaults promise neither.

Its convolutions round to TF32 (three digits) and may add in any order; its products do as the training around asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Setting = TypeVar("Setting")


@contextmanager
def exact() -> Iterator[None]:
    """Makes exact what is computed within, by all threads; afterwards everything is as it was.

    Half types stay what they are. scatter_add and its kin still add in any order: what the pipeline needs of them, it
    does on the CPU.
    """
    backends: Any = torch.backends  # its types don't know the newer switches
    cudnn = backends.cudnn
    modes = (cudnn.conv, cudnn.rnn, backends.cuda.matmul, backends.mkldnn.matmul)
    precisions = [mode.fp32_precision for mode in modes]
    tf32 = _read(lambda: cudnn.allow_tf32, False)
    products = _read(torch.get_float32_matmul_precision, "highest")
    deterministic, benchmark = cudnn.deterministic, cudnn.benchmark
    _switch(tf32=False, products="highest", deterministic=True, benchmark=False)
    try:
        yield
    finally:
        _switch(tf32=tf32, products=products, deterministic=deterministic, benchmark=benchmark)
        for mode, precision in zip(modes, precisions, strict=True):
            mode.fp32_precision = precision


def _read(setting: Callable[[], Setting], otherwise: Setting) -> Setting:
    """torch has two switches for one thing, and refuses to read the older once somebody has used the newer."""
    try:
        return setting()
    except RuntimeError:
        return otherwise


def _switch(*, tf32: bool, products: str, deterministic: bool, benchmark: bool) -> None:
    """By the older switches, which set the newer ones: so both agree, as torch demands."""
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.deterministic = deterministic
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision(products)
