"""doppel runs on Linux and macOS. On Windows its modules can be imported, and what cannot work says one sentence."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.posix import lock, require_posix

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "training").rglob("*.py")])
MODULES = {"fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
"""Modules of Python that Windows does not have."""
NAMES = {
    "os": "O_NOFOLLOW O_CLOEXEC O_DIRECTORY WNOHANG fchmod fork geteuid getuid killpg register_at_fork "
    "sched_getaffinity statvfs",
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGUSR1 SIGUSR2 SIG_BLOCK pthread_sigmask setitimer",
}
"""What its `os` and `signal` lack."""
WINDOWS = f"""
import asyncio, os, signal, subprocess, sys, numpy
sys.modules.update(dict.fromkeys({sorted(MODULES)}))
for module, names in {NAMES!r}.items():
    for name in names.split():
        if hasattr(sys.modules[module], name):
            delattr(sys.modules[module], name)
import pipeline, pipeline.orphans, pipeline.streams.ledger, pipeline.hooks.live.slots
from pipeline.cli import main
sys.exit(main(["recipes"]))
"""
"""The command where these are missing; the standard library holds on to what it needs of them."""


def at_import(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: everything but the insides of functions, and of the main guard."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        yield node
        yield from at_import(node)


def of_posix(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(alias.name in MODULES for alias in names)
        case ast.ImportFrom(module=str(module), names=names):
            return module in MODULES or any(alias.name in NAMES.get(module, "").split() for alias in names)
        case ast.Attribute(value=ast.Name(id=module), attr=name):
            return name in NAMES.get(module, "").split()
    return False


def test_no_module_needs_posix_to_be_imported() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {ast.unparse(node)}"
        for file in FILES for node in at_import(ast.parse(file.read_text())) if of_posix(node)
    ]  # fmt: skip
    assert not found
    assert of_posix(ast.parse("signal.SIGHUP", mode="eval").body)


def test_the_command_says_one_sentence_where_posix_is_missing() -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr == (
        "doppel: doppel runs on Linux and macOS, with their locks of files and their signals; on Windows, install it "
        "in the Windows Subsystem for Linux (wsl --install)\n"
    )


def test_what_needs_locks_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as first, open(tmp_path / "lock", "w") as second:
        require_posix("doppel")
        assert (lock(first), lock(second)) == (True, False)
        monkeypatch.setitem(sys.modules, "fcntl", None)
        with pytest.raises(UserError, match=r"^a store .* runs on Linux and macOS"):
            require_posix("a store that is filled meanwhile")
        with pytest.raises(UserError, match="Windows"):
            lock(first)
