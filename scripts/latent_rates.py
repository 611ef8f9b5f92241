"""Boomerang on a latent model: images/s of doppel's whole job, of diffusers' pipeline, and of the bare loop."""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import diffusers
import torch
from bench_throughput import steady_rate
from lent import lent
from PIL import Image
from random_models import PROMPT, SPECS

from pipeline.diffusion.exactness import exact
from pipeline.diffusion.noise import KeyedNoise
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.families import load_model
from pipeline.models.loading import quiet
from pipeline.operators import Boomerang, Given

LEVEL = 0.4


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is timed, and how much of it."""

    config: str
    """A name in `SPECS`."""
    model: Path
    """Its folder, with weights."""
    urls: str
    """JPEG shards of `batches` full batches."""
    scratch: Path
    dtype: str
    device: str
    batch: int
    batches: int
    """The first is not timed."""
    steps: int = 20
    compiled: Literal["no", "network", "blocks"] = "no"
    """`network` as a recipe's `compile: true` does; `blocks` by diffusers' `compile_repeated_blocks`."""

    def load(self) -> Any:
        model: Any = load_model(ModelConfig(**self.recipe()["model"]), self.device)
        if self.compiled == "blocks":
            model.network.compile_repeated_blocks()
        return model

    def recipe(self) -> dict[str, Any]:
        condition = PROMPT if SPECS[self.config].text else "none"
        return {
            "input": {"format": "webdataset", "urls": self.urls},
            "model": {
                "path": str(self.model), "batch_size": self.batch, "dtype": self.dtype,
                "compile": self.compiled == "network",
            },
            "operator": {
                "name": "boomerang", "t_boom": LEVEL, "steps": self.steps, "spacing": "model", "condition": condition,
            },
            "output": {"path": str(self.scratch / "out"), "codec": "jpeg"},
            "run": {"devices": [self.device]},
        }  # fmt: skip

    def sync(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()


class Side(Protocol):
    """One side of a comparison. `model`: a loaded one for all sides, so that each need not load its own."""

    first: float | None
    """Seconds of the first batch, compilation included; None where there was none yet, or it is not known."""

    def __init__(self, bench: Bench, model: Any = None) -> None: ...

    def rate(self) -> float:
        """Images/s, once warm."""
        ...


class Doppel:
    """The whole job, tar of JPEG in, tar of JPEG out."""

    def __init__(self, bench: Bench, model: Any = None) -> None:
        self.bench, self.model, self.first = bench, model, None

    def rate(self) -> float:
        with lent(self.model) if self.model else nullcontext():
            return steady_rate(self.bench.recipe())


class Diffusers:
    """The img2img pipeline, batched, JPEG in, JPEG out; same level, steps and dtype, guidance off."""

    def __init__(self, bench: Bench, model: Any = None) -> None:
        self.bench, model = bench, model or bench.load()
        kind: Any = diffusers.StableDiffusionImg2ImgPipeline
        if len(SPECS[bench.config].text) == 2:
            kind = diffusers.StableDiffusionXLImg2ImgPipeline
        parts = {"unet": model.network, "vae": model.vae.module}
        with quiet():
            self.pipe = kind.from_pretrained(bench.model, torch_dtype=DTYPES[bench.dtype], **parts).to(bench.device)
        self.pipe.set_progress_bar_config(disable=True)
        data = []
        for shard in sorted(Path(bench.urls).parent.glob("*.tar")):
            with tarfile.open(shard) as tar:
                data += [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]
        self.batches = [data[i : i + bench.batch] for i in range(0, len(data), bench.batch)]
        self.first: float | None = None

    def rate(self) -> float:
        if self.first is None:
            started = time.perf_counter()
            self.once(self.batches[0])
            self.first = time.perf_counter() - started
        started = time.perf_counter()
        for batch in self.batches[1:]:
            self.once(batch)
        return sum(map(len, self.batches[1:])) / (time.perf_counter() - started)

    def once(self, data: list[bytes]) -> None:
        images = [Image.open(io.BytesIO(d)).convert("RGB") for d in data]
        grid = round(self.bench.steps / LEVEL)
        made = self.pipe(
            prompt=[PROMPT] * len(images), image=images, strength=LEVEL, num_inference_steps=grid, guidance_scale=1.0
        ).images
        for image in made:
            image.save(io.BytesIO(), "JPEG", quality=95, subsampling=0)


class Bare:
    """VAE, network and solver on preloaded tensors, and the time spent in network and VAE."""

    def __init__(self, bench: Bench, model: Any = None) -> None:
        self.bench, self.model = bench, model or bench.load()
        self.operator = Boomerang.model_validate(bench.recipe()["operator"])
        self.pixels = torch.zeros(bench.batch, 3, *self.model.size, device=bench.device)
        self.inside = 0.0
        self.first: float | None = None

    def once(self) -> None:
        noise = KeyedNoise(b"bench", [str(i) for i in range(self.bench.batch)], "boomerang", 0)
        with torch.inference_mode(), exact():  # as jobs do
            self.operator(self.model, self.model.encode(self.pixels), Given(), noise)

    def rate(self) -> float:
        if self.first is None:
            self.first = self.seconds(1)
        batches = self.bench.batches - 1
        return self.bench.batch * batches / self.seconds(batches)

    def seconds(self, batches: int) -> float:
        self.bench.sync()
        started = time.perf_counter()
        for _ in range(batches):
            self.once()
        self.bench.sync()
        return time.perf_counter() - started

    def outside(self) -> float:
        """Share of the time outside network and VAE; on a GPU the host waits before and after each call of them."""
        places: list[tuple[Any, str]] = [(self.model.network, "forward")]
        places += [(self.model.vae.module, name) for name in ("encode", "decode")]
        before = [getattr(owner, name) for owner, name in places]
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, self.timed(call))
        self.inside = 0.0
        seconds = self.seconds(1)
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, call)
        return 1 - self.inside / seconds

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self.bench.sync()
            started = time.perf_counter()
            result = call(*args, **options)
            self.bench.sync()
            self.inside += time.perf_counter() - started
            return result

        return timed
