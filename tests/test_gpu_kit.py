"""The kit's runner: boxes, records, what is done again; and its rehearsal, whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
import pack
import pytest
from PIL import Image
from record import Record

KIT = Path(measure.__file__).parent
STEP = """
import argparse, json, os, subprocess, sys, time
from pathlib import Path
from record import Record
parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--seconds", type=float)
parser.add_argument("--rehearse", action="store_true")
parser.add_argument("--prepare", action="store_true")
args = parser.parse_args()
record = Record.open(args.folder, "{name}", rehearsal=args.rehearse)
record.results["runs"] = record.results.get("runs", 0) + 1
record.save(args.folder)
{body}
"""


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kit of steps that are written by `step`."""
    (tmp_path / "kit").mkdir()
    monkeypatch.setattr(measure, "KIT", tmp_path / "kit")
    monkeypatch.setenv("PYTHONPATH", f"{KIT}:{os.environ.get('PYTHONPATH', '')}")
    return tmp_path / "kit"


def step(kit: Path, name: str, body: str) -> None:
    (kit / f"{name}.py").write_text(STEP.format(name=name, body=body))


def runner(kit: Path) -> list[str]:
    """The command `measure.py` on the steps of `kit`."""
    program = f"import sys, pathlib, measure; measure.KIT = pathlib.Path({str(kit)!r}); sys.exit(measure.main())"
    return [sys.executable, "-c", program]


def without_pack(folder: Path) -> dict[str, str]:
    """An environment in which `measure.sh` takes this Python, as it is."""
    return {**os.environ, "PYTHON": sys.executable, "DOPPEL_GPU_PACK": str(folder / "no pack")}


def ended(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def test_a_failed_step_keeps_its_results_and_its_error_and_is_done_again(kit: Path, tmp_path: Path) -> None:
    step(kit, "smoke", "raise ValueError('no such kernel')")
    assert not measure.run("smoke", tmp_path, 60, rehearse=True)
    found = ended(tmp_path, "smoke")
    assert (found["status"], found["results"]) == ("failed", {"runs": 1})
    assert found["error"].splitlines()[0] == "exit status 1"
    assert "ValueError: no such kernel" in found["error"]
    assert set(found["machine"]) == {"device", "driver", "torch", "python", "commit"}
    step(kit, "smoke", "")
    assert measure.run("smoke", tmp_path, 60, rehearse=True)
    assert (ended(tmp_path, "smoke")["status"], ended(tmp_path, "smoke")["error"]) == ("done", None)
    assert measure.run("smoke", tmp_path, 60, rehearse=True)
    assert ended(tmp_path, "smoke")["results"] == {"runs": 2}  # a finished one is passed over


def test_the_box_ends_a_step_with_all_that_it_started(kit: Path, tmp_path: Path) -> None:
    child = "import time; open('beats', 'w'); time.sleep(600)"
    step(kit, "latent", f"subprocess.Popen([sys.executable, '-c', {child!r}], cwd=args.folder)\ntime.sleep(600)")
    started = time.monotonic()
    assert not measure.run("latent", tmp_path, 3, rehearse=True)
    assert time.monotonic() - started < 3 + measure.GRACE + 10
    found = ended(tmp_path, "latent")
    assert (found["status"], found["results"]) == ("cut", {"runs": 1})
    assert found["error"].startswith("the box of 3 s ended first")
    assert (tmp_path / "beats").exists()
    alive = subprocess.run(["pgrep", "-f", "open('beats'"], capture_output=True, text=True).stdout.split()
    assert alive == []


def test_a_step_that_ignores_the_signal_is_killed(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "GRACE", 0.5)
    step(kit, "pixel", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)")
    assert not measure.run("pixel", tmp_path, 3, rehearse=True)
    assert ended(tmp_path, "pixel")["status"] == "cut"


def test_a_partial_step_says_so(kit: Path, tmp_path: Path) -> None:
    step(kit, "latent", "sys.exit(3)")
    assert not measure.run("latent", tmp_path, 60, rehearse=True)
    assert ended(tmp_path, "latent")["status"] == "partial"


def test_a_rehearsal_is_never_taken_for_a_measurement(kit: Path, tmp_path: Path) -> None:
    step(kit, "smoke", "")
    assert measure.run("smoke", tmp_path, 60, rehearse=True)
    assert measure.run("smoke", tmp_path, 60, rehearse=False)
    assert (ended(tmp_path, "smoke")["rehearsal"], ended(tmp_path, "smoke")["results"]) == (False, {"runs": 1})


def test_what_a_rehearsal_left_is_not_gone_on_from(kit: Path, tmp_path: Path) -> None:
    step(kit, "train", "(args.folder / 'train.tar').touch()\nsys.exit(1)")
    measure.run("train", tmp_path, 60, rehearse=True)
    step(kit, "train", "assert not (args.folder / 'train.tar').exists()")
    assert measure.run("train", tmp_path, 60, rehearse=False)


def test_a_record_that_cannot_be_read_counts_for_nothing(kit: Path, tmp_path: Path) -> None:
    step(kit, "smoke", "")
    for broken in ("{", "[]", '{"step": "smoke", "colour": 1}'):
        (tmp_path / "smoke.json").write_text(broken)
        assert measure.run("smoke", tmp_path, 60, rehearse=True)


def test_figures_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    record = Record.open(tmp_path, "latent", rehearsal=False)
    record.add("a", {"rate": 1.0}, tmp_path)
    assert set(Record.open(tmp_path, "latent", rehearsal=False).results["a"]) == {"rate", "commit"}
    record.machine = {**record.machine, "commit": "another"}
    record.save(tmp_path)
    assert Record.open(tmp_path, "latent", rehearsal=False).results
    record.machine = {**record.machine, "device": "another"}
    record.save(tmp_path)
    assert Record.open(tmp_path, "latent", rehearsal=False).results == {}


def test_preparations_say_how_they_ended(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, body in (("latent", "raise ValueError('no compiler')"), ("train", "")):
        step(kit, name, f"import atexit\natexit.register((args.folder / '{name}-ended').touch)\n{body}")
    both = "all((args.folder / f'{name}-ended').exists() for name in ('latent', 'train'))"
    step(kit, "smoke", f"while not {both}:\n    time.sleep(0.1)\ntime.sleep(2)")
    assert measure.run("smoke", tmp_path, 60, rehearse=False, beside=["latent", "train"])
    said = capsys.readouterr().out
    assert "latent, prepared: failed (1)" in said
    assert "ValueError: no compiler" in said
    assert "train, prepared: ready" in said


def test_the_last_step_takes_what_is_left() -> None:
    steps = list(measure.BOXES)
    assert sum(measure.BOXES[name] for name in steps) <= 570
    assert measure.box_of("smoke", steps, 570) == 90
    assert measure.box_of("train", steps, 333) == 333
    assert measure.box_of("latent", steps, 300) == 60  # training keeps its 240
    assert measure.box_of("latent", ["latent"], 570) == 570
    assert measure.box_of("train", steps, -5) == 0


def test_all_steps_are_run_in_order_and_the_rest_goes_on_after_a_failure(kit: Path, tmp_path: Path) -> None:
    for name in measure.BOXES:
        step(kit, name, "sys.exit(1)" if name == "latent" else "")
    program = (
        f"import sys, measure; from pathlib import Path; measure.KIT = Path({str(kit)!r}); sys.exit(measure.main())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out"), "--rehearse"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    told = [line.split(":")[0] for line in done.stdout.splitlines() if " in " in line][:4]
    assert told == ["smoke", "latent", "pixel", "train"]
    assert [ended(tmp_path / "out", name)["status"] for name in measure.BOXES] == ["done", "failed", "done", "done"]


def test_the_runner_takes_its_step_with_it(kit: Path, tmp_path: Path) -> None:
    """A lent machine ends what runs too long from outside: nothing may go on beside the next command."""
    step(kit, "smoke", "open(args.folder / 'here', 'w').close()\ntime.sleep(600)  # the runner's")
    program = (
        f"import sys, measure; from pathlib import Path; measure.KIT = Path({str(kit)!r}); sys.exit(measure.main())"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "out"), "--only", "smoke", "--rehearse"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while not (tmp_path / "out" / "here").exists():
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) != 0
    assert subprocess.run(["pgrep", "-f", str(kit / "smoke.py")], capture_output=True).stdout == b""


def test_an_unknown_step_is_refused(tmp_path: Path) -> None:
    command = [str(KIT / "measure.sh"), "--only", "smok", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_pack(tmp_path))
    assert done.returncode == 2
    assert "--only: 'smok' is no step; known are smoke, latent, pixel, train" in done.stderr


def test_the_readme_names_what_is_carried() -> None:
    readme = (KIT / "README.md").read_text()
    for pins in ("carried.txt", "carried_faces.txt", "machine.txt"):
        lines = [line for line in (KIT / pins).read_text().splitlines() if not line.startswith("#")]
        assert lines
        assert not [line for line in lines if f"`{line}`" not in readme]


def test_the_pack_weighs_what_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    (tmp_path / "pack" / "wheels").mkdir(parents=True)
    (tmp_path / "pack" / "wheels" / "a.whl").write_bytes(b"x" * 2**20)
    (tmp_path / "tree").write_bytes(b"x" * 3 * 2**20)
    monkeypatch.setattr(pack, "ROOT", tmp_path)
    monkeypatch.setattr(pack, "tree_files", lambda: ["tree", "thinned/away"])
    assert pack.weigh(tmp_path / "pack") == 0
    assert capsys.readouterr().out == "first call: 4.0 MiB (working tree 3.0, wheels 1.0)\n"
    monkeypatch.setattr(pack, "LARGEST", 3 * 2**20)
    assert pack.weigh(tmp_path / "pack") == 1
    assert "thin the working tree" in capsys.readouterr().out


@pytest.mark.slow
def test_the_rehearsal(tmp_path: Path) -> None:
    """All steps, as on a GPU, on the CPU with tiny shapes."""
    command = [str(KIT / "measure.sh"), "--rehearse", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=without_pack(tmp_path), timeout=580)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    for name in measure.BOXES:
        found = ended(tmp_path, name)
        assert (found["status"], found["rehearsal"], found["error"]) == ("done", True, None)
        assert found["results"]
    outcomes = [found["outcome"] for found in ended(tmp_path, "smoke")["results"].values()]
    assert outcomes.count("passed") > 20
    for picture in ("latent.png", "pixel.png", "train.png"):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 100
    assert (tmp_path / "train.tar").stat().st_size > 10_000
    assert len(list(tmp_path.iterdir())) == 8  # no more comes back from a lent machine
    assert Record.open(tmp_path, "train", rehearsal=False).results == {}
