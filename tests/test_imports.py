"""The house: imports point down only, no permission is left over, heavy libraries wait, and nothing loads a pickle."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "pipeline").rglob("*.py"), *(ROOT / "training").rglob("*.py")])
ORDER = [
    "errors",
    "posix",
    "main_guard orphans source_code section assets optional listing plain_json plain_yaml stopping tensors",
    "recipes",
    "config",
    "identity",
    "media",
    "diffusion.views",
    "diffusion",
    "diffusion.tiles",
    "streams report",
    "geometry",
    "models",
    "operators",
    "anonymity.faces anonymity.bound",
    "anonymity.gate anonymity.attacks",
    "anonymity.guidance",
    "release",
    "job audit",
    "engine",
    "hooks commands",
    "hooks.live",
    "training.data",
    "training.classifier training.metrics",
    "training.denoiser training.compare training.calibrate",
    "training.filter",
    "cli",
]
"""Rooms from the ground up; rooms of one floor do not know each other."""
ALLOWED: dict[str, str] = {
    "errors": "",
    "orphans": "posix",
    "posix": "errors",
    "main_guard": "errors",
    "source_code": "",
    "section": "errors",
    "assets": "",
    "stopping": "posix",
    "tensors": "errors",
    "plain_json": "errors",
    "plain_yaml": "errors",
    "recipes": "errors listing plain_yaml",
    "optional": "errors",
    "listing": "errors",
    "config": "errors section recipes",
    "identity": "errors",
    "media": "errors section optional plain_json",
    "diffusion.views": "section",
    "diffusion": "section diffusion.views",
    "diffusion.tiles": "section media diffusion",
    "streams": "errors posix identity section assets optional listing plain_json media",
    "report": "errors media diffusion.tiles",
    "geometry": "section media streams",
    "models": "errors section assets optional listing plain_json tensors diffusion.views diffusion",
    "operators": "errors section media diffusion.views diffusion diffusion.tiles models",
    "anonymity.faces": "errors source_code section assets optional media diffusion streams",
    "anonymity.bound": "section",
    "anonymity.gate": "errors section assets media diffusion streams geometry anonymity.faces",
    "anonymity.attacks": "section media diffusion anonymity.faces",
    "anonymity.guidance": "errors diffusion anonymity.faces anonymity.gate",
    "release": "errors source_code section optional listing identity media streams anonymity.faces anonymity.bound",
    "job": (
        "errors source_code section identity media diffusion streams geometry models operators anonymity.gate release"
    ),
    "audit": (
        "errors section optional listing identity media diffusion streams report models operators anonymity.faces "
        "anonymity.bound anonymity.gate anonymity.attacks release"
    ),
    "engine": (
        "errors posix optional main_guard orphans identity plain_json media diffusion streams report geometry models "
        "operators anonymity.faces anonymity.gate anonymity.guidance anonymity.bound job"
    ),
    "hooks": "errors section plain_json identity media diffusion streams models operators job engine",
    "commands": (
        "errors section optional listing config media diffusion streams report models operators anonymity.faces "
        "anonymity.gate anonymity.bound release job audit engine"
    ),
    "hooks.live": (
        "errors posix main_guard orphans source_code section plain_json identity media diffusion streams models "
        "operators job hooks"
    ),
    "training.data": "errors source_code plain_json tensors media streams models job",
    "training.classifier": "errors section optional tensors report",
    "training.metrics": "",
    "training.denoiser": (
        "errors section optional plain_json tensors media diffusion streams report models training.data"
    ),
    "training.compare": (
        "errors orphans source_code section plain_json tensors identity media diffusion streams report models "
        "operators job hooks "
        "training.data training.classifier"
    ),
    "training.calibrate": (
        "errors section assets optional identity media diffusion streams report models operators job "
        "anonymity.faces hooks training.data training.classifier"
    ),
    "training.filter": "errors section media streams report hooks training.data training.classifier training.calibrate",
    "cli": (
        "errors posix stopping recipes section optional config identity streams report release job audit engine "
        "commands training.denoiser training.compare training.calibrate training.filter"
    ),
}
"""Who imports whom; floors and circles are checked apart."""


def room(module: str) -> str:
    """`pipeline.anonymity.faces.table` → `anonymity.faces`; the doors of the packages have no name."""
    parts = module.split(".")
    inside = [part for i, part in enumerate(parts) if i == 0 or (ROOT / Path(*parts[: i + 1])).is_dir()]
    name = ".".join(inside if len(inside) > 1 else parts[:2])
    return name.removeprefix("pipeline").removeprefix(".")


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(file): file for file in FILES}


def imported(file: Path) -> set[str]:
    """The names of all modules that a file imports, in functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            whole = f"{node.module}."
            names |= {whole + alias.name if whole + alias.name in MODULES else str(node.module) for alias in node.names}
    return names


IMPORTS = {module: imported(file) for module, file in MODULES.items()}
OURS = {module: {name for name in names if name in MODULES} for module, names in IMPORTS.items()}


def is_door(file: Path) -> bool:
    """A package without anything but its docstring."""
    return file.name == "__init__.py" and len(ast.parse(file.read_text()).body) == 1


def between_rooms() -> dict[str, set[str]]:
    """What the front doors (`pipeline`, `training`) re-export does not count."""
    found: dict[str, set[str]] = {}
    for module, names in OURS.items():
        if room(module) not in ("", "training") and not is_door(MODULES[module]):
            others = {room(name) for name in names} - {room(module), "", "training"}
            found[room(module)] = found.get(room(module), set()) | others
    return found


def test_every_module_has_a_room() -> None:
    named = {name for floor in ORDER for name in floor.split()}
    assert set(between_rooms()) == named == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_a_room_imports_what_it_may_and_needs_all_that_it_may(name: str) -> None:
    assert sorted(between_rooms()[name]) == sorted(ALLOWED[name].split())


def test_imports_point_down_only() -> None:
    floor = {name: i for i, names in enumerate(ORDER) for name in names.split()}
    for name, others in ALLOWED.items():
        for other in others.split():
            assert floor[other] < floor[name], f"{name} imports {other}"


def test_no_module_imports_itself_over_others() -> None:
    graph = {module: names - {module} for module, names in OURS.items() if room(module) != ""}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" ← ".join(error.args[1]))


def test_nobody_imports_tests_or_scripts() -> None:
    for module, names in IMPORTS.items():
        assert not {name.split(".")[0] for name in names} & {"tests", "scripts"}, module


def test_only_models_and_training_know_diffusers() -> None:
    for module, names in IMPORTS.items():
        if any(name.split(".")[0] in ("diffusers", "transformers") for name in names):
            assert room(module) in ("models", "training.denoiser"), module


def test_streams_and_the_command_start_without_heavy_libraries() -> None:
    heavy = "('torch', 'diffusers', 'datasets', 'pyarrow', 'deepface', 'matplotlib')"
    code = f"import sys, pipeline.streams, pipeline.cli; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_nothing_unpickles() -> None:
    for file in FILES:
        assert not {"pickle", "dill", "joblib"} & imported(file), file
        text = file.read_text()
        for forbidden in ("torch.load(", "allow_pickle=True", "trust_remote_code=True", "eval(", "exec("):
            assert forbidden not in text.replace(".eval()", ""), f"{file}: {forbidden}"
