"""Running a job: its folder is claimed and reconciled, an engine does what is left, and the totals are written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import asdict, replace

from pipeline.engine.batch_size import remember
from pipeline.engine.events import Event, Noted, Progress, SetAside, ShardDone, TakenBack
from pipeline.engine.labels import Tolerance, check_first
from pipeline.engine.local import local
from pipeline.engine.reading import open_input
from pipeline.engine.run import Engine, Run, confidential
from pipeline.engine.scanning_apart import scan_apart
from pipeline.engine.sharing import Sharing
from pipeline.job.classes import Classes
from pipeline.job.hashes import identity
from pipeline.job.outputs import shape_of
from pipeline.job.plan import Plan
from pipeline.main_guard import check_main_guard, unguarded
from pipeline.streams.apart import check_apart
from pipeline.streams.asides import Asides, marked, was_killed
from pipeline.streams.claims import SCAN
from pipeline.streams.job_records import Job, Manifest, StatedLicence
from pipeline.streams.ledger import Ledger
from pipeline.streams.ownership import alone
from pipeline.streams.places import is_remote
from pipeline.streams.reconciling import OnChange, Retry, reconcile, settle
from pipeline.streams.store import make_private
from pipeline.streams.written import READ_BACK


def run_job(
    plan: Plan, *, on_change: OnChange = "refuse", prune: bool = False, verify: bool = False,
    retry_quarantine: bool = False,
    observe: Callable[[Event], None] = lambda event: None,
    begin: Callable[[int, int], None] = lambda finished, total: None, engine: Engine = local,
    sharing: Sharing | None = None,
) -> Manifest:  # fmt: skip
    """Does what is left of a job and returns its manifest.

    Finished shards are compared with today's input and outputs first: `on_change` says what happens where they differ,
    `prune` removes what is gone from the input, `verify` hashes the outputs, and `retry_quarantine` does what is in
    quarantine again. `begin(finished, total)` is told how many shards there are, and `observe` everything that happens
    afterwards. The `engine` does the work that is left; with `sharing`, together with other runs of the job. Raises
    `UserError` for what the user can mend. After a crash or Ctrl-C, finished shards stay finished, and the same call
    goes on from there. Shards that end every process are set aside; the manifest is not complete then, and names them.
    """
    (stream, classes), devices, limit = open_input(plan), plan.devices, plan.config.limit
    names = [shard.name for shard in stream.shards]
    scans = engine is local  # others scan with their workers
    if sharing is not None:
        plan, engine = replace(plan, work=sharing.work), sharing.divided(engine)
    job, ledger = job_of(plan, classes), Ledger(plan.config.output.path, plan.work)
    store = ledger.store
    if plan.config.anonymity or plan.config.run.timeout is not None or (len(devices) > 1 and not limit):
        check_main_guard("the job")
    asides, alive = Asides(store), unguarded() is not None
    died = (was_killed(store) or bool(asides.all())) and not alive
    check_apart(plan.config.output.path, stream)
    if stream.shards and not died and (on_change == "overwrite" or ledger.record(stream.shards[0].name) is None):
        check_first(plan, stream.shards, classes)
    hold = alone if sharing is None else sharing.hold
    with confidential(plan), ledger.open(job, keep=on_change == "keep", overwrite=on_change == "overwrite", hold=hold):
        if plan.config.anonymity is not None:
            make_private(ledger.store)
        retry_damaged = sharing is None and plan.config.on_damage == "fail"  # each run would, again and again
        standing = reconcile(ledger, stream, limit=limit, verify=verify, retry_damaged=retry_damaged)
        retry = retry_of(plan) if retry_quarantine else None
        work = settle(ledger, standing, on_change, limit=limit, prune=prune, retry=retry)
        todo = {shard.name for shard in work.shards}
        tolerance = Tolerance(plan, classes, sum(r.counts.unread for r in ledger.records() if r.shard not in todo))
        told = set[str]()

        def note(text: str) -> None:
            if text not in told:
                told.add(text)
                observe(Noted(text))
                ledger.log("note", text=text)

        for text in (*stream.notes, *plan.notes, *work.notes, *notes_on(plan, ledger)):
            note(text)
        if plan.config.model is not None and plan.config.model.batch_size == "auto":
            plan = replace(plan, batch_size=remember(ledger.store, plan.hashes, plan.batch_size, first=bool(sharing)))
        ledger.note_input(len(names))
        begin(len(names) - len(work.shards), len(names))
        ledger.log("start", shards=len(names), todo=len(work.shards), devices=devices)
        aside = asides.all()
        for name in aside.keys() - todo:  # done since in another way, or gone from the input
            asides.clear(name)
            del aside[name]
        died = died or (sharing is not None and not alive)
        run = Run(plan=plan, stream=stream, classes=classes, ledger=ledger, work=work, died=died)
        over = False
        with marked(store) if sharing is None else nullcontext():
            if plan.config.anonymity is not None and work.shards and scans:
                with nullcontext() if sharing is None else sharing.turn(SCAN):
                    scan_apart(plan, observe)
            try:
                with closing(engine(run)) as events:
                    for event in events:
                        if isinstance(event, Noted):
                            note(event.text)  # each worker tells it once
                            continue
                        observe(event)
                        if isinstance(event, Progress):
                            tolerance.add(event.unread)
                        elif isinstance(event, TakenBack):
                            tolerance.take_back(event.told.unread)
                        elif isinstance(event, ShardDone):
                            ledger.log("shard", shard=event.record.shard, **event.record.counts.model_dump())
                            if aside.pop(event.record.shard, None) is not None:
                                asides.clear(event.record.shard)
                        elif isinstance(event, SetAside):
                            ledger.log("aside", **event.aside.model_dump(exclude={"version"}))
                            asides.put(event.aside)
                            aside[event.aside.shard] = event.aside
                over = True
            finally:
                if over or sharing is None:  # else others go on, and the last of them writes it
                    kept = [shard.name for shard in standing.changed] if on_change == "keep" else []
                    lost = aside if sharing is None else asides.all()
                    why = {name: found.reason for name, found in lost.items()}
                    manifest = ledger.write_manifest(job, names, limit=limit, changed=kept, aside=why)
                    ledger.log("stop", **manifest.shards.model_dump(), **manifest.counts.model_dump())
        if sharing is not None:
            Tolerance(plan, classes, manifest.counts.unread)  # of all runs together
        return manifest


def notes_on(plan: Plan, ledger: Ledger) -> list[str]:
    """What people should know of the place of a job, before any work, as sentences."""
    if plan.config.anonymity is None:
        return []
    private = [ledger.shown, *([plan.config.release.audit] if plan.config.release else [])]
    return [
        f"{place} will hold originals and faces; who may read there is for the bucket to say"
        for place in private
        if is_remote(place)
    ]


def retry_of(plan: Plan) -> Retry:
    """Whether samples can be done again without their shard.

    They can not where the bytes or the order of others hang on them: frames of clips do, guides that lie before, and
    whatever goes round again at another level.
    """
    config = plan.config
    alone = not (config.anonymity or config.clip or config.video or (config.guide and config.guide.previous))
    return "samples" if alone and config.output.format in READ_BACK else "shards"


def job_of(plan: Plan, classes: Classes) -> Job:
    """The record of a plan's job. It does not name the classes where images show people: they may be called so."""
    licences = {path: StatedLicence(**asdict(licence)) for path, licence in plan.licences.items()}
    shape = shape_of(plan.config.operator)
    shown = None if plan.config.anonymity is not None or classes.shown is None else dict(classes.shown)
    return Job(
        config=identity(plan.config), hashes=plan.hashes, outputs=shape, licences=licences, found=plan.found,
        classes=shown,
    )  # fmt: skip
