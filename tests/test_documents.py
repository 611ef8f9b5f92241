"""What the README and docs/ show is true: their blocks load, parse and run, their links lead somewhere."""

import ast
import importlib
import io
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from time import sleep
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from pipeline import __version__
from pipeline.cli import build_parser
from pipeline.config import load_config, validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.operators import OPERATORS
from pipeline.recipes import KINDS, find_recipe
from tests import builders
from tests.test_recipes import BY_KIND

ROOT = Path(__file__).resolve().parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
PAGES += sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").glob("*.md"))
TEXTS = {page: (ROOT / page).read_text() for page in PAGES}
CODE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
README = TEXTS["README.md"]


def blocks(page: str, language: str) -> list[str]:
    return [body for found, body in CODE.findall(TEXTS[page]) if found == language]


def every(language: str) -> Iterator[Any]:
    """The blocks of all pages, each a case of its own."""
    for page in PAGES:
        for number, block in enumerate(blocks(page, language), start=1):
            yield pytest.param(block, id=f"{page}-{number}")


def commands() -> Iterator[str]:
    """What pages tell people to type that begins with `doppel`: lines of shell, and spans of code in sentences."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.splitlines():
                yield from re.findall(r"(?:^|\s)doppel (\S.*)", line.split("#")[0])
        yield from re.findall(r"`doppel ([^`]+)`", CODE.sub("", TEXTS[page]))


def anchors(page: str) -> set[str]:
    """As GitHub makes them of the headings."""
    heads = re.findall(r"^#+ (.+)$", CODE.sub("", (ROOT / page).read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("block", every("yaml"))
def test_recipes_are_valid(block: str, tmp_path: Path) -> None:
    """Each as a file of the kind that it states."""
    file = tmp_path / "recipe.yaml"
    file.write_text(block)
    load_config(BY_KIND[yaml.safe_load(block)["kind"]], str(file))


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_exist(command: str) -> None:
    words = shlex.split(command)
    (subcommands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    assert words[0] in subcommands
    if len(words) > 1 and "…" not in command:
        arguments = build_parser().parse_args(words)
        recipe = getattr(arguments, "recipe", None)
        if (
            recipe and recipe.islower() and not recipe.endswith(".yaml")
        ):  # not a placeholder, not a file of the reader's
            find_recipe(recipe)


def test_kinds_are_told() -> None:
    for kind, (command, _) in KINDS.items():
        assert f"| `{kind}` | `doppel {command}` |" in TEXTS["docs/recipes.md"]


def test_there_are_commands() -> None:
    assert len(set(commands())) > 15


@pytest.mark.parametrize("block", every("python"))
def test_python_compiles_and_finds_its_names(block: str) -> None:
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


def test_the_training_loop_of_the_readme_runs() -> None:
    hook, *_ = blocks("README.md", "python")
    torch.manual_seed(0)  # draws hang on it, and now and then all or none of eight images change
    images = torch.rand(8, 3, 28, 28)
    names: dict[str, Any] = {"loader": [(images, torch.arange(8))]}
    exec(hook, names)
    changed = (names["images"] != images).flatten(1).any(1)
    assert 0 < changed.sum() < 8
    assert len(hook.strip().splitlines()) == 6
    assert hook in TEXTS["docs/augmentation.md"]


def test_the_data_set_of_the_readme_finds_its_neighbours(tmp_path: Path) -> None:
    """With a job that passes images through, and without a key."""
    _, code, _ = blocks("README.md", "python")
    source = builders.shard(tmp_path / "in.tar", 4)
    run_job(make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", None), "test")))
    base = [(Image.open(io.BytesIO(builders.picture(i))), i % builders.CLASSES) for i in (2, 0, 3)]
    names: dict[str, Any] = {"base": base, "augmentations": lambda item: item, "epochs": 2}
    exec(code.replace("/data/flowers-doppel", str(tmp_path / "out")), names)
    assert [item[1] for item in names["dataset"]] == [item[1] for item in base]
    assert names["dataset"].counts["missing"] == 0
    assert len(code.strip().splitlines()) <= 10


def test_the_process_of_the_readme_makes_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One training step's worth of them, before the block ends."""
    *_, code = blocks("README.md", "python")
    monkeypatch.chdir(tmp_path)
    base = [(Image.open(io.BytesIO(builders.picture(i, (28, 28)))), i) for i in range(3)]
    names: dict[str, Any] = {"base": base, "augmentations": lambda item: item, "__name__": "__main__", "sleep": sleep}
    wait = f"{8 * ' '}while not store.status().made: sleep(0.1)\n{8 * ' '}items = [dataset[i] for i in range(3)]\n"
    few = code.replace('"t_boom": 0.4', '"t_boom": 0.4, "steps": 2')
    assert few != code
    exec(few + wait, names)
    assert [label for _, label in names["items"]] == [0, 1, 2]
    assert names["store"].status().made
    assert len(code.strip().splitlines()) <= 10


def test_operators_in_code_run() -> None:
    (code,) = blocks("docs/operators.md", "python")
    names: dict[str, Any] = {"pixels": torch.zeros(2, 3, 28, 28), "labels": torch.tensor([0, 1])}
    exec(code, names)
    assert names["near"].shape == (2, 3, 28, 28)


def test_a_job_from_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("docs/recipes.md", "python")
    monkeypatch.chdir(tmp_path)
    exec(code.replace('"limit=100"', '"limit=8", "operator.steps=1"'), {"__name__": "__main__"})
    assert "8 of 8 samples were written" in capsys.readouterr().out
    assert (tmp_path / "look.png").is_file()


def test_tables_are_those_of_the_evidence() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "evidence_tables.py"))
    results = made["read_results"]()
    marked = [name for text in TEXTS.values() for name in re.findall(r"<!-- evidence (\w+) -->", text)]
    assert sorted(marked) == sorted(made["SECTIONS"])
    assert {ROOT / page for page, text in TEXTS.items() if "<!-- evidence " in text} <= set(made["DOCUMENTS"])
    for page, text in TEXTS.items():
        assert made["with_tables"](text, results) == text, page


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    prose = CODE.sub("", TEXTS[page])
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), target


def test_pictures_are_shown() -> None:
    assert sum(text.count("![") for text in TEXTS.values()) > 20


def named(pattern: str) -> set[tuple[str, str]]:
    return {(page, found) for page, text in TEXTS.items() for found in re.findall(pattern, text)}


def test_files_and_modules_that_are_named_exist() -> None:
    paths = named(r"(?<![\w/.])((?:pipeline|training|scripts|tests|datasets_cfg|docs)/[\w./-]*\w)")
    assert len(paths) > 30
    assert {(page, path) for page, path in paths if "NAME" not in path and not (ROOT / path).exists()} == set()
    modules = named(r"\b((?:pipeline|training)(?:\.[a-z]\w*)+)\b")
    missing = {(page, name) for page, name in modules if not list(ROOT.glob(name.replace(".", "/") + "*"))}
    assert missing == set()


def test_every_operator_is_in_the_table() -> None:
    for name in OPERATORS:
        assert f"| `{name}` |" in TEXTS["docs/operators.md"]


def test_the_tree_is_the_real_one() -> None:
    """All rooms, and the files beside them, in the tree that docs/design.md draws."""
    (drawn,) = (body for _, body in CODE.findall(TEXTS["docs/design.md"]) if body.startswith("pipeline/\n"))
    found, parents = set[str](), list[str]()
    for line in drawn.splitlines():
        match = re.match(r"([│ ├└─]*)([\w.]+/?)", line)
        assert match is not None, line
        parents[len(match[1]) // 4 :] = [match[2]]
        found.add("".join(parents))
    rooms = {
        f"{file.parent.relative_to(ROOT)}/" for top in ("pipeline", "training") for file in (ROOT / top).rglob("*.py")
    }
    files = {f"{top}/{f.name}" for top in ("pipeline", "training") for f in (ROOT / top).glob("*.py")}
    assert found == rooms | {file for file in files if not file.endswith("__init__.py")}


def test_where_things_are_is_where_they_are() -> None:
    rows = re.findall(r"\]\(\.\./(\S+?)\) \| (.*?) \|", TEXTS["docs/design.md"])
    assert len(rows) > 10
    for file, names in rows:
        text = (ROOT / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            pattern = r"[\s\S]*?^    def ".join(name.split("."))
            assert re.search(rf"^(?:def |class |){pattern}\b", text, re.MULTILINE), f"{file}: {name}"


def test_the_citation_and_the_hooks_are_current() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (__version__, "Apache-2.0")
    assert f"## {__version__}\n" in TEXTS["CHANGELOG.md"]
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repo["repo"] for repo in hooks} == {"local"}
    assert all(hook["entry"].startswith("uv run ") for repo in hooks for hook in repo["hooks"])


@pytest.mark.parametrize("page", PAGES)
def test_nobody_is_told_to_install_a_strangers_package(page: str) -> None:
    assert not re.search(r"install\s+['\"]?doppel\b(?!set)", TEXTS[page])
