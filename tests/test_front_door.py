"""What Python users import, what the wheel holds, and a working folder with packages of the same names."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import pipeline
from pipeline import UserError, load_model, preview, run
from pipeline.cli import main
from pipeline.streams.ledger import Ledger
from tests import builders
from tests.anonymity.portraits import needs_dlib

ROOT = Path(pipeline.__file__).parents[1]
COMMAND = "import sys\nfrom pipeline.cli import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
"""What an installer writes for the command."""


def test_a_dozen_names_at_most() -> None:
    assert len(pipeline.__all__) <= 12
    assert set(pipeline.__all__) <= set(dir(pipeline))
    for name, home in pipeline.HOMES.items():
        assert getattr(pipeline, name) is getattr(import_module(home), name), name
    assert {*pipeline.HOMES, "__version__"} == set(pipeline.__all__)
    with pytest.raises(AttributeError, match="no attribute 'GenerativeAugments'"):
        pipeline.GenerativeAugments  # noqa: B018


def test_types_and_names_are_the_same() -> None:
    """What a type checker is told is what `__getattr__` gives."""
    (told,) = (
        node
        for node in ast.parse(Path(pipeline.__file__).read_text()).body
        if ast.unparse(node).startswith("if TYPE_CHECKING")
    )
    imports = {alias.name: line.module for line in told.body for alias in line.names}
    assert imports == pipeline.HOMES
    assert all((ROOT / package / "py.typed").is_file() for package in ("pipeline", "training"))


def test_importing_it_costs_nothing() -> None:
    code = "import sys; before = set(sys.modules); import pipeline; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert loaded - sys.stdlib_module_names == {"pipeline"}


FIRST_LINES = """
import os, sys

class Printed:
    # notes which libraries are there whenever something is printed, and ends with the recipe
    def write(self, text):
        heavy = "torch", "diffusers", "transformers", "torchvision", "scipy", "datasets"
        there = [name for name in heavy if name in sys.modules]
        if text.strip():
            os.write(1, f"{text.splitlines()[0]} {there}\\n".encode())
        if "operator:" in text:
            os._exit(0)
    def flush(self):
        pass

sys.stdout = Printed()
from pipeline.cli import main
main(["run", "demo", "--dry-run"])
"""


def test_a_dry_run_prints_what_it_knows_before_it_loads_more() -> None:
    """The file before torch, which takes seconds of CPU, and the resolved recipe before diffusers, which takes more."""
    done = subprocess.run([sys.executable, "-c", FIRST_LINES], cwd=ROOT, capture_output=True, text=True, check=False)
    file, resolved = done.stdout.splitlines()
    assert file.startswith("# ")
    assert file.endswith("demo.yaml []")
    assert resolved.endswith(" ['torch']")


def recipe_file(folder: Path, out: str, model: Path | None, **changes: object) -> Path:
    file = folder / f"{out}.yaml"
    source = builders.shard(folder / "in-0.tar", 3).parent / "in-*.tar"
    file.write_text(yaml.safe_dump(builders.recipe(source, folder / out, model, **changes)))
    return file


def test_run_does_what_the_command_does(tmp_path: Path, model: Path) -> None:
    file = recipe_file(tmp_path, "by_command", model)
    assert main(["run", str(file), "--limit", "2"]) == 0
    out, seen = tmp_path / "by_python", []
    manifest = run(file, overrides=["limit=2", f"output.path={out}"], observe=seen.append)
    assert builders.tree(out, "data") == builders.tree(tmp_path / "by_command", "data") != {}
    assert manifest == Ledger(out).manifest()
    assert manifest.counts.images == 2
    assert seen
    with pytest.raises(UserError, match="by_python"):
        run(file, overrides=[f"output.path={out}", "operator.t_boom=.2"])
    assert run(file, overrides=[f"output.path={out}", "operator.t_boom=.2"], on_change="overwrite").counts.read == 3


def test_preview_draws_what_the_command_draws(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = recipe_file(tmp_path, "out", model)
    assert main(["preview", str(file), "-n", "2", "-o", str(tmp_path / "one.png")]) == 0
    assert preview(file, count=2, sheet=tmp_path / "two.png") == []
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with pytest.raises(UserError, match="0 samples cannot be shown"):
        preview(file, count=0)


def test_a_model_by_its_path(model: Path) -> None:
    assert load_model(str(model)).classes == builders.CLASSES


def test_the_wheel_holds_every_module_recipe_and_asset(tmp_path: Path) -> None:
    if (uv := shutil.which("uv")) is None:
        pytest.skip("uv is not installed")
    subprocess.run([uv, "build", "-q", "--offline", "--wheel", "-o", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("doppelset-*.whl")
    files = {
        str(file.relative_to(ROOT))
        for folder in ("pipeline", "training", "datasets_cfg")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == files
    assert any(name.startswith("datasets_cfg/") for name in held)


# A working folder with packages of the same names


@pytest.fixture
def others(tmp_path: Path) -> Path:
    """A folder with another `pipeline` and `training`, each as a module and as a package, that end who imports them."""
    for name in ("pipeline", "training"):
        for file in (tmp_path / "theirs" / f"{name}.py", tmp_path / "theirs" / name / "__init__.py"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"raise SystemExit('{file.name} of somebody else was imported')\n")
    return tmp_path / "theirs"


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As if doppel was installed, in a working folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def script(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "doppel").write_text(text)
    return str(folder / "doppel")


def test_the_command_and_its_processes_find_doppel_s_own(others: Path, tmp_path: Path) -> None:
    builders.shard(tmp_path / "in-1.tar", 2, first=3)
    recipe = recipe_file(tmp_path, "out", None, **{"run.devices": ["cpu", "cpu"]})
    done = python(others, script(tmp_path / "bin", COMMAND), "run", str(recipe))
    assert "5 images from 5 samples in 2 of 2 shards" in done.stdout, done.stderr


@needs_dlib
def test_the_processes_of_the_gate_find_doppel_s_own(others: Path, tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "from pipeline.anonymity.faces.processes import ModelProcesses\n"
        "print(ModelProcesses('detector', 'dlib', workers=1).map([np.zeros((64, 64, 3), np.uint8)]))\n"
    )
    done = python(others, script(tmp_path / "bin", code))
    assert done.stdout == "[[]]\n", done.stderr


@pytest.mark.parametrize("theirs", ["training.py", "training/__init__.py"])
@pytest.mark.parametrize("command", ["train-denoiser", "compare", "calibrate", "filter"])
def test_another_training_is_one_sentence(command: str, theirs: str, tmp_path: Path) -> None:
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("")
    done = python(tmp_path, "-m", "pipeline.cli", command, "no_recipe")
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert f"doppel's package training is needed; found was {tmp_path / theirs}: rename that one" in sentence


def test_a_folder_that_is_no_package_gives_way(tmp_path: Path) -> None:
    (tmp_path / "training").mkdir()
    assert "'no_recipe' is neither a file" in python(tmp_path, "-m", "pipeline.cli", "compare", "no_recipe").stderr


def test_another_pipeline_is_one_sentence_where_training_is_ours(tmp_path: Path) -> None:
    (tmp_path / "pipeline.py").write_text("")
    done = python(tmp_path, "-c", "import training.metrics")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: doppel's package training needs doppel's package pipeline; found was")
    assert str(tmp_path / "pipeline.py") in last
