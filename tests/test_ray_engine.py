"""The driver of a Ray cluster, on a cluster that is none (see `pretend_ray`); tests/slow/test_ray.py has real ones."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import main
from pipeline.commands.engines import bounds, share
from pipeline.config import validate
from pipeline.engine import ray_actor
from pipeline.engine.events import Event, Noted, ShardDone, TakenBack
from pipeline.engine.planning import make_plan
from pipeline.engine.ray_engine import RayEngine, wanted
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from tests import builders
from tests.pretend_ray import PretendRay


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> PretendRay:
    pretended = PretendRay(slots=2)
    monkeypatch.setitem(sys.modules, "ray", pretended)
    return pretended


@pytest.fixture
def source(tmp_path: Path) -> str:
    for i in range(6):
        builders.shard(tmp_path / "in" / f"{i}.tar", 3, first=3 * i)
    return str(tmp_path / "in" / "*.tar")


def plan_of(source: str, out: Path, **changes: Any) -> Plan:
    return make_plan(validate(JobConfig, builders.recipe(source, out, None, **changes), "test"))


def engine(least: int = 2, most: int = 2, gpus: float = 0) -> RayEngine:
    return RayEngine(least=least, most=most, gpus=gpus)


def test_a_cluster_writes_what_this_machine_writes(ray: PretendRay, source: str, tmp_path: Path) -> None:
    run_job(plan_of(source, tmp_path / "here"))
    events = list[Event]()
    manifest = run_job(plan_of(source, tmp_path / "there"), engine=engine(), observe=events.append)
    assert manifest.complete
    assert builders.tree(tmp_path / "here", "data") == builders.tree(tmp_path / "there", "data")
    assert sum(isinstance(event, ShardDone) for event in events) == 6
    assert len(ray.actors) == 2
    assert not ray.living
    assert not (tmp_path / "there" / ray_actor.BEACON).exists()


def test_an_actor_that_dies_is_replaced_and_its_shards_are_done_again(
    ray: PretendRay, source: str, tmp_path: Path
) -> None:
    """Of one actor at a time it is known what it did before it died."""
    run_job(plan_of(source, tmp_path / "here"))
    events = list[Event]()
    ray.fatal = lambda actor, message: actor is ray.actors[0] and len(actor.said) == 4
    manifest = run_job(plan_of(source, tmp_path / "there"), engine=engine(1, 1), observe=events.append)
    assert manifest.complete
    assert builders.tree(tmp_path / "here", "data") == builders.tree(tmp_path / "there", "data")
    assert len(ray.actors) == 2
    assert sum(isinstance(event, TakenBack) for event in events) == 1
    assert any(isinstance(event, Noted) and "a worker died (its process died)" in event.text for event in events)


def test_actors_that_never_begin_end_the_job(ray: PretendRay, source: str, tmp_path: Path) -> None:
    ray.stillborn = True
    with pytest.raises(UserError, match=r"worker processes died before they had a shard, the last: its process died"):
        run_job(plan_of(source, tmp_path / "there"), engine=engine())
    assert not ray.living


def test_a_job_does_not_wait_for_workers_that_it_no_longer_needs(ray: PretendRay, source: str, tmp_path: Path) -> None:
    ray.slots = 1
    assert run_job(plan_of(source, tmp_path / "out"), engine=engine(1, 5)).complete
    assert ray.most == 2  # one at work, and one that waits for a node
    assert not ray.living


def test_workers_are_asked_for_as_long_as_there_is_room() -> None:
    assert [wanted(n, n, least=3, most=9) for n in range(5)] == [True, True, True, False, False]
    assert wanted(3, 0, least=3, most=9)
    assert not wanted(4, 2, least=3, most=9)  # as many wait as are at work
    assert wanted(6, 2, least=3, most=9)
    assert not wanted(9, 0, least=3, most=9)


def test_a_limit_is_kept_by_one_worker(ray: PretendRay, source: str, tmp_path: Path) -> None:
    manifest = run_job(plan_of(source, tmp_path / "out", limit=7), engine=engine(3, 3))
    assert manifest.counts.read == 7
    assert len(ray.actors) == 1


def test_a_job_that_is_stopped_leaves_no_actor(ray: PretendRay, source: str, tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, ShardDone):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(plan_of(source, tmp_path / "out"), engine=engine(), observe=stop)
    assert not ray.living
    assert [path.name for path in (tmp_path / "out" / ".parts").iterdir()] == ["lock"]
    assert run_job(plan_of(source, tmp_path / "out"), engine=engine()).complete


def test_a_cluster_without_gpus_is_told_of(ray: PretendRay, source: str, tmp_path: Path) -> None:
    events = list[Event]()
    with pytest.raises(UserError, match=r"^run\.devices: 'cuda:0' is not available here"):
        run_job(plan_of(source, tmp_path / "out"), engine=engine(gpus=1), observe=events.append)
    assert Noted("the cluster has no GPU for a worker now; the job begins when a node with one joins") in events


def test_a_folder_that_is_not_shared_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actor, "LOOK_SECONDS", 0.01)
    (tmp_path / ray_actor.BEACON).write_text("that of another run")
    with pytest.raises(UserError, match=r"^output.path: on node .* is not the folder of this job; name a folder that"):
        ray_actor.check_folder(tmp_path, b"ours")


def test_a_node_with_other_code_is_one_sentence(source: str, tmp_path: Path) -> None:
    plan = plan_of(source, tmp_path / "out")
    ray_actor.check_same(plan)
    with pytest.raises(UserError, match=r"^doppel's code and the model's files differ on node "):
        ray_actor.check_same(replace(plan, hashes=plan.hashes | {"code": "0", "model": "1"}))


def test_a_worker_finds_the_batch_size(ray: PretendRay, source: str, tmp_path: Path) -> None:
    assert engine().largest_batch(plan_of(source, tmp_path / "out")) == 8
    with pytest.raises(UserError, match=r"^run\.devices: 'cuda:0' is not available here"):
        engine(gpus=1).largest_batch(plan_of(source, tmp_path / "out"))
    assert not ray.living


def closed_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


BAD: dict[str, tuple[list[str], str]] = {
    "unknown engine": (["--engine", "spark"], "--engine is 'spark'; allowed are local, ray"),
    "an option of the other engine": (["--workers", "2"], "--workers belongs to --engine ray; here run.devices says"),
    "no workers": (["--engine", "ray"], "--workers is missing; --engine ray needs N, or N:M for at least N"),
    "fewer than the least": (["--engine", "ray", "--workers", "3:2"], "--workers is '3:2'; --engine ray needs"),
    "two GPUs": (["--engine", "ray", "--workers", "1", "--gpus-per-worker", "2"], "--gpus-per-worker is '2'; allowed"),
    "no address": (["--engine", "ray", "--workers", "1", "--address", "head"], "--address is 'head'; allowed are HOST"),
    "a client": (
        ["--engine", "ray", "--workers", "1", "--address", "ray://a:10001"],
        "--address: ray:// leads a",
    ),
    "unreachable": (["--engine", "ray", "--workers", "1"], "--address: nothing answers at 127.0.0.1:"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_before_any_work(
    case: str, source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(builders.recipe(source, tmp_path / "out", None)))
    options, sentence = BAD[case]
    address = ["--address", closed_port()] if case == "unreachable" else []
    assert main(["run", str(tmp_path / "r.yaml"), *options, *address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"doppel: {sentence}")
    assert not (tmp_path / "out").exists()


def test_good_options() -> None:
    assert bounds("4") == (4, 4)
    assert bounds("1:8") == (1, 8)
    assert share("0.5") == 0.5
