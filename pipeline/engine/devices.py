"""The devices that a job runs on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.errors import UserError


def resolve_devices(names: Sequence[str]) -> tuple[str, ...]:
    """Replaces `auto` by every CUDA device, or by the CPU where there is none.

    Raises `UserError` for a device not there.
    """
    found: list[str] = []
    for name in names:
        if name == "auto":
            count = torch.cuda.device_count()
            found += [f"cuda:{i}" for i in range(count)] or ["cpu"]
            continue
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            why = str(error).splitlines()[0]
            raise UserError(f"run.devices: {name!r} is not available here ({why})") from None
        found.append(name)
    return tuple(found)
