"""The core runs without the packages of the extras; a missing one is one sentence with the line that installs it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.anonymity.faces import weights
from pipeline.cli import main
from tests import builders

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES = {"dlib-bin": "dlib"}
"""Packages that are imported under another name."""


def packages(requirements: list[Any]) -> set[str]:
    """By the names they are imported under."""
    names = {re.split(r"[\[<>=; ]", requirement)[0] for requirement in requirements}
    return {MODULES.get(name, name) for name in names}


EXTRAS = {name: packages(required) for name, required in PROJECT["project"]["optional-dependencies"].items()}
OPTIONAL = set().union(*EXTRAS.values()) - {"doppelset"}
FILES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "training").rglob("*.py")])


def asked_for() -> Iterator[tuple[str, str]]:
    """Package and extra of every call of `require_package`."""
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require_package":
                (extra,) = (ast.literal_eval(word.value) for word in node.keywords if word.arg == "extra")
                package = node.args[0]
                yield ast.literal_eval(package) if isinstance(package, ast.Constant) else weights.PACKAGE, extra


def test_every_extra_brings_what_is_asked_for() -> None:
    found = set(asked_for())
    assert {extra for _, extra in found} == set(EXTRAS) - {"all"}
    for package, extra in found:
        assert package in EXTRAS[extra]


def test_extras_and_the_base_are_apart_and_all_is_all() -> None:
    assert not OPTIONAL & packages(PROJECT["project"]["dependencies"])
    bound = {"torch", "torchvision", "diffusers", "datasets", "deepface", "scipy", "webdataset", "pillow"}
    assert bound <= packages(PROJECT["project"]["dependencies"])
    (everything,) = PROJECT["project"]["optional-dependencies"]["all"]
    assert everything == f"doppelset[{','.join(sorted(set(EXTRAS) - {'all'}))}]"
    developers = next(line for line in PROJECT["dependency-groups"]["dev"] if line.startswith("doppelset["))
    assert developers == f"doppelset[{','.join(sorted(set(EXTRAS) - {'all'}))}]"


def test_what_is_optional_is_imported_where_it_is_used() -> None:
    for file in FILES:
        at_once = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
        names |= {str(node.module) for node in at_once if isinstance(node, ast.ImportFrom)}
        assert not {name.partition(".")[0] for name in names} & OPTIONAL, file


def test_no_text_installs_the_other_doppel() -> None:
    """On the public index `doppel` is somebody else's package."""
    texts = [*FILES, *(ROOT / "scripts").rglob("*.py"), *ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    texts += [*(ROOT / "scripts").rglob("*.md"), *(ROOT / "datasets_cfg").rglob("*.yaml")]
    command = re.compile(r"(pip3? install|uv add|uv tool \w+|uvx|pipx \w+) (-\S+ )*['\"]?doppel\b")
    assert command.search("pip install -U 'doppel[faces]'")
    for file in texts:
        assert not command.search(file.read_text()), file


def test_a_job_and_its_dry_run_need_no_extra(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}))\n"
        "from pipeline.cli import main\n"
        "quick = ['--limit', '4', '--set', 'operator.steps=1', '--set', 'model.batch_size=4']\n"
        "assert main(['run', 'demo', *quick, '--dry-run']) == 0\n"
        f"sys.exit(main(['run', 'demo', *quick, '--set', 'output.path={tmp_path / 'out'}']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "4 images from 4 samples" in done.stdout, done.stderr


def recipe(folder: Path, model: Path | None, **changes: Any) -> list[str]:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(builders.recipe(folder / "in.tar", folder / "out", model, **changes)))
    return ["run", str(file)]


def clips(folder: Path) -> list[str]:
    """A job on a tar with a clip in MP4, which is never decoded."""
    builders.tar(folder / "in.tar", [("0000.mp4", b"no clip")])
    return recipe(folder, None, video={})


def bucket(folder: Path) -> list[str]:
    """A job in a bucket that nobody looks for."""
    builders.shard(folder / "in.tar", 1)
    return recipe(folder, None, **{"output.path": "s3://bucket/job"})


CASES: dict[str, tuple[str, str, Callable[[Path], list[str]]]] = {
    "av": ("video", "an MP4 clip", clips),
    "peft": ("lora", "model.lora", lambda at: recipe(at, at / "none", **{"model.lora": [{"path": "x"}]})),
    "accelerate": ("train", "training a denoiser", lambda at: ["train-denoiser", "train_fashion_mnist"]),
    "accelerate to offload": ("train", "model.offload", lambda at: recipe(at, at, **{"model.offload": "model"})),
    "matplotlib": ("train", "the loss curve of a", lambda at: ["train-denoiser", "train_fashion_mnist"]),
    "matplotlib to compare": ("plots", "the report of a", lambda at: ["compare", "compare_fashion_small"]),
    "matplotlib to calibrate": ("plots", "the curve of a", lambda at: ["calibrate", "locality_fashion"]),
    "matplotlib for faces": ("plots", "the picture of a", lambda at: ["calibrate-faces", "calibrate_lfw"]),
    "matplotlib to audit": ("plots", "the report of an audit", lambda at: ["audit", "a.tar", str(at)]),
    "timm": (
        "timm",
        "classifier timm:a",
        lambda at: ["compare", "compare_fashion_small", "--set", "classifier=timm:a"],
    ),
    "s3fs": ("s3", "s3://bucket/job", bucket),
    "cryptography to make a key": ("faces", "the signature of a release", lambda at: ["new-key", str(at / "key")]),
    "cryptography to verify": (
        "faces",
        "the signature of a release",
        lambda at: ["verify", str(at), "--key", str(at / "key.pub")],
    ),
    "ray": (
        "ray",
        "--engine ray",
        lambda at: ["run", "demo", "--engine", "ray", "--workers", "1"],
    ),
    "dlib": ("faces", "recogniser Dlib", lambda at: ["calibrate-faces", "calibrate_lfw"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_missing_package_is_one_sentence(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra, use, arguments = CASES[case]
    package = case.partition(" ")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(arguments(tmp_path)) == 2
    (sentence,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("doppel:")]
    assert sentence.startswith(f"doppel: {use}")
    assert f"needs the package {package}, which comes with doppelset[{extra}]" in sentence
    assert f"in a clone of doppel, uv pip install '.[{extra}]' (or uv tool install '.[{extra}]')" in sentence
    assert not (tmp_path / "out" / "data").exists() or not any((tmp_path / "out" / "data").iterdir())
