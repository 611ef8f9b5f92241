"""Real Ray clusters of two nodes on this machine: actors and nodes are killed in the middle, and the bytes stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import validate
from pipeline.engine.events import Event, Noted, ShardDone
from pipeline.engine.planning import make_plan
from pipeline.engine.ray_cluster import SILENCE, connected
from pipeline.engine.ray_engine import RayEngine
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from tests import builders

pytest.importorskip("ray")
pytestmark = pytest.mark.slow
SHARDS, SALT = 40, "a-secret-0f-enough-bytes-for-ray"
SMALL = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
WAIT = {"RAY_agent_register_timeout_ms": "240000", "RAY_worker_register_timeout_seconds": "240"}
"""A machine that does other things starts Ray slowly."""


@contextmanager
def cluster(monkeypatch: pytest.MonkeyPatch, nodes: int) -> Iterator[Any]:
    for name, value in {**SILENCE, **WAIT}.items():
        monkeypatch.setenv(name, value)
    from ray._private import services
    from ray.cluster_utils import Cluster

    monkeypatch.setattr(services, "get_node", patient(services.get_node))
    made = Cluster(initialize_head=True, head_node_args=SMALL)
    try:
        for _ in range(nodes - 1):
            made.add_node(**SMALL)
        yield made
    finally:
        made.shutdown()


def patient(find: Callable[..., Any]) -> Callable[..., Any]:
    """Ray gives a node 30 seconds to start, and no more; this gives it 240."""

    def found(*given: Any) -> Any:
        until = time.monotonic() + 240
        while True:
            try:
                return find(*given)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(1)

    return found


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """A job with a secret, without a model: what is tested here begins when one is loaded."""
    for i in range(SHARDS):
        builders.shard(tmp_path / "in" / f"{i:02d}.tar", 8, first=8 * i)
    (tmp_path / "salt").write_text(SALT)
    salt = {"run.salt_file": str(tmp_path / "salt")}
    return builders.recipe(tmp_path / "in" / "*.tar", tmp_path / "out", None, **salt)


def plan_of(content: dict[str, Any], out: Path) -> Plan:
    return make_plan(validate(JobConfig, content | {"output": {"path": str(out)}}, "test"))


def workers_of(made: Any) -> list[int]:
    """The processes of our actors in a cluster."""
    raylets = {
        str(process.process.pid) for node in made.list_all_nodes() for process in node.all_processes["raylet"]
    }  # fmt: skip
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = (place / "stat").read_text().rpartition(")")[2].split()[1]
            if parent in raylets and b"ShardWorker" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:  # it has ended
            continue
    return found


def test_a_killed_actor_and_a_killed_node_change_no_byte_and_the_salt_is_nowhere(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(plan_of(content, tmp_path / "here"))
    events, killed, at = list[Event](), set[int](), dict[str, float]()
    with cluster(monkeypatch, 2) as made, connected(made.address):
        second = made.list_all_nodes()[-1]

        def fault(event: Event) -> None:
            events.append(event)
            done = sum(isinstance(event, ShardDone) for event in events)
            if isinstance(event, ShardDone) and done == 2:
                killed.add(workers_of(made)[0])
                os.kill(*killed, signal.SIGKILL)
            if isinstance(event, ShardDone) and done == 5:
                at["killed"] = time.monotonic()
                made.remove_node(second, allow_graceful=False)
            if isinstance(event, ShardDone) and done == 6:
                at["next"] = time.monotonic()

        manifest = run_job(
            plan_of(content, tmp_path / "there"), engine=RayEngine(least=2, most=2, gpus=0), observe=fault
        )
        assert not workers_of(made)
        for file in Path("/tmp/ray/session_latest/").rglob("*"):
            if file.is_file():
                assert SALT.encode() not in file.read_bytes(), file
    print(f"{at['next'] - at['killed']:.1f} s from the death of a node to the next shard")
    assert manifest.complete
    assert builders.tree(tmp_path / "here", "data") == builders.tree(tmp_path / "there", "data")
    assert sum("a worker died" in event.text for event in events if isinstance(event, Noted)) >= 1


def test_a_job_grows_onto_a_node_that_joins(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(plan_of(content, tmp_path / "here"))
    seen = list[int]()
    with cluster(monkeypatch, 1) as made, connected(made.address):

        def grow(event: Event) -> None:
            if isinstance(event, ShardDone):
                seen.append(len(workers_of(made)))
                if len(seen) == 1:
                    made.add_node(**SMALL)
                    until = time.monotonic() + 200
                    while len(workers_of(made)) < 2 and time.monotonic() < until:
                        time.sleep(1)

        run_job(plan_of(content, tmp_path / "there"), engine=RayEngine(least=1, most=2, gpus=0), observe=grow)
        assert not workers_of(made)
    assert (seen[0], max(seen)) == (1, 2)
    assert builders.tree(tmp_path / "here", "data") == builders.tree(tmp_path / "there", "data")


def test_a_command_that_is_stopped_leaves_no_actor_and_the_same_command_goes_on(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_job(plan_of(content, tmp_path / "here"))
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    with cluster(monkeypatch, 2) as made:
        command = [sys.executable, "-m", "pipeline.cli", "run", str(tmp_path / "r.yaml"), "--engine", "ray"]
        command += ["--address", made.address, "--workers", "2"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            while not list((tmp_path / "out" / "shards").glob("*.json")):
                assert running.poll() is None, running.stderr and running.stderr.read()
                time.sleep(0.2)
            began = time.monotonic()
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 128 + signal.SIGTERM
            assert running.stderr is not None
            assert "interrupted by SIGTERM" in running.stderr.read()
        print(f"{time.monotonic() - began:.1f} s from the signal to the end")
        assert not workers_of(made)
        assert [path.name for path in (tmp_path / "out" / ".parts").iterdir()] == ["lock"]
        assert subprocess.run(command, check=False).returncode == 0
    assert builders.tree(tmp_path / "here", "data") == builders.tree(tmp_path / "out", "data")
