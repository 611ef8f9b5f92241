"""Several runs share one job: each shard is done, by one of them as a rule, and what comes of it is as of one run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import BAD_INPUT, main
from pipeline.config import validate
from pipeline.engine.events import Event, Noted, ShardDone
from pipeline.engine.planning import make_plan
from pipeline.engine.process import process
from pipeline.engine.run import Run
from pipeline.engine.running import run_job
from pipeline.engine.sharing import Sharing, place_of, shared
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.streams import store as stores
from pipeline.streams.claims import RUN, WHOLE_JOB, Claims, claims_in, new_owner
from pipeline.streams.job_records import Manifest
from pipeline.streams.ledger import Ledger
from pipeline.streams.places import open_store
from tests import builders

SHARDS = 6


def here(run: Run) -> Generator[Event, None, None]:
    """An engine that works in this thread."""
    yield from process(run.claimed(), run.plan, run.stream, run.classes, run.ledger, "cpu")


class Job:
    """A job without a model over some tars, of which one holds what cannot be decoded."""

    def __init__(self, root: Path, out: Path | str | None = None) -> None:
        self.root, self.out = root, str(out or root / "out")
        for i in range(SHARDS):
            builders.shard(root / "in" / f"{i}.tar", 3, first=10 * i)
        builders.tar(root / "in" / "bad.tar", [("a.png", b"no image"), ("b.png", builders.picture(99))])

    def recipe(self, **changes: Any) -> dict[str, Any]:
        return builders.recipe(self.root / "in" / "*.tar", Path("unused"), None, **{"output.path": self.out, **changes})

    def file(self, **changes: Any) -> str:
        (self.root / "job.yaml").write_text(yaml.safe_dump(self.recipe(**changes)))
        return str(self.root / "job.yaml")

    def run(
        self, lease: float = 30, observe: Callable[[Event], None] = lambda event: None, engine: Any = here,
        share: bool = True, meanwhile: Callable[[Sharing], None] = lambda sharing: None, **changes: Any,
    ) -> tuple[Manifest, list[str]]:  # fmt: skip
        """Returns the manifest, and the shards that this run has done."""
        done = list[str]()

        def seen(event: Event) -> None:
            observe(event)
            if isinstance(event, ShardDone):
                done.append(event.record.shard)

        plan = make_plan(validate(JobConfig, self.recipe(**changes), "test"))
        if not share:
            return run_job(plan, observe=seen, engine=engine), done
        with shared(self.out, lease=lease) as sharing:
            meanwhile(sharing)
            return run_job(plan, observe=seen, engine=engine, sharing=sharing), done

    @property
    def written(self) -> dict[str, bytes]:
        return dict(builders.tree(Path(self.out), "data", "quarantine"))

    def whole(self) -> dict[str, bytes]:
        """What one run writes that is alone."""
        alone = Job(self.root, self.root / "alone")
        alone.run(share=False)
        return alone.written

    def check(self) -> None:
        """All is as one run writes it, and nothing is left of claims and of work in progress."""
        out = Path(self.out)
        assert self.written == self.whole()
        assert {path.name for path in (out / ".parts").iterdir()} <= {"lock"}
        assert list((out / "claims").iterdir()) == []
        manifest = Ledger(out).manifest()
        assert manifest is not None
        assert manifest.complete
        assert set(manifest.files) == {str(path) for path in self.written}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def test_three_runs_at_once_do_each_shard_once(job: Job) -> None:
    start = threading.Barrier(3)
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(job.run, meanwhile=lambda _: start.wait()) for _ in range(3)]
        ended = [run.result() for run in runs]
    assert sorted(name for _, done in ended for name in done) == sorted([*map(str, range(SHARDS)), "bad"])
    assert all(manifest.complete and manifest.shards.finished == SHARDS + 1 for manifest, _ in ended)
    assert len({manifest.model_dump_json() for manifest, _ in ended}) == 1
    job.check()


def test_a_later_run_finds_nothing_to_do(job: Job) -> None:
    job.run()
    assert job.run()[1] == []
    assert job.run(share=False)[1] == []
    job.check()


def test_the_shards_of_a_dead_run_are_taken_over_after_its_lease(job: Job) -> None:
    out = Path(job.out)
    with Ledger(out).open(_job(job)):
        pass
    dead = Claims(open_store(job.out), new_owner(), lease=0.5)
    token = dead.owner.rpartition(":")[2]
    for name in (f"{RUN}{token}", "2", "3"):
        assert dead.take(name)
    left = out / ".parts" / f"run-{token}" / "data" / "2.tar"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    for folder in ("data", "quarantine"):  # it died between put and record; the quarantine is of other settings
        (out / folder).mkdir(exist_ok=True)
        (out / folder / "2.tar").write_bytes(b"other")
    notes = list[str]()
    _, done = job.run(observe=lambda event: notes.append(event.text) if isinstance(event, Noted) else None)
    assert len(done) == SHARDS + 1
    assert set(done[-2:]) == {"2", "3"}
    assert any("2 shards are left, and other runs do them" in note for note in notes)
    job.check()


def test_an_owner_that_slept_through_its_lease_finds_its_shard_done_and_changes_nothing(job: Job) -> None:
    asleep, awake = threading.Event(), threading.Event()

    def drowsy(run: Run) -> Generator[Event, None, None]:
        for event in here(run):
            if not asleep.is_set():
                asleep.set()
                awake.wait()
            yield event

    def never_beats(sharing: Sharing) -> None:
        sharing._claims.beat = lambda: frozenset()  # type: ignore[method-assign]

    with ThreadPoolExecutor(1) as pool:
        slept = pool.submit(job.run, lease=1, engine=drowsy, meanwhile=never_beats)
        asleep.wait()
        _, done = job.run()
        assert len(done) == SHARDS + 1, "all, with what the other one had claimed"
        before = {path: path.stat().st_mtime_ns for path in Path(job.out).rglob("*.*") if path.is_file()}
        awake.set()
        manifest, _ = slept.result()
    assert manifest.complete
    job.check()
    after = {path: path.stat().st_mtime_ns for path in Path(job.out).rglob("*.*") if path.is_file()}
    changed = {path.name for path in before if after.get(path) != before[path]}
    assert changed <= {"manifest.json", "events.jsonl"}


def test_two_who_publish_one_shard_put_the_same_and_the_first_record_stays(job: Job, tmp_path: Path) -> None:
    plan = make_plan(validate(JobConfig, job.recipe(), "test"))
    records = []

    def twice(run: Run) -> Generator[Event, None, None]:
        """Each shard is written by two owners, neither of which sees the other before it has put its files."""
        for shard in run.claimed():
            ledgers = [Ledger(job.out, work) for work in ("run-a", "run-b")]
            for ledger in ledgers:
                ledger.record = lambda name: None  # type: ignore[method-assign]
            both = [process([shard], run.plan, run.stream, run.classes, ledger, "cpu") for ledger in ledgers]
            events = [[event for event in one if isinstance(event, ShardDone)] for one in both]
            records.append([event.record for (event,) in events])
            yield events[0][0]

    with shared(job.out, lease=30) as sharing:
        run_job(plan, engine=twice, sharing=sharing)
    for first, second in records:
        assert first.files == second.files
        assert Ledger(job.out).record(first.shard) == first
    assert job.written == job.whole()


def test_in_an_object_store_runs_share_a_job_too(tmp_path: Path) -> None:
    job = Job(tmp_path, f"memory://{tmp_path.name}/out")
    store = open_store(job.out)
    dead = Claims(store, new_owner(), lease=0.5)
    for name in (f"{RUN}{dead.owner[-16:]}", "2"):
        assert dead.take(name)
    start = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(job.run, meanwhile=lambda _: start.wait()) for _ in range(2)]
        ended = [run.result() for run in runs]
    assert sorted(name for _, done in ended for name in done) == sorted([*map(str, range(SHARDS)), "bad"])
    found = {entry.path: store.read(entry.path) for folder in ("data", "quarantine") for entry in store.list(folder)}
    assert found == job.whole()
    assert claims_in(store) == []
    with Claims(store, new_owner(), lease=30).beating() as alone:
        assert alone.take(WHOLE_JOB)
        alone.beat()
        with pytest.raises(UserError, match=r"is at work in memory://.*, without --share"):
            job.run(meanwhile=lambda _: threading.Timer(0.3, alone.beat).start())


def test_an_output_that_was_lost_is_done_again_by_one(job: Job) -> None:
    job.run()
    (Path(job.out) / "data" / "1.tar").unlink()
    start = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(job.run, meanwhile=lambda _: start.wait()) for _ in range(2)]
        done = [name for run in runs for name in run.result()[1]]
    assert done == ["1"]
    job.check()


def test_another_recipe_is_refused_before_any_work(job: Job) -> None:
    begun, end = threading.Event(), threading.Event()

    def waiting(run: Run) -> Generator[Event, None, None]:
        begun.set()
        end.wait()
        yield from here(run)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(job.run, engine=waiting)
        begun.wait()
        with pytest.raises(UserError, match=r"out holds a job that differs in output.quality \(95 → 50\)"):
            job.run(**{"output.quality": 50})
        with pytest.raises(UserError, match=r"another doppel process is writing to .*out$"):
            job.run(share=False)
        end.set()
        assert first.result()[0].complete
    job.check()


def test_a_run_that_does_not_share_excludes_those_that_do(job: Job) -> None:
    with (
        Ledger(job.out).open(Ledger(job.out).job() or _job(job)),
        pytest.raises(UserError, match=r"another doppel process is writing to .*out, without --share"),
    ):
        job.run()


def _job(job: Job) -> Any:
    from pipeline.engine.reading import open_input
    from pipeline.engine.running import job_of

    plan = make_plan(validate(JobConfig, job.recipe(), "test"))
    return job_of(plan, open_input(plan)[1])


def test_an_error_releases_everything_and_leaves_the_manifest_to_others(job: Job) -> None:
    def broken(run: Run) -> Generator[Event, None, None]:
        with closing(here(run)) as events:
            for number, event in enumerate(events):
                if number == 3:
                    raise OSError("no more")
                yield event

    with pytest.raises(OSError, match="no more"):
        job.run(engine=broken)
    assert claims_in(open_store(job.out)) == []
    assert {path.name for path in (Path(job.out) / ".parts").iterdir()} == {"lock"}
    assert Ledger(job.out).manifest() is None
    job.run()
    job.check()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--overwrite"], "--overwrite: several runs that share a job may not decide that"),
        (["--redo-changed"], "--redo-changed: several runs"),
        (["--keep-finished"], "--keep-finished: several runs"),
        (["--prune"], "--prune: several runs"),
        (["--retry-quarantine"], "--retry-quarantine: several runs"),
        (["--limit", "3"], "limit is 3, and whoever comes first would decide which samples"),
        (["--set", "output.format=folder"], "output.format is folder, where two runs that write one shard"),
        (["--set", "run.lease=0"], "run.lease"),
    ],
)
def test_what_cannot_be_shared_is_one_sentence(
    job: Job, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", job.file(), "--share", *options]) == BAD_INPUT
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert sentence in line
    assert not Path(job.out).exists()


def test_a_mounted_object_store_is_refused(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "why_not_shared", lambda folder: "it is an object store mounted with s3fs")
    assert main(["run", job.file(), "--share"]) == BAD_INPUT
    assert (
        capsys.readouterr()
        .err.strip()
        .endswith(f"--share: several runs cannot share {job.out}: it is an object store mounted with s3fs")
    )
    assert not (Path(job.out) / "job.json").exists()


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"RANK": "3", "WORLD_SIZE": "4"}, 0.75),
        ({"RANK": "0", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}, 0),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2"}, 0.5),
        (
            {
                "SLURM_ARRAY_TASK_ID": "30", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "10",
                "SLURM_ARRAY_TASK_COUNT": "4",
            },
            0.5,
        ),
        ({"RANK": "4", "WORLD_SIZE": "4", "SLURM_ARRAY_TASK_ID": "7"}, None),
        ({"RANK": "one", "WORLD_SIZE": "", "SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_STEP": "0"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_launchers_say_where_a_run_begins(environment: dict[str, str], place: float | None) -> None:
    found = [place_of(environment, f"host:{pid}:token") for pid in range(100)]
    if place is not None:
        assert set(found) == {place}
    else:
        assert len(set(found)) == 100
        assert 0 <= min(found) < 0.2
        assert 0.8 < max(found) < 1
