"""What is hashed is what decides the bytes: derived from imports, blind to prose."""

import ast
import io
import shutil
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.job.hashes import MAKING, VERIFYING
from pipeline.source_code import ROOT, code, code_hash, files_of

FILES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "training").rglob("*.py")])


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources, to be changed."""
    root = tmp_path_factory.mktemp("sources")
    for package in ("pipeline", "training"):
        shutil.copytree(ROOT / package, root / package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    (root / "pipeline" / "assets").mkdir()
    shutil.copy(ROOT / "pipeline" / "assets" / "__init__.py", root / "pipeline" / "assets")
    return root


Changed = Callable[[str, Callable[[str], str]], bool]


@pytest.fixture(scope="module")
def changed(copy: Path) -> Changed:
    """`changed(file, change)`: whether a change of `file` changes the hash of a job."""
    before = code_hash.__wrapped__(*MAKING, root=copy)

    def differs(file: str, change: Callable[[str], str]) -> bool:
        path = copy / file
        text = path.read_text()
        path.write_text(change(text))
        after = code_hash.__wrapped__(*MAKING, root=copy)
        path.write_text(text)
        return before != after

    return differs


def more(text: str) -> str:
    return text + "\nmore = 1\n"


@pytest.mark.parametrize(
    "file",
    [
        "diffusion/solvers.py", "diffusion/noise.py", "diffusion/levels.py", "operators/boomerang.py",
        "operators/on_cascades.py", "models/pixel.py", "models/codec.py", "media/pixels.py", "media/strokes.py",
        "job/captions.py", "job/extras.py", "engine/encoding.py", "engine/windows.py", "streams/tarstream.py",
        "streams/shards.py",
    ],
)  # fmt: skip
def test_what_decides_the_bytes_refuses_a_resume(changed: Changed, file: str) -> None:
    assert changed(f"pipeline/{file}", more)


@pytest.mark.parametrize(
    "file",
    [
        "cli.py", "__init__.py", "config.py", "recipes.py", "report/sheet.py", "report/progress.py",
        "commands/preview.py", "commands/demo.py",
        "hooks/augment.py", "audit/examining.py", "release/card.py", "engine/running.py", "streams/ledger.py",
        "anonymity/gate/gate.py", "job/config.py", "engine/planning.py",
    ],
)  # fmt: skip
def test_what_does_not_leaves_it_alone(changed: Changed, file: str) -> None:
    assert not changed(f"pipeline/{file}", more)


def test_prose_leaves_it_alone_everywhere(changed: Changed) -> None:
    def retold(text: str) -> str:
        return f'# why\n\n{text}\n"""What."""\n'

    assert not changed("pipeline/diffusion/solvers.py", retold)


def test_a_gate_hangs_on_what_judges() -> None:
    names = {str(file.relative_to(ROOT / "pipeline")) for file in files_of(*MAKING, *VERIFYING)}
    assert {"anonymity/gate/gate.py", "anonymity/faces/dlib_net.py", "engine/ladder.py"} <= names
    assert not {name for name in names if name.split("/")[0] in ("report", "commands", "hooks", "audit", "release")}


def test_prose_goes_and_code_stays() -> None:
    """By an independent reader: Python's parser says where texts stand alone, and every other token is kept."""
    for file in FILES:
        source = file.read_text()
        alone = {
            (node.lineno, node.col_offset)
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        }
        kept = [token.string for token in tokens(source) if token.start not in alone]
        assert [token.string for token in tokens(code(source))] == kept, file


def tokens(source: str) -> list[tokenize.TokenInfo]:
    layout = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT)
    return [token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in layout]


@pytest.mark.parametrize("line", ["f(  # why\n    'a'  # b\n)", "x = (\n    # why\n    'a'\n)", "x = 'a'  # why"])
def test_a_text_that_is_used_is_no_prose(line: str) -> None:
    assert "'a'" in code(line)


def test_an_unknown_module() -> None:
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        files_of("nowhere.else")
