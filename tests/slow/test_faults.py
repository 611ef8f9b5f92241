"""Whatever fails at whatever moment: the same command again ends with what an undisturbed job leaves, byte for byte.

`pytest -m slow tests/slow/test_faults.py` makes a fault at every operation that changes the disk, `KILLS` kills at
random moments, full disks and broken reads, and prints how many of each kind it made.
"""

from __future__ import annotations

import builtins
import errno
import gc
import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from pipeline.cli import main
from pipeline.engine import reading
from pipeline.media.opening import Undecodable
from pipeline.streams.job_records import ShardRecord
from pipeline.streams.ledger import Ledger
from tests import builders, faults
from tests.faults import Fault, Kind, ended, forking

FORMATS = ("webdataset", "parquet", "folder")
RANDOM = int(os.environ.get("DOPPEL_FAULTS_RANDOM", "20"))
"""Rounds of three faults in a row, for each format."""
KILLS = int(os.environ.get("DOPPEL_FAULTS_KILLS", "1000"))
"""Processes that are killed by `kill -9` at random moments, and between an output and its record."""
VICTIMS = {"a job alone": 4, "parent of workers": 3, "worker": 3}
"""Who is killed, and how many of ten times."""
IN_A_ROW = 4
"""Runs that are killed, at most, before one may end."""
AT_RECORD = 0.15
"""The share of kills that come right before or after a record is put."""
ERRORS: tuple[Kind, ...] = ("EIO", "ENOSPC", "ESTALE")
Report = Callable[[str, object], None]


@dataclass
class Bench:
    """A job, and what it leaves when nothing disturbs it."""

    root: Path
    recipe: Path
    options: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    """Options of the faulty run alone."""
    before: Callable[[Path], None] = lambda out: None
    """Makes what the faulty run finds."""
    whole: dict[str, bytes] = field(default_factory=dict)
    operations: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.root / "out"

    @property
    def format(self) -> str:
        return str(yaml.safe_load(self.recipe.read_text())["output"]["format"])

    @property
    def log(self) -> Path:
        return self.root / "log"

    def fresh(self) -> None:
        """Puts everything back to where the faulty run begins."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.before(self.out)

    def run(self) -> int:
        """The same command without faults."""
        return ended(faults.command(self.recipe, *self.options, log=self.log, prepare=partial(forking, self.out)))

    def undisturbed(self) -> Bench:
        """Learns the operations, and what is left at the end."""
        self.fresh()
        self.operations = faults.operations(self.recipe, self.out, self.log, *self.options, *self.first)
        assert self.run() == 0, self.log.read_text()
        self.whole = self.seen()
        return self

    def seen(self) -> dict[str, bytes]:
        """The job's folder; and what lies beside it and must stay."""
        return faults.settled(self.out) | {f"../{n}": c for n, c in builders.tree(self.root, "in", "beside").items()}

    def suffers(self, fault: Fault) -> str | None:
        """Runs the job with the fault, and again without; what is wrong then."""
        self.fresh()
        code = faults.faulty(self.recipe, self.out, fault, self.log, *self.options, *self.first)
        return self.wrong(code, self.log.read_text(), killed=fault.kind.startswith("kill"))

    def wrong(self, code: int, said: str, *, killed: bool) -> str | None:
        """What is wrong with how the faulty run ended, or with what a second run makes of it."""
        if "Traceback" in said or not (killed or code in (0, 1)):
            return f"exit code {code}: {said[-1000:]}"
        again = self.run()
        if again != 0:
            return f"again: exit code {again}: {self.log.read_text()[-500:]}"
        other = faults.difference(self.seen(), self.whole)
        return f"other files: {other}" if other else None


@pytest.fixture(scope="module")
def benches(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bench]:
    """Makes benches, each once. Everything that the command imports or remembers is in this process before a fork."""
    made: dict[tuple[object, ...], Bench] = {}

    def bench(format: str, scenario: str = "fresh", model: Path | None = None) -> Bench:
        place = (format, scenario, model)
        if place not in made:
            root = tmp_path_factory.mktemp("bench")
            _inputs(root)
            made[place] = SCENARIOS[scenario](root, format, model).undisturbed()
        return made[place]

    root = tmp_path_factory.mktemp("warm")
    _inputs(root)
    for format in FORMATS:
        main(["run", str(_recipe(root, root / format, format, None))])
    gc.collect()
    gc.freeze()  # a copy of this process would touch every object otherwise
    return bench


def _inputs(root: Path) -> None:
    """Two shards, one with a sample for the quarantine; and a file that is nobody's business."""
    builders.shard(root / "in" / "0.tar", 2)
    good = [("0002.png", builders.picture(2)), ("0002.cls", b"2")]
    builders.tar(root / "in" / "1.tar", [("bad.png", b"no image"), ("bad.cls", b"0"), *good])
    (root / "beside").mkdir()
    (root / "beside" / "thesis.tex").write_text("years of work")


def _recipe(root: Path, out: Path, format: str, model: Path | None, **changes: Any) -> Path:
    content = builders.recipe(root / "in" / "*.tar", out, model, **{"output.format": format, **changes})
    (root / f"{out.name}.yaml").write_text(yaml.safe_dump(content))
    return root / f"{out.name}.yaml"


def _fresh(root: Path, format: str, model: Path | None) -> Bench:
    return Bench(root, _recipe(root, root / "out", format, model))


def _grow(root: Path, format: str, model: Path | None) -> Bench:
    """The finished job had one input, and a second has come."""
    recipe = _recipe(root, root / "out", format, model)
    new = (root / "in" / "1.tar").rename(root / "1.tar")
    assert main(["run", str(recipe)]) == 0
    new.rename(root / "in" / "1.tar")
    shutil.copytree(root / "out", root / "old")
    return Bench(root, recipe, before=partial(_copy, root / "old"))


def _overwrite(root: Path, format: str, model: Path | None) -> Bench:
    """The folder holds a finished job of other inputs, under names that the new job also has, and others."""
    old = root / "old"
    builders.shard(old / "in" / "0.tar", 1, first=5)
    builders.shard(old / "in" / "gone.tar", 1, first=6)
    assert main(["run", str(_recipe(old, root / "out", format, model))]) == 0
    shutil.copytree(root / "out", old / "out")
    recipe = _recipe(root, root / "out", format, model)
    return Bench(root, recipe, ("--overwrite",), before=partial(_copy, old / "out"))


def _half(root: Path, format: str, model: Path | None) -> Bench:
    """The folder holds the job as a full disk left it: one shard is finished."""
    recipe = _recipe(root, root / "out", format, model)
    assert main(["run", str(recipe)]) == 0
    (root / "out" / "shards" / "1.json").unlink()
    shutil.copytree(root / "out", root / "half")
    return Bench(root, recipe, before=partial(_copy, root / "half"))


def _prune(root: Path, format: str, model: Path | None) -> Bench:
    """An input of the finished job is gone."""
    recipe = _recipe(root, root / "out", format, model)
    gone = builders.shard(root / "in" / "gone.tar", 1, first=6)
    assert main(["run", str(recipe)]) == 0
    gone.unlink()
    shutil.copytree(root / "out", root / "old")
    return Bench(root, recipe, ("--prune",), before=partial(_copy, root / "old"))


def _redo(root: Path, format: str, model: Path | None) -> Bench:
    """An input of the finished job has changed since."""
    recipe = _recipe(root, root / "out", format, model)
    builders.shard(root / "in" / "0.tar", 1, first=6)
    assert main(["run", str(recipe)]) == 0
    builders.shard(root / "in" / "0.tar", 2)
    shutil.copytree(root / "out", root / "old")
    return Bench(root, recipe, ("--redo-changed",), before=partial(_copy, root / "old"))


def _limit(root: Path, format: str, model: Path | None) -> Bench:
    """The faulty run is one of a few samples, and all follow."""
    return Bench(root, _recipe(root, root / "out", format, model), first=("--limit", "1"))


def _retry(root: Path, format: str, model: Path | None) -> Bench:
    """A sample of the finished job failed, and would not fail again; another one does."""
    recipe = _recipe(root, root / "out", format, model)
    read = reading.read_picture

    def ill(data: bytes, *args: Any, **options: Any) -> Any:
        if data == builders.picture(1):
            raise Undecodable("the decoder was broken")
        return read(data, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "read_picture", ill)
        assert main(["run", str(recipe)]) == 0
    shutil.copytree(root / "out", root / "old")
    return Bench(root, recipe, ("--retry-quarantine",), before=partial(_copy, root / "old"))


def _copy(old: Path, out: Path) -> None:
    shutil.copytree(old, out)


SCENARIOS: dict[str, Callable[[Path, str, Path | None], Bench]] = {
    "fresh": _fresh,
    "grow": _grow,
    "overwrite": _overwrite,
    "half": _half,
    "prune": _prune,
    "redo": _redo,
    "limit": _limit,
    "retry": _retry,
}


def suffer(bench: Bench, some: Sequence[Fault], record_property: Report) -> None:
    """Each of the faults, on its own; all that went wrong is told together."""
    failed = []
    for fault in some:
        if (problem := bench.suffers(fault)) is not None:
            failed.append(f"{fault.kind} at {fault.at} ({bench.operations[fault.at]}): {problem}")
    record_property("faults", {k: sum(f.kind == k for f in some) for k in faults.KINDS})
    assert not failed, f"{len(failed)} of {len(some)} faults: " + "\n".join(failed[:20])


@pytest.mark.parametrize("format", FORMATS)
def test_a_fault_of_each_kind_here_and_there(
    format: str, benches: Callable[..., Bench], record_property: Report
) -> None:
    bench = benches(format)
    places = range(FORMATS.index(format), len(bench.operations), len(bench.operations) // 7)
    suffer(bench, [Fault(faults.KINDS[i % 6], at) for i, at in enumerate(places)], record_property)


def test_a_crash_between_the_list_of_a_folder_and_its_files(
    benches: Callable[..., Bench], record_property: Report
) -> None:
    """The list names files whose folders were never made."""
    bench = benches("folder")
    suffer(bench, [Fault("kill after", bench.operations.index("fsync provenance"))], record_property)


EACH = [(format, kind) for format in FORMATS for kind in faults.KINDS if format == "webdataset" or kind not in ERRORS]


@pytest.mark.slow
@pytest.mark.parametrize(("format", "kind"), EACH)
def test_a_fault_at_every_operation(
    format: str, kind: Kind, benches: Callable[..., Bench], record_property: Report
) -> None:
    bench = benches(format)
    assert len(bench.operations) > 30
    suffer(bench, [Fault(kind, at) for at in range(len(bench.operations))], record_property)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS[1:])
def test_an_error_at_every_operation(format: str, benches: Callable[..., Bench], record_property: Report) -> None:
    """The three errors in turn: the code does not tell them apart, and for tars each is tried everywhere."""
    bench = benches(format)
    suffer(bench, [Fault(ERRORS[at % 3], at) for at in range(len(bench.operations))], record_property)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["overwrite", "half", "grow", "prune", "redo", "limit", "retry"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_fault_at_every_operation_where_a_job_was_before(
    scenario: str, format: str, benches: Callable[..., Bench], record_property: Report
) -> None:
    bench = benches(format, scenario)
    some = [Fault(faults.KINDS[(at * 5 + at // 6) % 6], at) for at in range(len(bench.operations))]
    suffer(bench, some, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_faults_in_a_job_with_a_model(
    format: str, benches: Callable[..., Bench], model: Path, record_property: Report
) -> None:
    bench = benches(format, model=model)
    places = range(0, len(bench.operations), 5)
    suffer(bench, [Fault(faults.KINDS[i % 6], at) for i, at in enumerate(places)], record_property)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_faults_in_the_run_that_mends_a_fault(
    format: str, benches: Callable[..., Bench], record_property: Report
) -> None:
    bench, dice, failed = benches(format), random.Random(0), []
    for _ in range(RANDOM):
        bench.fresh()
        some = [Fault(dice.choice(faults.KINDS), dice.randrange(len(bench.operations))) for _ in range(3)]
        for fault in some:
            code = faults.faulty(bench.recipe, bench.out, fault, bench.log)
        if (problem := bench.wrong(code, bench.log.read_text(), killed=True)) is not None:
            failed.append(f"{some}: {problem}")
    record_property("faults", {"three in a row": 3 * RANDOM})
    assert not failed, "\n".join(failed[:20])


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_disk_that_takes_no_byte_more(format: str, benches: Callable[..., Bench], record_property: Report) -> None:
    bench = benches(format)
    sizes = sorted({len(content) - less for content in bench.whole.values() for less in (1, 9, 700) if content})
    sizes = [size for size in sizes if size >= 0][:: max(1, len(sizes) // 20)]
    failed = []
    for size in sizes:
        bench.fresh()
        code = ended(faults.command(bench.recipe, log=Path("/dev/null"), prepare=partial(_small_files, size)))
        problem = bench.wrong(code, "", killed=False) if code != 0 else f"nothing failed with {size} bytes a file"
        failed += [f"{size} bytes: {problem}"] if problem else []
    record_property("faults", {"full disk": len(sizes)})
    assert not failed, "\n".join(failed)


def _small_files(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.slow
@pytest.mark.parametrize("victim", VICTIMS)
def test_kills_at_random_moments(victim: str, benches: Callable[..., Bench], record_property: Report) -> None:
    """The commands and their workers are copies of this process, so that one run takes a fraction of a second."""
    dice, failed, counts = random.Random(victim), list[str](), Counter[str]()
    options = () if victim == "a job alone" else ("--set", "run.devices=[cpu,cpu]")
    seconds = dict[str, float]()
    while counts.total() < KILLS * VICTIMS[victim] // sum(VICTIMS.values()):
        bench = benches(dice.choice(FORMATS))
        bench.fresh()
        if bench.format not in seconds:
            begun = time.monotonic()
            assert ended(Shot(bench, options).process) == 0, bench.log.read_text()
            seconds[bench.format] = time.monotonic() - begun
            assert faults.difference(bench.seen(), bench.whole) == []
            bench.fresh()
        code = 0
        for _ in range(dice.randint(1, IN_A_ROW)):
            at_record = dice.random() < AT_RECORD
            shot = Shot(bench, options, dice.choice(("before", "after")) if at_record else None, dice.randrange(2))
            if not at_record:
                time.sleep(dice.uniform(0, seconds[bench.format]))
                counts[f"kill of {victim}"] += kill(shot.process, "worker" if victim == "worker" else "parent", dice)
            code = ended(shot.process)
            counts["kill between output and record"] += at_record and shot.hit
            if code not in (0, -signal.SIGKILL):
                failed.append(f"exit code {code}: {bench.log.read_text()[-1000:]}")
        if (problem := bench.wrong(code, "", killed=True)) is not None:
            failed.append(problem)
    record_property("faults", dict(counts))
    assert not failed, f"{len(failed)} of {counts.total()} kills: " + "\n".join(failed[:20])


class Shot:
    """A run that may be killed when a record is put: whichever process puts it, once."""

    def __init__(
        self, bench: Bench, options: tuple[str, ...], side: Literal["before", "after"] | None = None, number: int = 0
    ) -> None:
        """`side` says when, and `number` at which record of the process."""
        self._fired, self._side, self._left = bench.root / "fired", side, number
        self._fired.unlink(missing_ok=True)
        self.process = faults.command(
            bench.recipe, *options, log=bench.log, prepare=partial(self._prepare, bench.out)
        )  # fmt: skip

    @property
    def hit(self) -> bool:
        """Whether a process was killed."""
        return self._fired.exists()

    def _prepare(self, out: Path) -> None:
        forking(out)
        if self._side is None:
            return
        commit = Ledger.commit

        def deadly(ledger: Ledger, record: ShardRecord) -> None:
            fires = self._left == 0 and not self.hit
            self._left -= 1
            if fires and self._side == "before":
                self._fire()
            commit(ledger, record)
            if fires:
                self._fire()

        Ledger.commit = deadly  # type: ignore[method-assign]

    def _fire(self) -> None:
        self._fired.touch()
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_read_that_fails_half_way(format: str, benches: Callable[..., Bench], record_property: Report) -> None:
    """A bad block of the input's disk, which is read well by the next run."""
    bench, failed = benches(format), list[str]()
    size = (bench.root / "in" / "0.tar").stat().st_size
    places = range(0, size, max(1, size // 12))
    for at in places:
        for name in ("0.tar", "1.tar"):
            bench.fresh()
            spoil = partial(_bad_block, bench.root / "in" / name, at)
            code = ended(faults.command(bench.recipe, log=bench.log, prepare=spoil))
            said = bench.log.read_text()
            problem = bench.wrong(code, said, killed=False) if "Input/output error" in said else f"{code}: {said}"
            failed += [f"{name} at {at}: {problem}"] if problem else []
    record_property("faults", {"failed read": 2 * len(places)})
    assert not failed, "\n".join(failed[:20])


def _bad_block(path: Path, at: int) -> None:
    """Reads of a file that touch the byte `at`, or come behind it, fail from now on."""

    class Spoilt(io.FileIO):
        def readinto(self, buffer: Any) -> Any:
            if self.tell() + len(buffer) > at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return super().readinto(buffer)

        def readall(self) -> Any:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    real = builtins.open

    def opened(file: Any, mode: str = "r", *given: Any, **options: Any) -> Any:
        if isinstance(file, str | os.PathLike) and os.path.realpath(file) == os.path.realpath(path) and mode == "rb":
            return io.BufferedReader(Spoilt(os.fspath(file)), 512)
        return real(file, mode, *given, **options)

    builtins.open = opened  # type: ignore[assignment]


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_the_command_as_a_user_starts_it_loses_a_process(
    victim: str, benches: Callable[..., Bench], record_property: Report
) -> None:
    bench, dice = benches("webdataset"), random.Random(1)
    command = [sys.executable, "-m", "pipeline.cli", "run", str(bench.recipe), "--set", "run.devices=[cpu,cpu]"]
    killed = 0
    for _ in range(2):
        bench.fresh()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not [*bench.out.glob(".parts/*.tar"), *bench.out.glob("data/*.tar")] and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if process.poll() is None:
            killed += kill(process.pid, victim, dice)
        assert bench.wrong(process.wait(), "", killed=True) is None
    assert killed > 0
    record_property("faults", {f"random kill of {victim}": killed})


def kill(process: int, victim: str, dice: random.Random) -> int:
    """Ends the process or one that it started, at once; how many were ended."""
    try:
        lists = [task.read_text() for task in Path(f"/proc/{process}/task").glob("*/children")]
        workers = [int(child) for listed in lists for child in listed.split()]
        chosen = process if victim == "parent" else dice.choice(workers)
        if Path(f"/proc/{chosen}/stat").read_text().rpartition(")")[2].split()[0] == "Z":  # it has ended
            return 0
        os.kill(chosen, signal.SIGKILL)
    except (OSError, IndexError):  # there is none yet, or none any more
        return 0
    return 1
