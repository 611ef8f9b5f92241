"""A CUDA device made of air: its tensors say that they are on cuda:0, and are computed on the CPU.

Where there is no GPU, no test sees that a tensor was left on the wrong device. Here what mixes devices raises as CUDA
does, what CUDA would add up in any order is refused, and everything else gives the CPU's bytes. There is no memory of
its own, no stream, no kernel and no gradient: what CUDA rounds otherwise, or lacks, is not seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
TO_NUMPY = (Tensor.numpy, Tensor.__array__)
ACROSS = (Tensor.copy_, torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
"""From one device to the other is what they are for."""
SHAPE_ALONE = (Tensor.expand_as, Tensor.view_as, Tensor.reshape_as, Tensor.is_same_size)
INDEXING = (Tensor.__getitem__, Tensor.__setitem__, Tensor.index_put, Tensor.index_put_)
IN_ANY_ORDER = ("scatter_add", "index_add", "scatter_reduce", "index_reduce", "cumsum", "cumprod", "logcumsumexp")
"""Of floats: the same call gives other bytes the next time (`torch.use_deterministic_algorithms` lists them)."""
CONTAINERS = (list, tuple, type({}.values()))
AS_THEY_ARE = ("__get__", "__set__", "requires_grad_")
"""Attributes: those of the tensor on the device, not of what it holds."""


class OnCuda(Tensor):
    """`held` is the plain tensor that it stands for; views share its memory."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # `Pretending` does it

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCuda:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "layout": held.layout}
        made = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device=CUDA, **layout)  # type: ignore[attr-defined]
        made.held = held.detach()
        assert isinstance(made, OnCuda)
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnCuda({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch itself asks for, where `Pretending` does not see it."""
        return computed(func, args, kwargs or {})


def computed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """By the CPU; tensors that come of it are on the device, unless `device=` says otherwise."""
    check(func, args, kwargs)
    target = kwargs.get("device")
    held = {name: plain(one) for name, one in kwargs.items()}
    made = func(*map(plain, args), **(held if target is None else {**held, "device": CPU}))
    if target is not None and not on_device(target):
        return made
    given = tensors((args, kwargs))
    same = {id(plain(one)): one for one in given}  # in place, or handed through
    return tree_map_only(Tensor, lambda one: same[id(one)] if id(one) in same else OnCuda(one), made)


def plain(given: Any) -> Any:
    """What is held, by an argument or by the members of a list."""
    if isinstance(given, OnCuda):
        return given.held
    return type(given)(map(plain, given)) if type(given) in (list, tuple) else given


def tensors(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    given = given.values() if isinstance(given, dict) else given
    return [one for some in given for one in tensors(some)] if type(given) in CONTAINERS else []


def check(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raises `RuntimeError` where CUDA does: for tensors on both devices, but for single numbers on the CPU. Also for
    what would not come out twice."""
    name = getattr(func, "__name__", str(func))
    if name.rstrip("_") in IN_ANY_ORDER and args[0].is_floating_point():
        raise RuntimeError(f"{name} has no deterministic implementation on CUDA")
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if func in ACROSS or func in SHAPE_ALONE:
        return
    if func in INDEXING and isinstance(args[0], OnCuda):
        if func is Tensor.__setitem__ and not tensors(args[1]):
            return  # a copy into a part
        args = (args[0], *args[2:])  # indices may lie on the CPU
    if any(one.ndim and not isinstance(one, OnCuda) for one in tensors((args, kwargs))):
        raise RuntimeError(f"Expected all tensors to be on the same device, found cuda:0 and cpu (argument of {name})")


def on_device(target: Any) -> bool:
    return target is not None and torch.device(target).type == "cuda"


def moved(x: Tensor, *args: Any, copy: bool = False, **kwargs: Any) -> Tensor:
    """`x.to(…)`: a copy whenever the device changes."""
    device, dtype, _, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    held, was_there = (x.held, True) if isinstance(x, OnCuda) else (x, False)
    goes_there = was_there if device is None else on_device(device)
    made = held.to(dtype or held.dtype, copy=copy, memory_format=memory_format or torch.preserve_format)
    if made is held and goes_there == was_there:
        return x
    made = made.clone(memory_format=torch.preserve_format) if made is held else made
    return OnCuda(made) if goes_there else made


class Pretending(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in AS_THEY_ARE:
            return func(*args, **kwargs)
        there = any(isinstance(one, OnCuda) for one in tensors((args, kwargs)))
        if func is Tensor.to:
            return moved(*args, **kwargs)
        if func in (Tensor.cuda, Tensor.cpu):
            return moved(args[0], CUDA if func is Tensor.cuda else CPU)
        if func is torch._has_compatible_shallow_copy_type:
            return False  # a module's old parameters and its new ones
        if func in TO_NUMPY and there:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")
        if func is Tensor.new_tensor and there:
            return OnCuda(torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}))
        if there or on_device(kwargs.get("device")):  # before torch looks for a driver
            return computed(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """ "cuda" and "cuda:0" are there, and modules may go to them; also in threads that are started within."""
    before, run = torch.__future__.get_overwrite_module_params_on_conversion(), Thread.run

    def run_pretending(self: Thread) -> None:
        with Pretending():
            run(self)

    torch.__future__.set_overwrite_module_params_on_conversion(True)
    Thread.run = run_pretending  # type: ignore[method-assign]
    try:
        with Pretending():
            yield
    finally:
        Thread.run = run  # type: ignore[method-assign]
        torch.__future__.set_overwrite_module_params_on_conversion(before)
