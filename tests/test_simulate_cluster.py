"""The simulation of clusters agrees with what can be worked out by hand."""

import math
from dataclasses import replace

import pytest
import simulate_cluster as sim
from simulate_cluster import Case, Outcome, simulate

QUIET = Case(
    images=100_000, images_per_shard=1000, images_per_second=10, gpus=7, shard_seconds=0.5, start_seconds=30,
    failures=0, stalls=0, stragglers=0, spread=0,
)  # fmt: skip


@pytest.mark.parametrize("gpus", [1, 7, 100, 150])
def test_without_failures_the_shards_go_in_rounds(gpus: int) -> None:
    out = simulate(replace(QUIET, gpus=gpus))
    assert out.hours * 3600 == pytest.approx(30 + math.ceil(100 / gpus) * 100.5)
    assert (out.lost, out.twice) == (0, 0)
    assert out.kept * 3600 == pytest.approx(10_000)
    assert out.paid == pytest.approx(gpus * out.hours)


def test_failures_take_what_exponential_ones_take() -> None:
    """One GPU that comes back at once: tries until a shard goes through; within 4 standard errors."""
    case = replace(QUIET, gpus=1, images=1e6, failures=6.0, lease=0, absent_seconds=0, start_seconds=0, shard_seconds=0)
    runs = [simulate(case, seed).lost * 3600 / 1000 for seed in range(12)]
    found = sum(runs) / len(runs)
    error = math.sqrt(sum((run - found) ** 2 for run in runs) / (len(runs) - 1) / len(runs))
    assert abs(found - sim.lost_per_shard(100, 6 / 3600)) < 4 * error
    assert error < 0.05 * found


def test_absence_and_new_starts_lengthen_the_job_of_one_gpu() -> None:
    case = replace(QUIET, gpus=1, images=1e6, failures=6.0, lease=0, absent_seconds=50, start_seconds=20)
    out = sim.mean(case, 12)
    rate = 6 / 3600
    expected = 20 + 1000 * math.expm1(rate * 100.5) * (1 / rate + 70)
    assert out.hours * 3600 == pytest.approx(expected, rel=0.02)
    assert out.paid < out.hours  # who is absent is not paid


def test_a_preempted_shard_is_free_at_once_and_a_failed_one_after_the_lease() -> None:
    """On one GPU that is back in no time, only the lease is waited for."""
    one = replace(QUIET, gpus=1, images=1000, lease=5000, absent_seconds=0, start_seconds=0)
    failing, preempted = (sim.mean(replace(one, **{kind: 18.0}), 200) for kind in ("failures", "preemptions"))
    tries = math.expm1(18 / 3600 * 100.5)
    assert (failing.hours - preempted.hours) * 3600 == pytest.approx(tries * 5000, rel=0.25)


def test_who_stalls_for_longer_than_the_lease_is_outrun() -> None:
    long = replace(QUIET, stalls=3600.0, stall_seconds=100, lease=1)
    assert simulate(long).twice > 0
    assert simulate(replace(long, lease=1e6)).twice == 0


def test_a_slow_gpu_takes_fewer_shards() -> None:
    even, slow = (simulate(replace(QUIET, gpus=10, stragglers=share, straggler_speed=0.5)) for share in (0.0, 0.5))
    assert slow.hours / even.hours == pytest.approx(1 / 0.75, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_hours_add_up(seed: int) -> None:
    rough = replace(QUIET, failures=2.0, preemptions=2.0, stalls=5.0, stragglers=0.3, spread=0.2)
    out = simulate(rough, seed)
    assert min(getattr(out, name) for name in Outcome.__dataclass_fields__) >= -1e-9
    assert out.paid <= rough.gpus * out.hours + 1e-9
    assert out.kept * 3600 * 10 > 0.9 * rough.images
    assert simulate(rough, seed) == out


def test_the_best_size_is_about_young_s() -> None:
    """The end of a job, where GPUs wait for the last, is short here: one GPU."""
    case = replace(QUIET, images=1e6, gpus=1, failures=2.0, lease=0, absent_seconds=0, start_seconds=0, shard_seconds=2)
    best = min(sim.GRID[3:-2], key=lambda size: sim.mean(replace(case, images_per_shard=size)).paid)
    assert sim.young(case) / 2.5 <= best <= sim.young(case) * 2.5


def test_what_is_recommended_costs_little_more_than_the_best() -> None:
    case = replace(QUIET, images=20_000, gpus=4, failures=1.0, stalls=1.0)
    found = sim.recommend(case)
    sizes = [sim.mean(replace(case, images_per_shard=size)).paid for size in sim.GRID if size <= 10_000]
    assert sim.mean(replace(found, lease=case.lease)).paid <= 1.01 * min(sizes)
    assert found.images_per_shard in sim.GRID
    assert found.lease in sim.LEASES


def test_the_command_tells_a_case(capsys: pytest.CaptureFixture[str]) -> None:
    sim.main(["--images", "1e4", "--gpus", "2", "--failures", "0", "--stalls", "0", "--price", "4"])
    assert "10 shards on 2 GPUs" in capsys.readouterr().out
