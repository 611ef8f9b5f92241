"""Four ratios of the main job, each against a named alternative, in one run.

    python scripts/bench_throughput.py            # docs/measured.md, about 6 minutes on two cores
    python scripts/bench_throughput.py --quick    # a smaller one to see that it works

1. the whole job (tars in, tars out) against the bare denoiser loop on preloaded tensors: same model, batch, steps
2. the whole job against the obvious script: diffusers' own scheduler, one image at a time, PIL in, PNG out
3. a job without operator against a plain loop over webdataset: read, decode, encode, ShardWriter
4. resident memory over 40 shards, after the fifth
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import platform
import shutil
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.assets import resolve
from pipeline.config import validate
from pipeline.diffusion.levels import grid
from pipeline.diffusion.solvers import SOLVERS, integrate
from pipeline.engine.devices import resolve_devices
from pipeline.engine.events import Event, Progress, ShardDone
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model

MODEL = "embedded:fashion_mnist/model"
SAMPLE = "embedded:fashion_mnist/sample/t10k-*.tar.gz"
LEVEL, BATCH = 0.4, 125


def job(folder: Path, urls: str, *, steps: int | None, batch: int = BATCH, codec: str = "auto") -> dict[str, Any]:
    content: dict[str, Any] = {
        "input": {"format": "webdataset", "urls": urls},
        "output": {"path": str(folder), "codec": codec},
    }
    if steps is not None:
        content["model"] = {"path": MODEL, "batch_size": batch}
        content["classes"] = "numbers"
        content["operator"] = {"name": "boomerang", "t_boom": LEVEL, "steps": steps}
    return content


def run(content: dict[str, Any], observe: Callable[[Event], None] = lambda event: None) -> tuple[int, float]:
    """Images and seconds of a job, from opening the input to the manifest."""
    prepared = make_plan(validate(JobConfig, content, "bench"))
    shutil.rmtree(content["output"]["path"], ignore_errors=True)
    started = time.perf_counter()
    manifest = run_job(prepared, observe=observe)
    return manifest.counts.images, time.perf_counter() - started


def bare_loop(images: int, steps: int, device: str) -> float:
    """Seconds for the network and the solver alone, warmed up."""
    model = load_model(ModelConfig(path=MODEL), device)
    z = model.encode(torch.zeros(BATCH, 3, *model.size, device=device))
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    sigmas = grid(model.levels, model.levels.sigma(torch.full((BATCH,), LEVEL, device=device)), steps, "trailing")
    denoiser = model.denoiser(labels)
    with torch.inference_mode():
        denoiser(z, sigmas[:, 0].to(z))  # the first call prepares kernels
        started = time.perf_counter()
        for _ in range(images // BATCH):
            integrate(denoiser, z, sigmas.to(z), solver=SOLVERS["ancestral"], noise=torch.randn_like)
        if device != "cpu":
            torch.cuda.synchronize()
    return time.perf_counter() - started


def obvious_script(out: Path, images: int, steps: int, device: str) -> float:
    """What one writes in ten minutes: seconds for `images` images."""
    from diffusers import DDPMScheduler, UNet2DModel

    folder = Path(resolve(MODEL))
    network = UNet2DModel.from_pretrained(folder / "unet").to(device)
    scheduler = DDPMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(round(steps / LEVEL))
    timesteps = scheduler.timesteps[-steps:]
    out.mkdir()
    pairs = []
    with tarfile.open(sorted(Path(resolve(SAMPLE)).parent.glob("t10k-*.tar.gz"))[0]) as tar:
        content = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    for name in sorted(n for n in content if n.endswith(".png"))[:images]:
        pairs.append((name, content[name], int(content[name.replace(".png", ".cls")])))
    started = time.perf_counter()
    with torch.no_grad():
        for name, data, label in pairs:
            pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(data)))).float()[None, None] / 127.5 - 1
            x = torch.nn.functional.pixel_unshuffle(pixels, 2).to(device)
            x = scheduler.add_noise(x, torch.randn_like(x), timesteps[:1])
            for t in timesteps:
                output = network(x, t, class_labels=torch.tensor([label], device=device)).sample
                x = scheduler.step(output, t, x).prev_sample
            image = torch.nn.functional.pixel_shuffle(x, 2)[0, 0].add(1).mul(127.5).round().clamp(0, 255)
            Image.fromarray(image.byte().cpu().numpy()).save(out / name)
    return time.perf_counter() - started


def make_photographs(folder: Path, shards: int, images: int, side: int) -> str:
    """JPEG shards with the spectrum of photographs (power falls with frequency)."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    falls = 1 / np.maximum(f, 1 / side)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for i in range(images):
                waves = np.fft.irfft2(
                    falls[..., None] * np.fft.rfft2(rng.normal(size=(side, side, 3)), axes=(0, 1)), axes=(0, 1)
                )
                pixels = np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
                info = tarfile.TarInfo(f"{shard:03d}{i:04d}.jpg")
                info.size = len(buffer.getvalue())
                tar.addfile(info, io.BytesIO(buffer.getvalue()))
    return f"{folder}/{{000..{shards - 1:03d}}}.tar"


def webdataset_loop(urls: str, out: Path, images: int) -> float:
    import webdataset as wds

    out.mkdir()
    started = time.perf_counter()
    data = wds.WebDataset(urls, shardshuffle=False).decode("pil")
    with wds.ShardWriter(str(out / "%03d.tar"), maxcount=images, verbose=0) as writer:
        for sample in data:
            buffer = io.BytesIO()
            sample["jpg"].save(buffer, "JPEG", quality=95, subsampling=0)
            writer.write({"__key__": sample["__key__"], "jpg": buffer.getvalue()})
    return time.perf_counter() - started


def steady_rate(content: dict[str, Any]) -> float:
    """Images/s of a job from its first batch to the end: loading and compiling are left out."""
    shutil.rmtree(content["output"]["path"], ignore_errors=True)
    seen: list[tuple[float, int]] = []

    def observe(event: Event) -> None:
        if isinstance(event, Progress) and event.images:
            seen.append((time.perf_counter(), event.images))

    run_job(make_plan(validate(JobConfig, content, "bench")), observe=observe)
    return sum(images for _, images in seen[1:]) / (seen[-1][0] - seen[0][0])


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own: two threads that compute share one OpenMP badly."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(what: str, ratio: float, how: str) -> None:
    print(f"{what:48}{ratio:7.3f}   ({how})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    repeats, steps = (1, 4) if quick else (3, 20)
    device = resolve_devices(["auto"])[0]
    machine = torch.cuda.get_device_name() if device != "cpu" else f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"{machine}; torch {torch.__version__}; t_boom {LEVEL}, {steps} steps, batch {BATCH}; median of {repeats}")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        whole = against_the_bare_loop(root, repeats, steps, device)
        images = 20 if quick else 100
        obvious = images / obvious_script(root / "obvious", images, steps, device)
        report("2. whole job / obvious script", whole / obvious, f"{whole:.1f} / {obvious:.1f} images/s")
        pass_through(root, repeats, *((2, 50) if quick else (6, 200)))
        memory(root, 10 if quick else 40)


def against_the_bare_loop(root: Path, repeats: int, steps: int, device: str) -> float:
    """Returns the whole job's images per second. In turns, so that a slow minute of the machine meets both."""
    bare, whole = [], []
    for _ in range(repeats):
        bare.append(1000 / alone(bare_loop, 1000, steps, device))
        images, seconds = alone(run, job(root / "job", SAMPLE, steps=steps))
        whole.append(images / seconds)
    ratio = statistics.median(w / b for w, b in zip(whole, bare, strict=True))
    rates = f"{statistics.median(whole):.1f} / {statistics.median(bare):.1f} images/s"
    report("1. whole job / bare denoiser loop", ratio, rates)
    return statistics.median(whole)


def pass_through(root: Path, repeats: int, shards: int, images: int) -> None:
    urls = make_photographs(root / "photographs", shards, images, 256)
    plain, ours = [], []
    for i in range(repeats):
        plain.append(shards * images / webdataset_loop(urls, root / f"wds{i}", images))
        done, seconds = run(job(root / "through", urls, steps=None, codec="jpeg"))
        ours.append(done / seconds)
    ratio = statistics.median(o / p for o, p in zip(ours, plain, strict=True))
    rates = f"{statistics.median(ours):.0f} / {statistics.median(plain):.0f} images/s, 256 × 256 JPEG"
    report("3. pass-through job / webdataset loop", ratio, rates)


def memory(root: Path, shards: int) -> None:
    urls = make_photographs(root / "stream", shards, 32, 64)
    content = job(root / "memory", urls, steps=2, batch=32)
    content["operator"]["condition"] = "none"
    sizes: list[int] = []
    run(content, lambda event: sizes.append(resident()) if isinstance(event, ShardDone) else None)
    how = f"{sizes[4] / 2**20:.0f} MiB, {len(sizes)} shards"
    report("4. resident memory, largest after / at the fifth", max(sizes[5:]) / sizes[4], how)


if __name__ == "__main__":
    main()
