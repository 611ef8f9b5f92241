"""Boomerang on latent models: ratios against diffusers' own pipeline and against a bare loop, and where the time goes.

    python scripts/bench_latent.py                                        # small networks, two cores: about 5 minutes
    python scripts/bench_latent.py --config sd15 --dtype bfloat16         # the full networks, on a GPU; also sdxl, dit
    python scripts/bench_latent.py --config sd15 --dtype bfloat16 --compile

Weights are random: they have the speed of real ones, and nothing is downloaded. t_boom .4 on a grid of 50 steps, so 20
steps; guidance off; JPEG in, JPEG out.

1. the whole job (tar in, tar out; after its first batch) against the img2img pipeline, batched, PIL in and out
2. the whole job against the bare loop on preloaded tensors: VAE, network and solver alone
3. share of the bare loop outside network and VAE
4. the floor: FLOPs of network and VAE at the rate that large matrix products reach on this machine
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from bench_throughput import alone, make_photographs, report, steady_rate
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.flop_counter import FlopCounterMode

from pipeline.engines.local import resolve_devices
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.families import load_model
from pipeline.noise import KeyedNoise
from pipeline.operators import Boomerang, Given

LEVEL, STEPS = 0.4, 50
UNETS: dict[str, dict[str, Any]] = {
    "small": {
        "sample_size": 16, "block_out_channels": (64, 128), "layers_per_block": 1, "cross_attention_dim": 64,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "norm_num_groups": 16,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "attention_head_dim": 4,
    },
    "sd15": {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sdxl": {
        "sample_size": 64, "cross_attention_dim": 2048, "attention_head_dim": (5, 10, 20),
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), "use_linear_projection": True,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    },
}  # fmt: skip
"""Stable Diffusion 1.5 and XL at 512², and something for two cores at 128²."""
VAES: dict[str, tuple[int, ...]] = {"small": (16, 32, 32, 32)}
FULL_VAE = (128, 256, 512, 512)
PROMPT = "a photo"


def build(name: str, folder: Path, dtype: torch.dtype) -> None:
    """A pipeline folder with random weights."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=VAES.get(name, FULL_VAE), layers_per_block=1 if name in VAES else 2, norm_num_groups=16,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
    )  # fmt: skip
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False,
        set_alpha_to_one=True, timestep_spacing="leading",
    )  # fmt: skip
    if name == "dit":
        network = diffusers.DiTTransformer2DModel(
            num_layers=28, num_attention_heads=16, attention_head_dim=72, sample_size=64, out_channels=8
        )
        pipe: Any = diffusers.DiTPipeline(transformer=network, vae=vae, scheduler=scheduler)
        pipe.to(dtype).save_pretrained(folder)
        return
    unet = diffusers.UNet2DConditionModel(**UNETS[name])
    words = {"<|startoftext|>": 0, "<|endoftext|>": 1, "a": 2, "photo": 3}
    tokens = Tokenizer(models.WordLevel(words, unk_token="<|endoftext|>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        model_max_length=77,
    )  # fmt: skip

    def encoder(width: int) -> Any:
        return transformers.CLIPTextConfig(
            vocab_size=4, hidden_size=width, intermediate_size=width, num_hidden_layers=2, num_attention_heads=8,
            projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        )  # fmt: skip

    parts: dict[str, Any] = {"vae": vae, "unet": unet, "scheduler": scheduler, "tokenizer": tokenizer}
    if name == "sdxl":
        parts["text_encoder"] = transformers.CLIPTextModel(encoder(768))
        parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(encoder(1280))
        pipe = diffusers.StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer, add_watermarker=False)
    else:
        parts["text_encoder"] = transformers.CLIPTextModel(encoder(UNETS[name]["cross_attention_dim"]))
        pipe = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.to(dtype).save_pretrained(folder)


def pipeline_loop(folder: Path, urls: list[Path], args: argparse.Namespace, device: str) -> float:
    """Images/s of diffusers' img2img pipeline, batched, from JPEG to JPEG; its first batch is not timed."""
    kind = (
        diffusers.StableDiffusionXLImg2ImgPipeline
        if args.config == "sdxl"
        else diffusers.StableDiffusionImg2ImgPipeline
    )
    pipe = kind.from_pretrained(folder, torch_dtype=DTYPES[args.dtype]).to(device)
    pipe.set_progress_bar_config(disable=True)
    data = []
    for url in urls:
        with tarfile.open(url) as tar:
            data += [tar.extractfile(member).read() for member in tar]  # type: ignore[union-attr]

    def batch(start: int) -> None:
        images = [Image.open(io.BytesIO(d)).convert("RGB") for d in data[start : start + args.batch]]
        made = pipe(
            prompt=[PROMPT] * len(images), image=images, strength=LEVEL, num_inference_steps=STEPS, guidance_scale=1.0
        ).images
        for image in made:
            image.save(io.BytesIO(), "JPEG", quality=95, subsampling=0)

    batch(0)
    started = time.perf_counter()
    for start in range(0, len(data), args.batch):
        batch(start)
    return len(data) / (time.perf_counter() - started)


def recipe(folder: Path, urls: str, out: Path, args: argparse.Namespace, device: str) -> dict[str, Any]:
    model = {"path": str(folder), "batch_size": args.batch, "dtype": args.dtype, "compile": args.compile}
    operator = {"name": "boomerang", "t_boom": LEVEL, "steps": round(LEVEL * STEPS), "spacing": "model"}
    return {
        "input": {"format": "webdataset", "urls": urls},
        "model": model,
        "operator": operator | {"condition": "none" if args.config == "dit" else PROMPT},
        "output": {"path": str(out), "codec": "jpeg"},
        "run": {"devices": [device]},
    }


class Bare:
    """VAE, network and solver on preloaded tensors, and the time spent in network and VAE."""

    def __init__(self, folder: Path, args: argparse.Namespace, device: str) -> None:
        config = ModelConfig(path=str(folder), batch_size=args.batch, dtype=args.dtype, compile=args.compile)
        self.model: Any = load_model(config, device)
        self.device, self.batch, self.inside = device, args.batch, 0.0
        self.operator = Boomerang.model_validate(recipe(folder, "", folder, args, device)["operator"])
        self.pixels = torch.zeros(args.batch, 3, *self.model.size, device=device)

    def once(self) -> None:
        noise = KeyedNoise(b"bench", [str(i) for i in range(self.batch)], "boomerang", 0)
        with torch.inference_mode():
            self.operator(self.model, self.model.encode(self.pixels), Given(), noise)

    def sync(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()

    def seconds(self, batches: int) -> float:
        self.sync()
        started = time.perf_counter()
        for _ in range(batches):
            self.once()
        self.sync()
        return time.perf_counter() - started

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Adds up the time inside network and VAE; on a GPU the host waits before and after each call."""
        places: list[tuple[Any, str]] = [(self.model.network, "forward")]
        places += [(self.model.vae.module, name) for name in ("encode", "decode")]
        before = [getattr(owner, name) for owner, name in places]
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, self.timed(call))
        yield
        for (owner, name), call in zip(places, before, strict=True):
            setattr(owner, name, call)

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **options: Any) -> Any:
            self.sync()
            started = time.perf_counter()
            result = call(*args, **options)
            self.sync()
            self.inside += time.perf_counter() - started
            return result

        return timed


def bare_rate(folder: Path, args: argparse.Namespace, device: str) -> float:
    bare = Bare(folder, args, device)
    bare.once()
    return args.batch * args.batches / bare.seconds(args.batches)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    side = 1024 if device == "cpu" else 8192
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(10):
        if device != "cpu":
            torch.cuda.synchronize()
        started = time.perf_counter()
        a @ a
        if device != "cpu":
            torch.cuda.synchronize()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", choices=[*UNETS, "dit"], default="small")
    parser.add_argument("--dtype", choices=[*DTYPES], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    device = resolve_devices(["auto"])[0]
    machine = torch.cuda.get_device_name() if device != "cpu" else f"{os.cpu_count()} cores, {platform.machine()}"
    side = 128 if args.config == "small" else 512
    print(
        f"{machine}; torch {torch.__version__}; {args.config} at {side}², {args.dtype}{', compiled' * args.compile}, ",
        end="",
    )
    print(f"batch {args.batch} × {args.batches}, {round(LEVEL * STEPS)} steps; median of {args.repeats}")
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), side, args, device)


def measure(root: Path, side: int, args: argparse.Namespace, device: str) -> None:
    build(args.config, folder := root / "model", DTYPES[args.dtype])
    urls = make_photographs(root / "in", 1, args.batch * args.batches, side)
    rates = dict[str, list[float]](pipeline=[], bare=[], job=[])
    for i in range(args.repeats):
        if args.config != "dit":
            rates["pipeline"].append(alone(pipeline_loop, folder, sorted((root / "in").glob("*.tar")), args, device))
        rates["bare"].append(alone(bare_rate, folder, args, device))
        rates["job"].append(alone(steady_rate, recipe(folder, urls, root / f"out{i}", args, device)))
    for number, other in enumerate(("pipeline", "bare"), 1):
        if rates[other]:
            ratio = statistics.median(j / o for j, o in zip(rates["job"], rates[other], strict=True))
            how = f"{statistics.median(rates['job']):.2f} / {statistics.median(rates[other]):.2f} images/s"
            report(f"{number}. whole job / {'img2img pipeline' if other == 'pipeline' else 'bare loop'}", ratio, how)
    bare = Bare(folder, args, device)
    bare.once()
    with bare.watched():
        seconds = bare.seconds(args.batches)
    report("3. bare loop: share outside network and VAE", 1 - bare.inside / seconds, f"{seconds:.1f} s")
    with FlopCounterMode(display=False) as counter:
        bare.once()
    flops, rate = counter.get_total_flops() / args.batch, matrix_rate(device, DTYPES[args.dtype])
    floor, reached = rate / flops, statistics.median(rates["bare"])
    report("4. bare loop / floor", reached / floor, f"{flops / 1e9:.1f} GFLOP an image, {rate / 1e12:.2f} TFLOP/s")


if __name__ == "__main__":
    main()
