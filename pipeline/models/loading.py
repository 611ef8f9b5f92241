"""Loading a diffusers pipeline folder with care: known classes, safetensors, every component that is needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.errors import UserError
from pipeline.models.config import DTYPES, ModelConfig
from pipeline.models.folder import PICKLED, hash_model, read_json
from pipeline.optional import installed

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

INDEX = "model_index.json"
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder", "watermarker")
"""Components that no operator asks for."""
DISPENSABLE = ("text_encoder_3", "tokenizer_3")
"""Components that the pipeline works without, and yet misses where its folder has none: the T5 of SD 3."""
LIBRARIES = ("diffusers", "transformers")


def load_pipeline(folder: Path, config: ModelConfig, device: str) -> DiffusionPipeline:
    """Loads the pipeline that model_index.json names, with LoRA and textual inversion, ready on `device`.

    Raises `UserError` for what is missing, pickled or unknown in the folder.
    """
    import diffusers

    index = read_json(folder / INDEX)
    wanted = components(folder, index, config.variant)
    absent = [name for name in index if name in LEFT_OUT + DISPENSABLE and name not in wanted]
    try:
        with quiet():
            pipe = getattr(diffusers, index["_class_name"]).from_pretrained(
                folder, torch_dtype=DTYPES[config.dtype], variant=config.variant, use_safetensors=True,
                local_files_only=True, low_cpu_mem_usage=installed("accelerate"), **dict.fromkeys(absent),
            )  # fmt: skip
    except Exception as error:  # damaged weights and senseless options break the loader anywhere
        raise UserError(f"{folder}: the pipeline cannot be loaded ({' '.join(str(error).split())[:200]})") from None
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    adapt(pipe, config)
    return hasten(place(pipe, config, device), config)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps diffusers still within: no bars for every file, and nothing of its own future options."""
    import diffusers
    import transformers

    bars = (diffusers.utils.logging, transformers.utils.logging)
    for bar in bars:
        bar.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        for bar in bars:
            bar.enable_progress_bar()


def adapt(pipe: Any, config: ModelConfig) -> None:
    """Adds what the recipe loads on top: LoRA is merged into the weights, textual inversion adds words to the
    tokenizers.
    """
    for inversion in config.textual_inversion:
        file = safetensors_file(inversion.path, "model.textual_inversion")
        try:
            pipe.load_textual_inversion(str(file.parent), weight_name=file.name, token=inversion.token)
        except Exception as error:
            raise UserError(f"model.textual_inversion: {file} does not fit the model ({first_line(error)})") from None
    for lora in config.lora:
        file = safetensors_file(lora.path, "model.lora")
        try:
            pipe.load_lora_weights(str(file.parent), weight_name=file.name)
            pipe.fuse_lora(lora_scale=lora.scale)
            pipe.unload_lora_weights()
        except Exception as error:
            raise UserError(f"model.lora: {file} does not fit the model ({first_line(error)})") from None


def place(pipe: Any, config: ModelConfig, device: str) -> Any:
    """Brings the pipeline to `device`, or leaves it in main memory as `offload` says. Raises `UserError` for offload on
    a CPU.
    """
    if config.offload != "none" and device == "cpu":
        raise UserError(f"model.offload is {config.offload}, and the device is the CPU: there is nothing to relieve")
    if config.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif config.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    else:
        pipe.to(device)
    return pipe


def hasten(pipe: Any, config: ModelConfig) -> Any:
    """Brings the network into another memory layout, or compiles it, where the recipe asks for that."""
    network = pipe.transformer if hasattr(pipe, "transformer") else pipe.unet
    if config.channels_last:
        network.to(memory_format=torch.channels_last)
    if config.compile:
        network.forward = torch.compile(network.forward)
    return pipe


def components(folder: Path, index: dict[str, Any], variant: str | None) -> list[str]:
    """The names of the parts that are loaded, all checked. Raises `UserError` for a part that is missing or unknown."""
    found = []
    for name, value in index.items():
        if not isinstance(value, list) or len(value) != 2 or value == [None, None] or name in LEFT_OUT:
            continue
        library, kind = value
        if library not in LIBRARIES:
            raise UserError(f"{folder / INDEX}: {name} comes from {library!r}; allowed are {', '.join(LIBRARIES)}")
        if not (folder / name).is_dir():
            raise UserError(f"{folder / name} is missing: {INDEX} lists it as a {kind}")
        if (folder / name / "config.json").exists():  # a network's, not a tokenizer's or a scheduler's
            check_weights(folder / name, variant)
        found.append(name)
    return found


def check_weights(folder: Path, variant: str | None) -> None:
    """Raises `UserError` where a component's folder holds no safetensors weights of that variant."""
    there = sorted(p.name for p in folder.iterdir() if p.suffix == ".safetensors")
    if variant and not any(f".{variant}." in name for name in there):
        raise UserError(f"{folder}: no weights of variant {variant!r} (there are {', '.join(there) or 'none'})")
    if not there:
        pickled = ", ".join(sorted(p.name for p in folder.iterdir() if p.suffix in PICKLED))
        raise UserError(f"{folder} holds {f'only pickled weights ({pickled})' if pickled else 'no weights'}; "
                        "only .safetensors are loaded")  # fmt: skip


def safetensors_file(path: str, option: str) -> Path:
    """The file at a path of the recipe. Raises `UserError`, naming the option, where it is missing or no .safetensors
    file.
    """
    file = Path(path)
    if file.suffix != ".safetensors" or not file.is_file():
        what = "not a .safetensors file" if file.is_file() else "not a file"
        raise UserError(f"{option}: {path!r} is {what}; a .safetensors file is expected")
    return file


def hash_of(folder: Path, config: ModelConfig) -> str:
    """The sha256 of the folder's weights and of what is loaded on top of them."""
    loras = [safetensors_file(lora.path, "model.lora") for lora in config.lora]
    words = [safetensors_file(inversion.path, "model.textual_inversion") for inversion in config.textual_inversion]
    return hash_model(folder, [*loras, *words])


def first_line(error: Exception) -> str:
    """The first line of an error's text, for a message of one sentence."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
