"""`doppel compare`: arms × seeds × training-set sizes, at equal steps, with paired intervals.

Losses are shown like gains. The order is: baselines → other arms without neighbours → the best of them by validation →
neighbours → all other arms → summary.
"""

from __future__ import annotations

import multiprocessing
import platform
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from pipeline.errors import UserError
from pipeline.orphans import follow_parent, undisturbed
from training.compare.config import CompareConfig
from training.compare.intervals import holm, paired
from training.compare.pools import pool_hash
from training.compare.runs import Bench, Task, with_best

Observe = Callable[[str, int, int], None]
"""Is told (what was done, runs so far, runs in all)."""
Run = dict[str, Any]
"""The record of a run."""


def compare(
    config: CompareConfig, *, overwrite: bool = False, observe: Observe = lambda what, done, total: None
) -> dict[str, Any]:
    """Does the runs that are not done yet, and returns the results: `runs`, their `summary`, and what they rest on.

    `overwrite` starts anew. Raises `UserError` for bad input before anything is trained.
    """
    device = found_device(config.device)
    bench = Bench(config, device=device)
    every = [(size, seed) for size in config.sizes for seed in range(config.seeds)]
    for size, seed in every:
        bench.subset(size, seed)  # a class that is missing is said before anything is trained
    if overwrite:
        shutil.rmtree(bench.folder / "runs", ignore_errors=True)
    tasks = [
        Task(arm=name, classical=arm.classical, size=size, seed=seed)
        for size, seed in every
        for name, arm in config.arms.items()
    ]
    runs: list[Run] = []

    def count(done: Iterable[Run]) -> None:
        for run in done:
            runs.append(run)
            observe(f"{run['arm']} {run['size']}/{run['seed']}", len(runs), len(tasks))

    with workers(config, bench, device) as each:
        plain = [task for task in tasks if config.arms[task.arm].plain]
        count(each([task for task in plain if task.arm == config.baseline]))
        count(each([task for task in plain if task.arm != config.baseline]))
        best = {str(size): best_classical(config, runs, size) for size in config.sizes}
        usable = {(r["size"], r["seed"]) for r in runs if r["arm"] == config.baseline and r["failed"] is None}
        rest = [with_best(t, config.arms[best[str(t.size)]].classical) for t in tasks if not config.arms[t.arm].plain]
        judged = {name for name, near in config.neighbours.items() if near.judged}
        possible = [t for t in rest if config.arms[t.arm].near not in judged or (t.size, t.seed) in usable]
        observe("neighbours", len(runs), len(tasks))
        for _ in each(pools_of(config, bench, possible)):
            observe("neighbours", len(runs), len(tasks))
        count(each(possible))
        count(without_baseline(t, config) for t in rest if t not in possible)
    return results(config, runs, best, device)


def found_device(name: str) -> str:
    """The device by torch's name; `auto` is the GPU, or the CPU where there is none."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def pools_of(config: CompareConfig, bench: Bench, tasks: Sequence[Task]) -> list[tuple[str, int | str, int]]:
    """(neighbours, size, seed) of each pool of pixels that is still to be made, each pool once."""
    wanted: dict[str, tuple[str, int | str, int]] = {}
    for task in tasks:
        name = config.arms[task.arm].near
        if name is None or config.neighbours[name].model is None or bench.finished(task) is not None:
            continue
        wanted[pool_hash(config.neighbours[name], bench.subset(task.size, task.seed))] = (name, task.size, task.seed)
    return list(wanted.values())


def without_baseline(task: Task, config: CompareConfig) -> Run:
    """The record of a run that cannot be done because its baseline failed."""
    return {
        "arm": task.arm, "classical": task.classical, "size": task.size, "seed": task.seed, "seconds": 0.0,
        "steps": config.schedule.steps, "failed": f"the baseline {config.baseline} failed, which weighs the neighbours",
    }  # fmt: skip


Work = Task | tuple[str, int | str, int]
"""A run, or (neighbours, size, seed) of a pool to make."""
_bench: Bench | None = None
"""The bench of this worker process."""


@contextmanager
def workers(config: CompareConfig, bench: Bench, device: str) -> Iterator[Callable[[Sequence[Any]], Iterator[Any]]]:
    """Yields a function that performs tasks, and yields the result of each as it is finished.

    Raises `UserError` where a process dies.
    """
    if config.workers == 1:
        yield lambda tasks: (perform(bench, task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    with undisturbed():
        executor = ProcessPoolExecutor(config.workers, context, initializer=_begin, initargs=(config, device))
    with executor as pool:
        try:
            yield lambda tasks: (f.result() for f in as_completed(submitted(pool, tasks)))
        except BrokenProcessPool:
            raise UserError(
                f"a training process died, perhaps for want of memory; finished runs are kept: go on with fewer "
                f"workers than {config.workers}"
            ) from None
        except KeyboardInterrupt:  # a run takes minutes, and is done again
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def submitted(pool: ProcessPoolExecutor, tasks: Sequence[Any]) -> list[Future[Any]]:
    """Gives the tasks to the pool, which starts its processes with the first."""
    with undisturbed():
        return [pool.submit(_perform, task) for task in tasks]


def perform(bench: Bench, work: Work) -> Run | None:
    """Does a run, or makes a pool, for which it returns None."""
    if isinstance(work, Task):
        return bench.perform(work)
    name, size, seed = work
    bench.make_pool(bench.config.neighbours[name], size, seed)
    return None


def _begin(config: CompareConfig, device: str) -> None:
    global _bench
    follow_parent()
    torch.set_num_threads(1)
    _bench = Bench(config, device=device)


def _perform(work: Work) -> Run | None:
    assert _bench is not None
    return perform(_bench, work)


def best_classical(config: CompareConfig, runs: Sequence[Run], size: int | str) -> str:
    """The arm without neighbours with the best mean validation accuracy, among those that failed least.

    Raises `UserError` where all of them failed in every run.
    """
    scores = {
        name: [r["validation"] for r in runs if r["arm"] == name and r["size"] == size and r["failed"] is None]
        for name, arm in config.arms.items()
        if arm.plain
    }
    if not any(scores.values()):
        raise UserError(f"size {size}: every arm without neighbours failed in every run; lower schedule.lr")
    return max(scores, key=lambda name: (len(scores[name]), fmean(scores[name] or [0.0])))


def results(config: CompareConfig, runs: Sequence[Run], best: dict[str, str], device: str) -> dict[str, Any]:
    """Everything that `results.json` holds."""
    equal_steps(runs)
    order = {name: i for i, name in enumerate(config.arms)}
    runs = sorted(runs, key=lambda r: (config.sizes.index(r["size"]), r["seed"], order[r["arm"]]))
    return {
        "name": Path(config.output).name, "split": "test" if config.data.test else "validation",
        "machine": machine(config, device), "metric": "accuracy",
        "classes": list(config.class_names or map(str, range(config.classes))),
        "reference": config.reference, "best_classical": best,
        "arms": list(config.arms), "sizes": [str(size) for size in config.sizes], "seeds": list(range(config.seeds)),
        "config": config.model_dump(mode="json", exclude={"output", "device", "workers"}),
        "runs": [{**run, "size": str(run["size"])} for run in runs],
        "summary": {str(s): summary(config, [r for r in runs if r["size"] == s], best[str(s)]) for s in config.sizes},
    }  # fmt: skip


def equal_steps(runs: Sequence[Run]) -> None:
    """Raises `UserError` where one arm was trained for more steps than another."""
    steps = {run["steps"]: run["arm"] for run in runs}
    if len(steps) > 1:
        found = ", ".join(f"{arm} {count}" for count, arm in sorted(steps.items()))
        raise UserError(f"arms were trained for different numbers of steps ({found}), and cannot be compared")


def summary(config: CompareConfig, runs: Sequence[Run], best: str) -> dict[str, Any]:
    """The figures of each arm at one size.

    They are mean and standard deviation over seeds, and paired differences with Holm's correction over the arms.
    """
    scores = {
        name: {r["seed"]: r["accuracy"] for r in runs if r["arm"] == name and r["failed"] is None}
        for name in config.arms
    }
    made: dict[str, Any] = {
        name: {
            "mean": fmean(own.values()) if own else None,
            "std": stdev(own.values()) if len(own) > 1 else None,
            "n": len(own),
            "seconds": fmean([r["seconds"] for r in runs if r["arm"] == name and r["failed"] is None] or [0.0]),
            "against": {},
        }
        for name, own in scores.items()
    }
    for label, against in ((config.reference, config.reference), ("best_classical", best)):
        tests = {}
        for name, own in scores.items():
            both = sorted(own.keys() & scores[against].keys())
            if name != against and both:
                tests[name] = paired([own[seed] - scores[against][seed] for seed in both])
        adjusted = holm([test.p for test in tests.values()])
        for (name, test), p_holm in zip(tests.items(), adjusted, strict=True):
            found = {"mean": test.mean, "low": test.low, "high": test.high, "p": test.p, "p_holm": p_holm, "n": test.n}
            made[name]["against"][label] = {k: plain(v) for k, v in found.items()}
    return made


def plain(value: float) -> float | None:
    """The value, or None for nan, which JSON does not have."""
    return None if value != value else value


def machine(config: CompareConfig, device: str) -> str:
    """The machine and the software, in words."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else f"{platform.machine()} CPU"
    return f"{name}, {config.workers} at a time, torch {torch.__version__}"
