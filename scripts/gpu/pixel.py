"""The models of pixels that ship with doppel, on a GPU: the demo, and faces without the gate and with it.

    python scripts/gpu/pixel.py OUT                     # one GPU, at most 60 s; again for what was not reached
    python scripts/gpu/pixel.py OUT --rehearse          # a few images on a CPU; its figures mean nothing

Faces are the first photographs of $DOPPEL_GPU_DATA/lfw.tar, else of ../shared/data/lfw/dev-00000.tar; the gate needs
dlib. Writes OUT/pixel.json after every case. OUT/pixel.png shows what the demo and the gated job made. It is for
publication: no photograph of a person is in it, and no face that the gate did not pass.
"""

from __future__ import annotations

import argparse
import os
import secrets
import statistics
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from busy import idle_share
from cases import Case, NotRun, clock, exit_code, leave_on_sigterm, run_cases
from job_rates import timed
from lent import lent
from record import ROOT, Record
from sheets import draw

from pipeline.config import load_config
from pipeline.engine.devices import resolve_devices
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.identity import SALT_VARIABLE
from pipeline.job.config import JobConfig
from pipeline.models.families import load_model

RESERVE = 2.0
"""Seconds of the box for the end of the last case."""
DATA_VARIABLE = "DOPPEL_GPU_DATA"


@dataclass(frozen=True, kw_only=True)
class Scale:
    fashion: int
    fashion_batch: int
    repeats: int
    faces: int
    face_batches: tuple[int, int]
    gated: int
    profiled: int
    """Images in a profiled run: profiling takes memory and time."""
    steps: int


FULL = Scale(
    fashion=1000, fashion_batch=125, repeats=3, faces=512, face_batches=(32, 128), gated=96, profiled=250, steps=20
)
TINY = Scale(fashion=16, fashion_batch=8, repeats=1, faces=8, face_batches=(2, 4), gated=4, profiled=8, steps=2)


class Jobs:
    """The recipes, as these cases run them."""

    def __init__(self, out: Path, scratch: Path, *, rehearsal: bool) -> None:
        self.out, self.scratch, self.scale = out, scratch, TINY if rehearsal else FULL
        self.device = "cpu" if rehearsal else resolve_devices(["auto"])[0]

    def config(self, recipe: str, **changes: Any) -> JobConfig:
        own = {
            "operator.steps": self.scale.steps, "run.devices": f"[{self.device}]",
            "output.path": self.scratch / f"{recipe}_out", **changes,
        }  # fmt: skip
        return load_config(JobConfig, recipe, [f"{key}={value}" for key, value in own.items()])

    def faces(self, photographs: int, batch: int, **changes: Any) -> JobConfig:
        urls = first_photographs(photographs, self.scratch / f"lfw_{photographs}.tar")
        own = {"input.urls": urls, "model.batch_size": batch, "release": "null", **changes}
        return self.config("lfw_release", **own)

    def fashion_case(self) -> dict[str, Any]:
        config = self.config("demo", **{"limit": self.scale.fashion, "model.batch_size": self.scale.fashion_batch})
        result = self.rates(config) | self.idle(config)
        draw(config, "Fashion-MNIST", self.out / "pixel.png")
        return result

    def faces_case(self) -> dict[str, Any]:
        rates = {}
        for batch in self.scale.face_batches:
            config = self.faces(self.scale.faces, batch, anonymity="null")
            rates[f"batch {batch}"] = self.rates(config)
        return {**rates, f"idle, batch {batch}": self.idle(config)}

    def gate_case(self) -> dict[str, Any]:
        config = self.gated()
        result = timed(config)
        if result["counts"]["images"]:
            draw(config, "faces that the gate passed", self.out / "pixel.png")
        assert config.anonymity is not None
        judged = {"detector": config.anonymity.detector, "workers": config.anonymity.workers}
        return result | self.facts(config) | judged

    def gate_idle_case(self) -> dict[str, Any]:
        """The scan of the originals works in a process of its own, which the profiler of this one does not see."""
        if self.device == "cpu":
            return idle_share(lambda: None, self.device)
        return self.idle(self.gated(**{"output.path": self.scratch / "profiled_gate"}))

    def gated(self, **changes: Any) -> JobConfig:
        """Raises `NotRun` where the gate cannot be had here."""
        config = self.faces(self.scale.gated, min(self.scale.face_batches), **changes)
        os.environ[SALT_VARIABLE] = secrets.token_hex(32)
        try:
            make_plan(config)
        except (UserError, ImportError) as error:
            raise NotRun(str(error)) from None
        return config

    def rates(self, config: JobConfig) -> dict[str, Any]:
        runs = [timed(config) for _ in range(self.scale.repeats)]
        steady = [run["steady_images_per_s"] for run in runs]
        return {
            "steady_images_per_s": None if None in steady else statistics.median(steady),
            "whole_images_per_s": statistics.median(run["whole_images_per_s"] for run in runs),
            "runs": runs, **self.facts(config),
        }  # fmt: skip

    def facts(self, config: JobConfig) -> dict[str, Any]:
        assert config.model is not None
        return {"batch": config.model.batch_size, "dtype": config.model.dtype, "steps": self.scale.steps}

    def idle(self, config: JobConfig) -> dict[str, Any]:
        """Of a shorter run, with its model loaded and its kernels warm."""
        assert config.model is not None
        place = config.output.model_copy(update={"path": str(self.scratch / "profiled")})
        few = config.model_copy(update={"limit": self.scale.profiled, "output": place})
        with lent(load_model(config.model, self.device)):
            return idle_share(lambda: run_job(make_plan(few), on_change="overwrite"), self.device)


def first_photographs(count: int, file: Path) -> Path:
    """A tar of the first `count` photographs of LFW with what belongs to them. Raises `NotRun` where LFW is missing."""
    given, beside = os.environ.get(DATA_VARIABLE), ROOT.parent / "shared" / "data" / "lfw" / "dev-00000.tar"
    source = next((f for f in ([Path(given) / "lfw.tar"] if given else []) + [beside] if f.is_file()), None)
    if source is None:
        raise NotRun(f"no photographs: ${DATA_VARIABLE} names no folder with lfw.tar, and {beside} is missing")
    if not file.exists():
        keys = set[str]()
        with tarfile.open(source) as whole, tarfile.open(file, "w") as few:
            for member in whole:
                keys.add(member.name.partition(".")[0])
                if len(keys) > count:
                    break
                few.addfile(member, whole.extractfile(member))
        if len(keys) < count:
            raise NotRun(f"{source} holds {len(keys)} photographs; {count} are wanted")
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--seconds", type=float, help="the box: 60, or 180 for a rehearsal")
    args = parser.parse_args()
    left = clock((args.seconds or (180 if args.rehearse else 60)) - RESERVE)
    if not args.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device here; --rehearse runs on the CPU")
    if args.rehearse:
        torch.set_num_threads(1)  # two threads that compute share one OpenMP badly
    leave_on_sigterm()
    args.out.mkdir(parents=True, exist_ok=True)
    record = Record.open(args.out, "pixel", rehearsal=args.rehearse)
    with tempfile.TemporaryDirectory() as temporary:
        jobs = Jobs(args.out, Path(temporary), rehearsal=args.rehearse)
        estimated = {"fashion": 10, "faces": 10, "faces with the gate": 28, "idle with the gate": 28}
        work = (jobs.fashion_case, jobs.faces_case, jobs.gate_case, jobs.gate_idle_case)
        cases = [
            Case(name=name, seconds=0 if args.rehearse else seconds, run=run)
            for (name, seconds), run in zip(estimated.items(), work, strict=True)
        ]
        run_cases(cases, record, args.out, left)
    return exit_code(record, cases)


if __name__ == "__main__":
    sys.exit(main())
