"""Imports point one way, heavy libraries wait until they are needed, and nothing loads a pickle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "assets": set(),
    "records": set(),
    "masks": set(),
    "strokes": {"records"},
    "pixels": {"masks", "records"},
    "extras": {"errors", "masks", "pixels", "records", "strokes"},
    "noise": set(),
    "orphans": set(),
    "exactness": set(),
    "anonymity": {"anonymity", "assets", "diffusion", "errors", "exactness", "records", "pixels"},
    "scanning": {"anonymity", "errors", "pixels", "records", "streams"},
    "calibrate_faces": {"anonymity", "errors", "pixels", "records", "scanning", "streams"},
    "release": {"anonymity", "errors", "identity", "pixels", "records", "release", "streams"},
    "verifying": {"anonymity", "errors", "identity", "job", "models.families", "scanning"},
    "ladder": {"anonymity", "job", "memory", "records", "transforming", "verifying"},
    "audit": {
        "anonymity",
        "audit",
        "diffusion",
        "errors",
        "models",
        "noise",
        "operators",
        "pixels",
        "records",
        "release",
        "report",
        "scanning",
        "streams",
    },
    "exporting": {"anonymity", "audit", "engines", "job", "pixels", "release", "scanning", "streams", "verifying"},
    "prefetch": set(),
    "config": {"errors"},
    "diffusion": {"diffusion"},
    "operators": {"diffusion", "edit_scores", "errors", "noise", "operators.contract", "operators.conditions"},
    "edit_scores": set(),
    "instructions": {"config", "errors", "extras"},
    "clips": {"pixels", "records"},
    "frames": {"pixels", "records"},
    "cascade": {"diffusion", "errors", "models", "noise", "operators"},
    "models": {"diffusion", "errors", "assets", "models"},
    "streams": {"records", "errors", "assets", "streams"},
    "report": {"diffusion.regions", "errors", "records"},
    "identity": {"errors", "job"},  # of job only the types
    "job": {
        "anonymity.config",
        "cascade",
        "diffusion.model",
        "errors",
        "extras",
        "frames",
        "identity",
        "models",
        "operators",
        "pixels",
        "release",
        "streams",
    },
    "reading": {
        "clips",
        "diffusion.model",
        "errors",
        "extras",
        "frames",
        "job",
        "models",
        "pixels",
        "records",
        "streams",
    },
    "memory": {"errors"},
    "edits": {"extras", "instructions", "records", "streams"},
    "transforming": {
        "cascade",
        "diffusion",
        "exactness",
        "frames",
        "job",
        "memory",
        "models",
        "noise",
        "operators",
        "pixels",
        "records",
    },
    "run": {
        "anonymity.judged",
        "clips",
        "errors",
        "frames",
        "job",
        "ladder",
        "models.families",
        "pixels",
        "prefetch",
        "reading",
        "records",
        "report.flicker",
        "streams",
        "transforming",
    },
    "hooks": {
        "assets",
        "cascade",
        "diffusion.model",
        "errors",
        "exactness",
        "frames",
        "hooks",
        "identity",
        "job",
        "memory",
        "models",
        "noise",
        "operators",
        "orphans",
        "pixels",
        "records",
        "streams",
    },
    "engines": {"errors", "identity", "job", "memory", "orphans", "run", "streams", "transforming", "verifying"},
    "estimate": {"config", "engines", "job", "memory", "reading", "transforming"},
    "preview": {"config", "engines", "errors", "job", "memory", "reading", "records", "report", "transforming"},
    "demo": {"config", "diffusion", "job", "models", "noise", "operators", "pixels", "records", "report", "streams"},
    "cli": {
        "audit",
        "calibrate_faces",
        "verifying",
        "errors",
        "exporting",
        "identity",
        "pixels",
        "config",
        "job",
        "estimate",
        "demo",
        "edits",
        "preview",
        "engines",
        "report",
        "run",
        "streams",
        "training",
    },
}
"""Who may import whom inside `pipeline`, by the first folder or file name."""


def imported(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


FILES = sorted((ROOT / "pipeline").rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    parts = file.relative_to(ROOT / "pipeline").with_suffix("").parts
    if parts == ("__init__",):
        return
    own = parts[0]
    registry = own == "operators" and parts[1] == "__init__"  # the one place that knows all operators
    for name in imported(file):
        top, _, rest = name.partition(".")
        if top in ("scripts", "tests"):
            pytest.fail(f"{file} imports {name}")
        if top == "training":
            assert own == "cli", f"{file} imports {name}"
        if top != "pipeline" or not rest:
            continue
        allowed = ALLOWED[own] | ({"operators"} if registry else set())
        assert any(rest == a or rest.startswith(a + ".") for a in allowed), f"{file} imports {name}"


@pytest.mark.parametrize("file", sorted((ROOT / "training").glob("*.py")), ids=lambda f: f.name)
def test_training_leaves_the_command_alone(file: Path) -> None:
    assert not {"pipeline.cli", "pipeline.demo", "pipeline.engines.local"} & imported(file)


@pytest.mark.parametrize("folder", ["diffusion", "operators"])
def test_only_models_know_diffusers(folder: str) -> None:
    for file in (ROOT / "pipeline" / folder).glob("*.py"):
        assert not any(name.split(".")[0] in ("diffusers", "transformers") for name in imported(file)), file


def test_streams_and_the_command_start_without_heavy_libraries() -> None:
    heavy = "('torch', 'diffusers', 'datasets', 'pyarrow', 'deepface', 'matplotlib')"
    code = f"import sys, pipeline.streams, pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    for file in [*FILES, *(ROOT / "training").glob("*.py")]:
        assert not {"pickle", "dill", "joblib"} & imported(file), file
        text = file.read_text()
        for forbidden in ("torch.load(", "allow_pickle=True", "trust_remote_code=True", "eval(", "exec("):
            assert forbidden not in text.replace(".eval()", ""), f"{file}: {forbidden}"
