"""`doppel run` for Python: the job of a recipe, and the release that the recipe may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from pipeline.commands.release import check_export, export
from pipeline.config import load_config
from pipeline.engine.events import Event
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.streams.job_records import Manifest
from pipeline.streams.reconciling import OnChange


def run(
    recipe: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    on_change: OnChange = "refuse",
    prune: bool = False,
    verify: bool = False,
    retry_quarantine: bool = False,
    observe: Callable[[Event], None] = lambda event: None,
) -> Manifest:
    """Does what is left of the job of a recipe, and returns its manifest: counts, shards, hashes, as in manifest.json.

    `recipe` is a YAML file, or the name of a shipped recipe; `overrides` are what `--set` takes, such as `"limit=100"`
    or `"output.path=/data/out"`. `on_change` says what happens where the recipe, model or code differs from those of
    the finished shards, or an input has changed: "refuse" to go on, "redo" those whose input changed, "keep" them, or
    "overwrite" the whole job. `prune` removes what was made of inputs that are gone, `verify` hashes all outputs
    instead of comparing their sizes, and `retry_quarantine` does the samples that are in quarantine again. `observe` is
    told whatever happens. Nothing is printed. A script that runs a job on several devices needs
    `if __name__ == "__main__":`, because their processes import it.

    Raises `UserError` for bad input, and where the recipe asks for a release and the job could not be finished.
    """
    plan = make_plan(load_config(JobConfig, os.fspath(recipe), overrides))
    check_export(plan)
    manifest = run_job(
        plan, on_change=on_change, prune=prune, verify=verify, retry_quarantine=retry_quarantine, observe=observe
    )
    if plan.config.release is not None:
        check_finished(plan, manifest)
        export(plan, lambda what, count: None)
    return manifest


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
