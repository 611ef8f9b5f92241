"""Packages that only some uses need. They come with an extra, and a missing one is reported in one sentence."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import UserError


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    return find_spec(package) is not None


def require_package(package: str, use: str, *, extra: str) -> None:
    """Raises `UserError` with the install line where `package` is not installed.

    `use` begins the sentence ("an MP4 clip"), `extra` is the one of doppelset that brings the package. Called before
    work starts, so that no work is lost for want of a package.
    """
    if not installed(package):
        raise UserError(
            f"{use} needs the package {package}, which comes with doppelset[{extra}]: "
            f"in a clone of doppel, uv pip install '.[{extra}]' (or uv tool install '.[{extra}]')"
        )
