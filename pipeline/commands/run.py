"""`doppel run` for Python: the job of a recipe, and the release that the recipe may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipeline.commands.release import check_export, export
from pipeline.config import load_config
from pipeline.engine.events import Event
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.engine.sharing import Sharing, check_shareable, shared
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.release.manifest import SEAL
from pipeline.streams.claims import RELEASE
from pipeline.streams.job_records import Manifest
from pipeline.streams.places import open_store
from pipeline.streams.reconciling import OnChange


def run(
    recipe: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    on_change: OnChange = "refuse",
    prune: bool = False,
    verify: bool = False,
    retry_quarantine: bool = False,
    share: bool = False,
    observe: Callable[[Event], None] = lambda event: None,
) -> Manifest:
    """Does what is left of the job of a recipe, and returns its manifest: counts, shards, hashes, as in manifest.json.

    `recipe` is a YAML file, or the name of a shipped recipe; `overrides` are what `--set` takes, such as `"limit=100"`
    or `"output.path=/data/out"`. `on_change` says what happens where the recipe, model or code differs from those of
    the finished shards, or an input has changed: "refuse" to go on, "redo" those whose input changed, "keep" them, or
    "overwrite" the whole job. `prune` removes what was made of inputs that are gone, `verify` hashes all outputs
    instead of comparing their sizes, and `retry_quarantine` does the samples that are in quarantine again. With `share`
    the shards are divided with other runs of the same job, of which one makes the release. `observe` is told whatever
    happens. Nothing is printed. A script that runs a job on several devices needs
    `if __name__ == "__main__":`, because their processes import it.

    Raises `UserError` for bad input, and where the recipe asks for a release and the job could not be finished.
    """
    config = load_config(JobConfig, os.fspath(recipe), overrides)
    with taking_part(
        config, share=share, on_change=on_change, prune=prune, retry_quarantine=retry_quarantine
    ) as sharing:
        plan = make_plan(config)
        check_export(plan)
        manifest = run_job(
            plan, on_change=on_change, prune=prune, verify=verify, retry_quarantine=retry_quarantine, observe=observe,
            sharing=sharing,
        )  # fmt: skip
        if plan.config.release is not None:
            check_finished(plan, manifest)
            if released_by_others(plan, sharing) is None:
                export(plan, lambda what, count: None)
        return manifest


@contextmanager
def taking_part(
    config: JobConfig, *, share: bool, on_change: OnChange, prune: bool, retry_quarantine: bool
) -> Iterator[Sharing | None]:
    """This run's part in a job that it shares with others, as long as it is at work; None where it does not `share`.

    Raises `UserError` for what cannot be shared.
    """
    if not share:
        yield None
        return
    check_shareable(config, on_change=on_change, prune=prune, retry_quarantine=retry_quarantine)
    with shared(config.output.path, lease=config.run.lease) as sharing:
        yield sharing


def released_by_others(plan: Plan, sharing: Sharing | None) -> str | None:
    """Why this run makes no release, as a sentence; None where it is to make it.

    Of several runs that share a job, one makes it.
    """
    release = plan.config.release
    if sharing is None or release is None:
        return None
    if open_store(release.path).held([SEAL]):
        return f"{release.path}: the release is made already"
    return None if sharing.first(RELEASE) else f"{release.path}: another run makes the release"


def check_finished(plan: Plan, manifest: Manifest) -> None:
    """Raises `UserError` where the job is not finished or its input has changed, so that nothing may be released."""
    if not manifest.complete:
        raise UserError(f"{plan.config.output.path}: the job is not finished, so nothing is released")
    if (stale := manifest.stale()) is not None:
        raise UserError(f"{plan.config.output.path}: {stale}")
    if manifest.counts.damaged and plan.config.on_damage == "fail":
        raise UserError(f"{plan.config.output.path}: {damage(manifest)}, so nothing is released; on_damage: keep does")


def damage(manifest: Manifest) -> str:
    """What is to be said of damaged shards."""
    places = manifest.counts.damaged
    return f"input shards are damaged in {places} place{'s' * (places > 1)}, where an unknown number of samples is lost"
