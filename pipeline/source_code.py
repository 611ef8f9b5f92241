"""The source files that a result depends on, derived from their imports, and a hash of their code.

A result depends on the module that makes it and on all that this imports. So a sentence corrected in a report leaves a
half-done job alone, and a changed solver does not. Comments, docstrings and blank lines don't count.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the packages `pipeline` and `training`."""
STARTS = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
"""Tokens after which a statement begins."""


@cache
def code_hash(*modules: str, root: Path = ROOT) -> str:
    """sha256, in hexadecimal, over the code of `modules` and of all our modules that they import, directly or not."""
    digest = hashlib.sha256()
    for file in files_of(*modules, root=root):
        digest.update(str(file.relative_to(root)).encode() + b"\0" + code(file.read_text()).encode() + b"\0")
    return digest.hexdigest()


def files_of(*modules: str, root: Path = ROOT) -> list[Path]:
    """The files of `modules` and of all our modules that they import, in functions too, sorted.

    What is imported for annotations only (`if TYPE_CHECKING:`) does not count, and neither do the front doors
    `pipeline` and `training`. Raises `ModuleNotFoundError` for a module that is not there.
    """
    doors = {root / "pipeline" / "__init__.py", root / "training" / "__init__.py"}
    found, left = set[Path](), list(modules)
    while left:
        file = file_of(left.pop(), root)
        if file not in found | doors:
            found.add(file)
            left += ours(file.read_text())
    return sorted(found)


@cache
def ours(source: str) -> tuple[str, ...]:
    """Which of our modules a source imports. No text is taken apart twice in a process: hashes share most files."""
    return tuple(name for name in imported(ast.parse(source)) if name.startswith(("pipeline", "training")))


def imported(node: ast.AST) -> Iterator[str]:
    """Yields what is imported below `node`, as `module` or `module.name`."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module, names):
                yield from (f"{module}.{alias.name}" for alias in names)
            case ast.If(ast.Name("TYPE_CHECKING"), _, other):
                for statement in other:
                    yield from imported(statement)
            case _:
                yield from imported(child)


def file_of(name: str, root: Path) -> Path:
    """The file of module `name`, or of the module that defines `name`. Raises `ModuleNotFoundError`."""
    for path in (root.joinpath(*name.split(".")), root.joinpath(*name.split(".")[:-1])):
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file
    raise ModuleNotFoundError(name)


@cache
def code(source: str) -> str:
    """The source without comments, docstrings and blank lines."""
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type != tokenize.NL]
    prose = [token for token in tokens if token.type == tokenize.COMMENT]
    tokens = [token for token in tokens if token.type != tokenize.COMMENT]
    before = [tokenize.NEWLINE, *(token.type for token in tokens)]
    for i, token in enumerate(tokens):
        if token.type == tokenize.STRING and before[i] in STARTS and tokens[i + 1].type == tokenize.NEWLINE:
            prose.append(token)
    lines = source.splitlines()
    inside = {row for token in tokens for row in range(token.start[0], token.end[0])}  # of a text over several lines
    for token in sorted(prose, key=lambda token: token.start, reverse=True):
        (first, start), (last, end) = token.start, token.end
        rest = lines[last - 1][end:]
        lines[first - 1 : last] = [lines[first - 1][:start] + rest] + [""] * (last - first)
        inside -= set(range(first, last))
    kept = [i for i, line in enumerate(lines) if line.strip() or i in inside]
    return "\n".join(lines[i] if i in inside or i + 1 in inside else lines[i].rstrip() for i in kept)
