"""A script that starts a process needs a main guard: the new process runs the script once more, to know its names."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType, ModuleType

from pipeline.errors import UserError


def check_main_guard(what: str) -> None:
    """Raises `UserError` where the running script would start `what` again when its process imports it."""
    if (where := unguarded()) is not None:
        raise UserError(
            f"{where}: {what} starts a process, which runs this script once more; put the lines that start it under "
            'if __name__ == "__main__":'
        )


def unguarded() -> str | None:
    """The file and the line of the running script that a new process would run once more; None where there is none."""
    main = sys.modules["__main__"]
    line = running_line(main)
    if line is None or is_guarded(source := Path(str(main.__file__)), line):
        return None
    return f"{source}, line {line}"


def running_line(main: ModuleType) -> int | None:
    """The line of the main module that is running; None where a new process would not run that module again."""
    spec = main.__spec__
    if getattr(main, "__file__", None) is None or (spec is not None and spec.name.endswith("__main__")):
        return None
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals is main.__dict__ and frame.f_code.co_name == "<module>":
            return frame.f_lineno
        frame = frame.f_back
    return None


def is_guarded(source: Path, line: int) -> bool:
    """Whether a line of a script lies under an `if` that asks for `__name__`; so it is said of what is no Python."""
    try:
        tree = ast.parse(source.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return True
    guards = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and any(isinstance(part, ast.Name) and part.id == "__name__" for part in ast.walk(node.test))
    )
    return any(guard.lineno <= line <= (guard.end_lineno or line) for guard in guards)
