"""The `doppel` command. Heavy imports wait until a subcommand needs them."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from typing import TYPE_CHECKING, TextIO

from pipeline import __version__
from pipeline.errors import UserError
from pipeline.posix import require_posix
from pipeline.stopping import stoppable

if TYPE_CHECKING:
    from pipeline.audit import AuditConfig
    from pipeline.audit.results import AuditResults
    from pipeline.commands.engines import Chosen
    from pipeline.engine.run import Engine
    from pipeline.engine.sharing import Sharing
    from pipeline.job.config import JobConfig
    from pipeline.job.plan import Plan
    from pipeline.streams.job_records import Manifest
    from pipeline.streams.reconciling import OnChange

FAILED, BAD_INPUT, SIGNALLED, INTERRUPTED = 1, 2, 128, 130
"""The exit codes for failures; 0 stands for success, and 128 + n for an end by signal n."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and returns its exit code.

    The codes are 0 for done, 1 where the job failed, 2 for bad input (one sentence on stderr), 130 after Ctrl-C, and
    128 + n after another signal n.
    """
    with stoppable() as stopping:
        try:
            require_posix("doppel")
            args = build_parser().parse_args(arguments)
            code = args.command(args)
            sys.stdout.flush()
            return code
        except (Exception, KeyboardInterrupt) as error:
            if stopping.number is not None or isinstance(error, KeyboardInterrupt):
                return interrupted(error, stopping.number or signal.SIGINT)
            return failed(error)


def interrupted(error: BaseException, number: int) -> int:
    """Says what was finished when a signal ended the command, and returns its exit code.

    The error may be another one than `Stopped`: libraries make their own of it, and workers are signalled, too.
    """
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    finished = "".join(f", {note}" for note in getattr(error, "__notes__", ()))
    complain(f"interrupted{by}{finished}; nothing half-done is left, the same command goes on from here")
    return SIGNALLED + number


def failed(error: Exception) -> int:
    """Says why the command failed, in one line, and returns its exit code; raises what is an error of doppel's own."""
    if isinstance(error, UserError):
        complain(str(error))
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        silence(sys.stdout)
        return SIGNALLED + signal.SIGPIPE  # as a program ends whose output nobody reads any more
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        why = " ".join((error.strerror or str(error)).split())
        complain(f"{where}{why}; finished shards are kept, the same command goes on from there")
        silence(sys.stdout)
        return FAILED
    raise error


def complain(sentence: str) -> None:
    """One line on stderr, if anybody reads it."""
    try:
        text = sentence.encode(errors="backslashreplace").decode()  # names of files may be no text
        print(f"doppel: {text}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Where a stream cannot be written to any more, sends what it still holds nowhere, so that exiting is quiet."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands and their options."""
    parser = argparse.ArgumentParser(prog="doppel", description="Stream image data sets through diffusion operators.")
    parser.add_argument("--version", action="version", version=f"doppel {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the job of a recipe; finished shards are skipped")
    _recipe(run)
    run.add_argument("--limit", type=int, metavar="N", help="only the first N samples")
    run.add_argument("--dry-run", action="store_true", help="print the resolved recipe and what it would cost")
    run.add_argument("--forbid-noncommercial", action="store_true", help="refuse weights that forbid commercial use")
    change = run.add_mutually_exclusive_group()
    change.add_argument("--overwrite", action="store_true", help="remove what the job wrote before, and start anew")
    change.add_argument("--redo-changed", action="store_true", help="do finished shards again whose input changed")
    change.add_argument("--keep-finished", action="store_true", help="keep finished shards although something changed")
    run.add_argument("--prune", action="store_true", help="remove what was made of shards that are gone from the input")
    run.add_argument("--verify", action="store_true", help="hash all outputs of finished shards, not only their sizes")
    run.add_argument("--retry-quarantine", action="store_true", help="do the samples again that are in quarantine")
    run.add_argument("--engine", default="local", metavar="NAME", help="local (default), or ray: a cluster of machines")
    run.add_argument("--address", metavar="HOST:PORT", help="of the Ray cluster; auto: the one that runs here")
    run.add_argument("--workers", metavar="N[:M]", help="ray: at least N, and at most M where there is room")
    run.add_argument("--gpus-per-worker", metavar="G", help="ray: 0, 1 or a share (default: 1 if the cluster has GPUs)")
    run.add_argument("--share", action="store_true", help="divide the shards with other runs of the same job")
    run.set_defaults(command=run_command)

    status = commands.add_parser("status", help="how far a job is, who works at it, and how long it will take")
    status.add_argument("job", metavar="JOB", help="the folder or URL of output.path")
    status.add_argument("--json", action="store_true", help="print a record for programs")
    status.set_defaults(command=status_command)

    recipes = commands.add_parser("recipes", help="the recipes that come with doppel, and the command of each kind")
    recipes.add_argument("--kind", help="only those of one kind: job, denoiser, compare, …")
    recipes.set_defaults(command=recipes_command)

    preview = commands.add_parser("preview", help="a contact sheet of a recipe's first samples: inputs beside outputs")
    _recipe(preview)
    preview.add_argument("-n", type=int, default=8, dest="count", metavar="N", help="samples to show (default: 8)")
    preview.add_argument("-o", "--output", default="sheet.png", metavar="FILE", help="default: sheet.png")
    preview.add_argument("--animate", metavar="FILE", help=".gif or .mp4: the tiles of the first sample slide")
    preview.set_defaults(command=preview_command)

    demo = commands.add_parser("demo", help="real images through the embedded model: shards, contact sheet, numbers")
    demo.add_argument("--out", default="demo_out", help="output folder (default: demo_out)")
    demo.set_defaults(command=demo_command)

    edits = commands.add_parser("edits", help="captions into edits with instructions, as input for paired data")
    _recipe(edits)
    edits.set_defaults(command=edits_command)

    calibrate = commands.add_parser("calibrate-faces", help="how well recognisers tell labelled people apart")
    _recipe(calibrate)
    calibrate.set_defaults(command=calibrate_faces_command)

    convert = commands.add_parser("convert-recogniser", help="weights of a face network that doppel may not ship")
    convert.add_argument("name", metavar="NAME", help="faceres, mobileface or emotion")
    convert.add_argument("source", metavar="FOLDER", help="with NAME.json and NAME.bin, a TensorFlow.js graph model")
    convert.set_defaults(command=convert_recogniser_command)

    audit = commands.add_parser(
        "audit", help="verify a release, and attack it with face recognition",
        usage="%(prog)s RECIPE [options], or %(prog)s ORIGINALS RELEASE [options]",
    )  # fmt: skip
    audit.add_argument(
        "place", metavar="ORIGINALS",
        help="tars (a glob or URL), or a folder of images; alone: a recipe, by path or name",
    )  # fmt: skip
    audit.add_argument("release", nargs="?", help="the folder with RELEASE.json, that was made from the originals")
    audit.add_argument("--out", dest="output", metavar="DIR", help="private folder of the evidence (default: audit)")
    audit.add_argument("--salt-file", metavar="FILE", help="the job's secret (or the variable DOPPEL_SALT)")
    audit.add_argument("--identity", metavar="SPEC", help="who is in an original: json:FIELD, or key:REGEX")
    audit.add_argument("--fit", help="how the job fitted originals to its model (default: resize)")
    audit.add_argument("--others", metavar="ORIGINALS", help="like the originals, but not in the input: membership")
    audit.add_argument("--model", metavar="PATH", help="the job's model: the attacker goes back along its ODE")
    audit.add_argument("--detector", metavar="NAME", help="by deepface's name (default: dlib)")
    audit.add_argument(
        "--recognisers", nargs="+", metavar="NAME",
        help="by deepface's names, or dlib-chip, lbph, small (default: Dlib lbph small)",
    )  # fmt: skip
    _set(audit)
    audit.set_defaults(command=audit_command)

    verifying = commands.add_parser(
        "verify", help="is a release as its publisher made it: signature, every byte, no more"
    )
    verifying.add_argument("release", help="the folder with RELEASE.json, or its URL in an object store")
    verifying.add_argument(
        "--key", metavar="PUB", help="the publisher's public Ed25519 key in PEM, not out of the release"
    )
    verifying.add_argument(
        "--sha256", metavar="HEX", help="the sha256 of RELEASE.json, as its publisher states it elsewhere"
    )
    verifying.add_argument("--salt-file", metavar="FILE", help="the job's secret, for the publisher's own check")
    verifying.set_defaults(command=verify_command)

    keys = commands.add_parser("new-key", help="make a key to sign releases with: FILE, which is secret, and FILE.pub")
    keys.add_argument("file", metavar="FILE", help="a file that is not there yet")
    keys.set_defaults(command=new_key_command)

    train = commands.add_parser("train-denoiser", help="train a diffusion model on any configured data set")
    _recipe(train)
    train.add_argument("--overwrite", action="store_true", help="start anew instead of going on from the checkpoint")
    train.set_defaults(command=train_command)

    locality = commands.add_parser("calibrate", help="how far an operator may go before its outputs lose their labels")
    _recipe(locality)
    locality.set_defaults(command=calibrate_command)

    filtering = commands.add_parser("filter", help="weigh a job's neighbours by what a classifier still sees in them")
    _recipe(filtering)
    filtering.set_defaults(command=filter_command)

    compare = commands.add_parser(
        "compare", help="train classifiers with and without neighbours, and tell the difference"
    )
    _recipe(compare)
    compare.add_argument("--overwrite", action="store_true", help="start anew instead of doing the runs that are left")
    compare.set_defaults(command=compare_command)
    return parser


def run_command(args: argparse.Namespace) -> int:
    """`doppel run`: runs a job, and makes a release where the recipe asks for one."""
    if args.dry_run:
        return dry_run(args)
    answers: dict[OnChange, bool] = {
        "overwrite": args.overwrite, "redo": args.redo_changed, "keep": args.keep_finished,
    }  # fmt: skip
    on_change: OnChange = next((answer for answer, given in answers.items() if given), "refuse")
    from pipeline.commands.engines import Options, engine_of
    from pipeline.commands.release import check_export
    from pipeline.commands.run import taking_part

    config, again = job_config(args), {"prune": args.prune, "retry_quarantine": args.retry_quarantine}
    options = Options(**{name: getattr(args, name) for name in Options.__dataclass_fields__})
    with taking_part(config, share=args.share, on_change=on_change, **again) as sharing:
        with engine_of(options) as chosen:
            plan = plan_of(config, forbid_noncommercial=args.forbid_noncommercial, chosen=chosen)
            check_export(plan)
            manifest = run_with_progress(
                plan, on_change, verify=args.verify, engine=chosen.run, sharing=sharing, **again
            )  # fmt: skip
        return concluded(plan, manifest, sharing)


def concluded(plan: Plan, manifest: Manifest, sharing: Sharing | None) -> int:
    """Prints what came of a job, and makes the release where the recipe asks for one; returns the exit code."""
    from pipeline.commands.run import check_finished, released_by_others
    from pipeline.streams.reasons import commonest

    counts, shards = manifest.counts, manifest.shards
    print(
        f"{plan.config.output.path}: {counts.images} images from {counts.read} samples in "
        f"{shards.finished} of {shards.total} shards, {counts.in_quarantine} in quarantine"
        f"{commonest(manifest.reasons)}"
    )
    for names, what in ((manifest.gone, "is gone"), (manifest.changed, "has changed")):
        if names:
            complain(f"kept shards whose input {what}: {', '.join(names[:5])}, {len(names)} in all")
    failed = outcome(manifest, plan.config.on_damage)
    if plan.config.release is None or failed:
        return failed
    check_finished(plan, manifest)
    if (others := released_by_others(plan, sharing)) is not None:
        print(others)
        return 0
    return release_job(plan)


def status_command(args: argparse.Namespace) -> int:
    """`doppel status`: prints how a job stands."""
    from pipeline.commands.status import lines, status

    found = status(args.job)
    print(found.to_json(indent=1) if args.json else "\n".join(lines(found)))
    return 0


def dry_run(args: argparse.Namespace) -> int:
    """`doppel run --dry-run`: prints each part as soon as it is known, since torch and diffusers load slowly."""
    from pipeline.config import dump
    from pipeline.recipes import find_recipe

    print(f"# {find_recipe(args.recipe)}", flush=True)
    config = job_config(args)
    print(dump(config), end="", flush=True)
    plan = plan_of(config, forbid_noncommercial=args.forbid_noncommercial)
    from pipeline.commands.estimate import estimate

    for note in plan.notes:
        print(f"# {note}", flush=True)
    print(estimate(plan))
    return 0


def job_config(args: argparse.Namespace) -> JobConfig:
    """The configuration of a job, from the recipe and the options."""
    from pipeline.config import load_config
    from pipeline.job.config import JobConfig

    limit = [f"limit={args.limit}"] if args.limit is not None else []
    return load_config(JobConfig, args.recipe, [*args.set, *limit])


def plan_of(config: JobConfig, *, forbid_noncommercial: bool, chosen: Chosen | None = None) -> Plan:
    """The plan of a job for an engine, by default this machine's. Raises `UserError` where licences forbid it."""
    from pipeline.engine.planning import make_plan, try_here

    plan = make_plan(config, trial=chosen.trial if chosen else try_here)
    mind_licences(plan, forbid=forbid_noncommercial)
    return plan


def release_job(plan: Plan) -> int:
    """Makes the release of a finished job and prints what came of it."""
    from pipeline.commands.release import export
    from pipeline.report.progress import looking

    assert plan.config.release is not None
    with looking() as on_images:
        results = export(plan, on_images)
    release, images = plan.config.release, results.counts.released
    signed = "is signed" if release.sign else "is not signed (release.sign names no key)"
    sealed = f"{release.path}: {images} images released; RELEASE.json lists every file and {signed}"
    return told(results, release.audit, sealed)


def told(results: AuditResults, folder: str, sound: str) -> int:
    """Prints what an audit found, its verdict last; returns the exit code."""
    from pipeline.audit.verdict import lines

    for line in lines(results):
        print(line)
    print(f"{folder}/report.html: the private audit")
    for finding in results.evidence.unmet:
        print(f"doppel: not met: {finding.name}: {finding.why}", file=sys.stderr)
    if results.evidence.unmet:
        return FAILED
    print(sound)
    return 0


def mind_licences(plan: Plan, *, forbid: bool) -> None:
    """Prints one line for weights that must not be used commercially.

    Raises `UserError` where the user forbids them.
    """
    for path, licence in plan.licences.items():
        if licence.noncommercial and forbid:
            raise UserError(f"{path}: its licence is {licence.name}, and --forbid-noncommercial was given")
        if licence.noncommercial:
            print(
                f"doppel: {path}: non-commercial licence {licence.name}; it may bind the outputs too", file=sys.stderr
            )


def preview_command(args: argparse.Namespace) -> int:
    """`doppel preview`: draws a contact sheet."""
    from pipeline.commands.preview import preview

    rejected = preview(
        args.recipe, overrides=args.set, count=args.count, sheet=args.output, animation=args.animate
    )  # fmt: skip
    for bad in rejected:
        print(f"refused: {bad.key} ({bad.reason})", file=sys.stderr)
    print(args.output)
    return 0


def demo_command(args: argparse.Namespace) -> int:
    """`doppel demo`: runs the demonstration."""
    from pipeline.commands.demo import demo

    return outcome(demo(args.out, run_with_progress))


def edits_command(args: argparse.Namespace) -> int:
    """`doppel edits`: writes a file of edits."""
    from pipeline.commands.edits import EditsConfig, edits
    from pipeline.config import load_config

    config = load_config(EditsConfig, args.recipe, args.set)
    print(f"{config.output}: {edits(config)} edits")
    return 0


def calibrate_faces_command(args: argparse.Namespace) -> int:
    """`doppel calibrate-faces`: writes certificates and prints their figures."""
    from pipeline.commands.calibrate_faces import CalibrateConfig, calibrate_faces
    from pipeline.config import load_config

    config = load_config(CalibrateConfig, args.recipe, args.set)
    for made in calibrate_faces(config):
        verdict = "certifies" if made.certifies else f"certifies nothing (below {made.floor:g})"
        print(
            f"{made.recogniser} at {made.size[0]} × {made.size[1]}: faces found {made.faces_found:.1%}, TAR "
            f"{made.tar['1e-2']:.3f} at FAR 1e-2, {made.tar['1e-3']:.3f} at 1e-3, EER {made.eer:.3f}: {verdict}"
        )
    print(f"{config.output}: certificates and roc.png")
    return 0


def convert_recogniser_command(args: argparse.Namespace) -> int:
    """`doppel convert-recogniser`: converts a face network and says what is known of its licence."""
    from pipeline.commands.convert_recogniser import convert_recogniser

    print(*convert_recogniser(args.name, args.source), sep="\n")
    return 0


def audit_command(args: argparse.Namespace) -> int:
    """`doppel audit`: verifies and attacks a release."""
    from pipeline.audit import audit
    from pipeline.report.progress import looking

    config = audit_config(args)
    with looking() as on_images:
        results = audit(config, on_images)
    return told(results, config.output, f"authenticity of RELEASE.json: {results.authenticity}")


def audit_config(args: argparse.Namespace) -> AuditConfig:
    """The configuration of an audit: from a recipe, or from originals and a release, with options on top."""
    from pipeline.audit import AuditConfig
    from pipeline.config import configured
    from pipeline.recipes import find_recipe, merge, read_recipe

    content, where = {"originals": args.place}, "audit"
    if args.release is None:
        try:
            path = find_recipe(args.place)
        except UserError as error:
            raise UserError(f"{error}; originals need their release behind them") from None
        content, where = read_recipe(path, "audit"), str(path)
    given = {key: value for key, value in vars(args).items() if key in AuditConfig.model_fields and value is not None}
    return configured(AuditConfig, merge(content, given), args.set, where)


def verify_command(args: argparse.Namespace) -> int:
    """`doppel verify`: says whether a release is sound, and what that proves; it fails where anything is wrong."""
    from datetime import date

    from pipeline.commands.verify import release_at, verify_release
    from pipeline.identity import given_salt
    from pipeline.release.signing import public_key
    from pipeline.streams.remote import shown

    found = verify_release(
        release_at(args.release),
        shown=shown(args.release),
        key=public_key(args.key, "--key") if args.key else None,
        sha256=args.sha256,
        salt=given_salt(args.salt_file, "--salt-file") if args.salt_file else None,
        today=date.today(),
    )
    print(found.screen)
    return FAILED if found.problems else 0


def new_key_command(args: argparse.Namespace) -> int:
    """`doppel new-key`: makes a key to sign with."""
    from pipeline.release.signing import new_key
    from pipeline.section import local_option

    file = local_option(args.file, "FILE")
    public, words = new_key(file)
    print(f"{file}: the private key, for release.sign; keep it secret, and a copy of it safe")
    print(f"{public}: the public key, {words}; give it to whoever verifies your releases, outside of the release")
    return 0


def recipes_command(args: argparse.Namespace) -> int:
    """`doppel recipes`: lists the recipes that ship, by kind."""
    from pipeline.recipes import KINDS, description, shipped

    if args.kind not in (None, *KINDS):
        raise UserError(f"--kind is {args.kind!r}; allowed are {', '.join(KINDS)}")
    recipes = shipped()
    width = max(map(len, recipes))
    for kind in [args.kind] if args.kind else KINDS:
        print(f"{kind}: doppel {KINDS[kind].command} RECIPE")
        for name, path in recipes.items():
            if path.parent.name == kind:
                print(f"  {name:{width}}  {description(path)}")
    return 0


def train_command(args: argparse.Namespace) -> int:
    """`doppel train-denoiser`: trains a diffusion model."""
    check_training()
    from pipeline.config import load_config
    from training.denoiser.config import DenoiserConfig
    from training.denoiser.train import train_denoiser

    folder = train_denoiser(load_config(DenoiserConfig, args.recipe, args.set), overwrite=args.overwrite)
    print(f"{folder}/model: weights, card, samples.png and loss.png")
    return 0


def calibrate_command(args: argparse.Namespace) -> int:
    """`doppel calibrate`: measures how far an operator may go; it fails where no level holds."""
    check_training()
    from pipeline.config import load_config
    from training.calibrate.calibrate import calibrate
    from training.calibrate.config import CalibrationConfig
    from training.calibrate.plot import print_table, recipe_lines

    config = load_config(CalibrationConfig, args.recipe, args.set)
    found = calibrate(config)
    print_table(found)
    print(f"{config.output}: calibration.json, locality.png and neighbours.png")
    if found.pick is None:
        lowest = found.levels[0]
        print(
            f"doppel: no level holds: agreement is {lowest.agreement[1]:.1%} at {lowest.level:g}, the lowest, "
            f"and the target is {found.target:.1%}",
            file=sys.stderr,
        )
        return FAILED
    print(f"the largest level with agreement of {config.target:g} or more, as all below it:\n")
    print(recipe_lines(config.operator, found.pick))
    return 0


def filter_command(args: argparse.Namespace) -> int:
    """`doppel filter`: weighs stored neighbours; it fails where none is kept."""
    check_training()
    from pipeline.config import load_config
    from training.filter.config import StoreFilterConfig
    from training.filter.store import filter_store

    config = load_config(StoreFilterConfig, args.recipe, args.set)
    found = filter_store(config)
    print(f"{found.rejected:.1%} of {found.neighbours} neighbours rejected")
    if others := found.neighbours_without_original:
        print(f"{others} more have no original in data: they are not judged, and count in full")
    print(f"{config.output}: weights.json and filter.json")
    if found.rejected == 1:
        print("doppel: no neighbour was kept; lower the bar, or the level of the job", file=sys.stderr)
        return FAILED
    return 0


def compare_command(args: argparse.Namespace) -> int:
    """`doppel compare`: trains classifiers with and without neighbours; it fails where a run failed."""
    check_training()
    from pathlib import Path

    from rich.console import Console

    from pipeline.config import load_config
    from pipeline.optional import require_package
    from pipeline.report.progress import comparing
    from training.compare.compare import compare
    from training.compare.config import CompareConfig
    from training.compare.report import table, write_report

    require_package("matplotlib", "the report of a comparison", extra="plots")
    config = load_config(CompareConfig, args.recipe, args.set)
    with comparing() as observe:
        results = compare(config, overwrite=args.overwrite, observe=observe)
    write_report(results, Path(config.output))
    Console(width=120).print(table(results))
    print(f"{config.output}: report.html, results.json, table.md")
    if failed := [run for run in results["runs"] if run["failed"]]:
        first = failed[0]
        print(
            f"doppel: {len(failed)} of {len(results['runs'])} runs failed, the first is {first['arm']}, size "
            f"{first['size']}, seed {first['seed']}: {first['failed']}",
            file=sys.stderr,
        )
        return FAILED
    return 0


def check_training() -> None:
    """Raises `UserError` where the package `training` is not ours.

    With `python -m`, Python looks into the working folder first, where there may be another one.
    """
    from importlib.util import find_spec
    from pathlib import Path

    spec, ours = find_spec("training"), Path(__file__).resolve().parents[1] / "training" / "__init__.py"
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != ours:
        found = spec and (spec.origin or ", ".join(spec.submodule_search_locations or ()))
        raise UserError(
            f"doppel's package training is needed; found was {found}: rename that one, or give the command doppel "
            "in place of python -m pipeline.cli"
        )


def run_with_progress(
    plan: Plan, on_change: OnChange, *, prune: bool = False, verify: bool = False, retry_quarantine: bool = False,
    engine: Engine | None = None,
    sharing: Sharing | None = None,
) -> Manifest:  # fmt: skip
    """Runs a job with a progress bar, and returns its manifest. Where it is interrupted, a note says what is done."""
    from contextlib import suppress

    from pipeline.engine.events import Event, Noted, Progress, Scanned, SetAside, TakenBack
    from pipeline.engine.local import local
    from pipeline.engine.running import run_job
    from pipeline.report.progress import JobProgress
    from pipeline.streams.ledger import Ledger

    with JobProgress() as bar:

        def observe(event: Event) -> None:
            if isinstance(event, Scanned):
                bar.scanned(event.images)
            elif isinstance(event, Progress):
                bar.add(event.images, event.rejected)
            elif isinstance(event, Noted):
                complain(event.text)
            elif isinstance(event, TakenBack):
                bar.add(-event.told.images, -event.told.rejected)
            elif isinstance(event, SetAside):
                complain(f"shard {event.aside.shard} is set aside: {event.aside.reason}")
            else:
                bar.shard_done()

        try:
            return run_job(
                plan, on_change=on_change, prune=prune, verify=verify, retry_quarantine=retry_quarantine,
                begin=bar.begin, observe=observe, engine=engine or local, sharing=sharing,
            )  # fmt: skip
        except KeyboardInterrupt as stop:
            with suppress(UserError, OSError):
                if (manifest := Ledger(plan.config.output.path).manifest()) is not None:
                    done = manifest.shards
                    stop.add_note(f"{done.finished} of {done.total} shards are finished")
            raise


def outcome(manifest: Manifest, on_damage: str = "fail") -> int:
    """The exit code of a job.

    It has failed where it could write nothing of what it found, where a shard is set aside and, with `on_damage` fail,
    where one is damaged.
    """
    counts = manifest.counts
    for note, samples in manifest.notes.items():
        complain(f"{samples} samples: {note}")
    if manifest.aside:
        names = ", ".join(list(manifest.aside)[:5])
        complain(f"{len(manifest.aside)} shards are set aside, and tried again by the next run: {names}; see aside/")
        return FAILED
    if (counts.read or counts.damaged) and not counts.written:
        from pipeline.streams.reasons import commonest

        complain(f"no image was written{commonest(manifest.reasons)}; quarantine/ holds every sample and the reason")
        return FAILED
    if counts.damaged:
        from pipeline.commands.run import damage

        complain(f"{damage(manifest)}; quarantine/ says where")
        if on_damage == "fail":
            return FAILED
    return 0


def _recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help='a YAML file, or the name of a shipped recipe (see "doppel recipes")')
    _set(parser)


def _set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", help="override one key of the recipe (repeatable)"
    )


if __name__ == "__main__":
    sys.exit(main())
