"""Tiny diffusers pipelines with random weights, built and saved on the spot; read by the tests of the real loaders.

Schedulers carry the constants of the published checkpoints, networks the layout but not the width. Widths differ on
purpose between neighbours (32, 40, 48, 80), so that a swapped tensor cannot pass. Latents are 16×16, images
`16 * vae_scale`. Weights depend on `seed` alone; the global generator is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import save_file

SIDE = 16  # of latents, and of low-resolution pixels
CONTEXT = 77  # tokens that every CLIP text encoder reads
_VOCABULARY = """
    a an the photo picture of cat dog horse house person smiling red blue green car on grass in snow painting drawing
    street mountains digit zero one two three four five six seven eight nine with and not riding bicycle
"""
WORDS = tuple(_VOCABULARY.split())
LABELS = ("cat", "dog", "horse", "house")

_SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_SD_DDIM = {**_SD_BETAS, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
_LINEAR_BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
# Cross attention at both resolutions, 16 and 8, with four heads each.
_UNET: dict[str, Any] = {
    "sample_size": SIDE,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 4,  # the number of heads: diffusers' old misnomer
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}
_PIXEL_UNET: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "out_channels": 6,
    "cross_attention_dim": 32,
    "encoder_hid_dim": 32,
    "encoder_hid_dim_type": "text_proj",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 2,
    "cross_attention_norm": "group_norm",
    "resnet_time_scale_shift": "scale_shift",
    "act_fn": "gelu",
}


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _byte_symbols() -> list[str]:
    """CLIP's 256 printable stand-ins for bytes, in its order: `!` is token 0."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def _merge(pieces: list[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding: always the earliest listed merge that applies."""
    while found := [pair for pair in merges if pair in pairwise(pieces)]:
        at = next(i for i, pair in enumerate(pairwise(pieces)) if pair == found[0])
        pieces = [*pieces[:at], pieces[at] + pieces[at + 1], *pieces[at + 2 :]]
    return pieces


def clip_tokenizer(*, pad_token: str = "<|endoftext|>") -> transformers.CLIPTokenizer:
    """CLIP's lower-casing byte-level tokenizer: each of `WORDS` is one token, all else falls into its bytes."""
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _merge([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:  # new merges rank last, so no earlier word changes
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
    symbols = _byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(left + right for left, right in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]  # last, as in CLIP: the pooled token is the largest id
    return transformers.CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=CONTEXT,
    )


def t5_tokenizer() -> transformers.T5Tokenizer:
    """T5's unigram tokenizer: `WORDS` whole, other text by printable ASCII character, the rest unknown."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [("▁" + word, -3.0) for word in WORDS] + [(chr(i), -10.0) for i in range(33, 127)]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=CONTEXT)


def _clip_text_settings(tokenizer: transformers.CLIPTokenizer, *, width: int, projection: int) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "projection_dim": projection,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _clip_text(tokenizer: transformers.CLIPTokenizer) -> transformers.CLIPTextModel:
    """(batch, 77) tokens → (batch, 77, 32)."""
    settings = _clip_text_settings(tokenizer, width=32, projection=32)
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(**settings))


def _clip_text_pooled(
    tokenizer: transformers.CLIPTokenizer, *, width: int, projection: int
) -> transformers.CLIPTextModelWithProjection:
    settings = _clip_text_settings(tokenizer, width=width, projection=projection)
    return transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**settings))


def _t5_text(tokenizer: transformers.T5Tokenizer, *, width: int) -> transformers.T5EncoderModel:
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=8,
        d_ff=2 * width,
        num_layers=1,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config)


def _vae(*, scale: int, channels: int = 4, scaling: float = 0.18215, shift: float | None = None) -> Any:
    """`scale` is a power of two; the 16-channel kind has no quantisation convolutions, as in SD 3 and Flux."""
    levels = scale.bit_length()
    if scale != 2 ** (levels - 1):
        raise ValueError(f"vae_scale {scale} is not a power of two")
    return diffusers.AutoencoderKL(
        sample_size=SIDE * scale,
        latent_channels=channels,
        block_out_channels=(16,) * levels,
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        scaling_factor=scaling,
        shift_factor=shift,
        use_quant_conv=shift is None,
        use_post_quant_conv=shift is None,
    )


def _save(pipe: Any, folder: Path) -> Path:
    pipe.save_pretrained(folder, safe_serialization=True)
    return folder


def _sd_with(scheduler: Any, folder: Path, *, seed: int, vae_scale: int) -> Path:
    with _seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.StableDiffusionPipeline(
            vae=_vae(scale=vae_scale),
            text_encoder=_clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**_UNET, cross_attention_dim=32),
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return _save(pipe, folder)


def sd(
    folder: Path,
    *,
    vae_scale: int = 2,
    prediction_type: str = "epsilon",
    set_alpha_to_one: bool = False,
    seed: int = 0,
) -> Path:
    """Stable Diffusion 1.5: `StableDiffusionPipeline` with DDIM."""
    settings = {**_SD_DDIM, "set_alpha_to_one": set_alpha_to_one, "prediction_type": prediction_type}
    return _sd_with(diffusers.DDIMScheduler(**settings), folder, seed=seed, vae_scale=vae_scale)


def turbo(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """SD-Turbo: `sd` with Euler steps and trailing spacing."""
    scheduler = diffusers.EulerDiscreteScheduler(**_SD_BETAS, steps_offset=1, timestep_spacing="trailing")
    return _sd_with(scheduler, folder, seed=seed, vae_scale=vae_scale)


def lcm(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """LCM Dreamshaper v7: the UNet is told the guidance scale."""
    with _seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.LatentConsistencyModelPipeline(
            vae=_vae(scale=vae_scale),
            text_encoder=_clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**_UNET, cross_attention_dim=32, time_cond_proj_dim=24),
            scheduler=diffusers.LCMScheduler(
                **_SD_BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=0, original_inference_steps=50
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    return _save(pipe, folder)


def animatediff(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """AnimateDiff v1.5: `sd` with motion modules for up to 32 frames, DDIM on the linear schedule."""
    with _seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.AnimateDiffPipeline(
            vae=_vae(scale=vae_scale),
            text_encoder=_clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**_UNET, cross_attention_dim=32),
            motion_adapter=diffusers.MotionAdapter(
                block_out_channels=(32, 64),
                motion_layers_per_block=1,
                motion_num_attention_heads=4,
                motion_norm_num_groups=8,
                motion_max_seq_length=32,
            ),
            scheduler=diffusers.DDIMScheduler(**{**_SD_DDIM, "beta_schedule": "linear"}),
        )
    return _save(pipe, folder)


def upscaler(folder: Path, *, seed: int = 0) -> Path:
    """Stable Diffusion x4: 16×16 pixels beside 16×16 latents → 64×64 pixels; the noise level is a class."""
    with _seeded(seed):
        tokenizer = clip_tokenizer()
        pipe = diffusers.StableDiffusionUpscalePipeline(
            vae=_vae(scale=4, scaling=0.08333),
            text_encoder=_clip_text(tokenizer),
            tokenizer=tokenizer,
            unet=diffusers.UNet2DConditionModel(**_UNET, in_channels=7, cross_attention_dim=32, num_class_embeds=1000),
            low_res_scheduler=diffusers.DDPMScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="scaled_linear"),
            scheduler=diffusers.DDIMScheduler(
                beta_start=0.0001,
                beta_end=0.02,
                beta_schedule="scaled_linear",
                clip_sample=False,
                set_alpha_to_one=False,
                steps_offset=1,
                prediction_type="v_prediction",
            ),
            max_noise_level=350,
        )
    return _save(pipe, folder)


def sdxl(folder: Path, *, refiner: bool = False, vae_scale: int = 2, seed: int = 0) -> Path:
    """SDXL: text 32 + 40 = 72 wide, 48 pooled, six size numbers; the refiner has the second encoder and five numbers.

    The refiner is saved as `StableDiffusionXLImg2ImgPipeline`, as its checkpoint is.
    """
    numbers, context = (5, 40) if refiner else (6, 72)
    with _seeded(seed):
        first, second = clip_tokenizer(), clip_tokenizer(pad_token="!")
        parts = {
            "vae": _vae(scale=vae_scale, scaling=0.13025),
            "text_encoder": None if refiner else _clip_text(first),
            "tokenizer": None if refiner else first,
            "text_encoder_2": _clip_text_pooled(second, width=40, projection=48),
            "tokenizer_2": second,
            "unet": diffusers.UNet2DConditionModel(
                **_UNET,
                cross_attention_dim=context,
                transformer_layers_per_block=(1, 2),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=48 + 8 * numbers,
            ),
            "scheduler": diffusers.EulerDiscreteScheduler(**_SD_BETAS, steps_offset=1, timestep_spacing="leading"),
            "add_watermarker": False,
        }
        if refiner:
            pipe = diffusers.StableDiffusionXLImg2ImgPipeline(
                **parts, requires_aesthetics_score=True, force_zeros_for_empty_prompt=False
            )
        else:
            pipe = diffusers.StableDiffusionXLPipeline(**parts)
    return _save(pipe, folder)


def sd3(folder: Path, *, t5: bool = True, vae_scale: int = 2, seed: int = 0) -> Path:
    """Stable Diffusion 3: 16-channel latents, two CLIP encoders, and T5 unless `t5` is false."""
    with _seeded(seed):
        first, second, third = clip_tokenizer(), clip_tokenizer(pad_token="!"), t5_tokenizer()
        pipe = diffusers.StableDiffusion3Pipeline(
            transformer=diffusers.SD3Transformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=16,
                out_channels=16,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=4,
                caption_projection_dim=32,
                joint_attention_dim=80,
                pooled_projection_dim=32 + 48,
                pos_embed_max_size=24,
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=_vae(scale=vae_scale, channels=16, scaling=1.5305, shift=0.0609),
            text_encoder=_clip_text_pooled(first, width=32, projection=32),
            tokenizer=first,
            text_encoder_2=_clip_text_pooled(second, width=40, projection=48),
            tokenizer_2=second,
            text_encoder_3=_t5_text(third, width=80) if t5 else None,
            tokenizer_3=third if t5 else None,
        )
    return _save(pipe, folder)


def flux(folder: Path, *, guidance_embeds: bool = True, vae_scale: int = 2, seed: int = 0) -> Path:
    """Flux: 16-channel latents in 2×2 packs; `guidance_embeds` as in dev, false as in schnell.

    The scheduler is dev's in both cases.
    """
    with _seeded(seed):
        first, second = clip_tokenizer(), t5_tokenizer()
        pipe = diffusers.FluxPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
                shift=3.0,
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=1.15,
                base_image_seq_len=256,
                max_image_seq_len=4096,
            ),
            vae=_vae(scale=vae_scale, channels=16, scaling=0.3611, shift=0.1159),
            text_encoder=_clip_text(first),
            tokenizer=first,
            text_encoder_2=_t5_text(second, width=40),
            tokenizer_2=second,
            transformer=diffusers.FluxTransformer2DModel(
                in_channels=64,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=16,
                num_attention_heads=2,
                joint_attention_dim=40,
                pooled_projection_dim=32,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(4, 4, 8),
            ),
        )
    return _save(pipe, folder)


def dit(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """DiT: `LABELS` are classes 0 to 3 of 1000, because `DiTPipeline` takes 1000 for "no class"."""
    with _seeded(seed):
        pipe = diffusers.DiTPipeline(
            transformer=diffusers.DiTTransformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                num_attention_heads=4,
                attention_head_dim=8,
                num_embeds_ada_norm=1000,
                norm_num_groups=8,
            ),
            vae=_vae(scale=vae_scale),
            scheduler=diffusers.DDIMScheduler(
                **_LINEAR_BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=0
            ),
            id2label=dict(enumerate(LABELS)),
        )
        # The pipeline forgets to keep the labels that it is given; published folders have them in model_index.json.
        pipe.register_to_config(id2label={str(i): label for i, label in enumerate(LABELS)})
    return _save(pipe, folder)


def _pixart_with(pipeline: Any, folder: Path, *, scaling: float, vae_scale: int, seed: int) -> Path:
    with _seeded(seed):
        tokenizer = t5_tokenizer()
        pipe = pipeline(
            tokenizer=tokenizer,
            text_encoder=_t5_text(tokenizer, width=40),
            vae=_vae(scale=vae_scale, scaling=scaling),
            transformer=diffusers.PixArtTransformer2DModel(
                sample_size=SIDE,
                patch_size=2,
                in_channels=4,
                out_channels=8,
                num_layers=2,
                num_attention_heads=4,
                attention_head_dim=8,
                cross_attention_dim=32,
                caption_channels=40,
                norm_num_groups=8,
                use_additional_conditions=False,
            ),
            scheduler=diffusers.DPMSolverMultistepScheduler(**_LINEAR_BETAS),
        )
    return _save(pipe, folder)


def pixart(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """PixArt-α 512: no size conditions. Call the pipeline with `use_resolution_binning=False`."""
    return _pixart_with(diffusers.PixArtAlphaPipeline, folder, scaling=0.18215, vae_scale=vae_scale, seed=seed)


def pixart_sigma(folder: Path, *, vae_scale: int = 2, seed: int = 0) -> Path:
    """PixArt-Σ. Call the pipeline with `use_resolution_binning=False`."""
    return _pixart_with(diffusers.PixArtSigmaPipeline, folder, scaling=0.13025, vae_scale=vae_scale, seed=seed)


def _deepfloyd_scheduler(*, variance_type: str, sample_max_value: float) -> diffusers.DDPMScheduler:
    return diffusers.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2",
        variance_type=variance_type,
        thresholding=True,
        dynamic_thresholding_ratio=0.95,
        sample_max_value=sample_max_value,
    )


def deepfloyd(folder: Path, *, variance_type: str = "learned_range", seed: int = 0) -> Path:
    """DeepFloyd IF, stage I: 16×16 pixels; the UNet returns mean and variance whatever `variance_type` is."""
    with _seeded(seed):
        tokenizer = t5_tokenizer()
        pipe = diffusers.IFPipeline(
            tokenizer=tokenizer,
            text_encoder=_t5_text(tokenizer, width=32),
            unet=diffusers.UNet2DConditionModel(**_PIXEL_UNET, sample_size=SIDE, in_channels=3),
            scheduler=_deepfloyd_scheduler(variance_type=variance_type, sample_max_value=1.5),
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            requires_safety_checker=False,
        )
    return _save(pipe, folder)


def deepfloyd_upscaler(folder: Path, *, variance_type: str = "learned_range", seed: int = 0) -> Path:
    """DeepFloyd IF, stage II: 16×16 pixels → 32×32; the noise level of the small image is a second time."""
    with _seeded(seed):
        tokenizer = t5_tokenizer()
        pipe = diffusers.IFSuperResolutionPipeline(
            tokenizer=tokenizer,
            text_encoder=_t5_text(tokenizer, width=32),
            unet=diffusers.UNet2DConditionModel(
                **_PIXEL_UNET, sample_size=2 * SIDE, in_channels=6, class_embed_type="timestep"
            ),
            scheduler=_deepfloyd_scheduler(variance_type=variance_type, sample_max_value=1.0),
            image_noising_scheduler=diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
            safety_checker=None,
            feature_extractor=None,
            watermarker=None,
            requires_safety_checker=False,
        )
    return _save(pipe, folder)


def clip(folder: Path, *, seed: int = 0) -> Path:
    """`CLIPModel` and `CLIPProcessor` in one folder: 32×32 pixels, 24 shared features."""
    with _seeded(seed):
        tokenizer = clip_tokenizer()
        config = transformers.CLIPConfig(
            text_config=_clip_text_settings(tokenizer, width=32, projection=24),
            vision_config={
                "hidden_size": 40,
                "intermediate_size": 80,
                "projection_dim": 24,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": 32,
                "patch_size": 8,
            },
            projection_dim=24,
        )
        model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    pixels = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(image_processor=pixels, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def lora(folder: Path, pipeline_folder: Path, *, rank: int = 2, seed: int = 0) -> Path:
    """A LoRA file for the UNet of `sd`; its update is not zero, as an untrained one would be. Returns the file."""
    from peft import LoraConfig, get_peft_model_state_dict

    unet = diffusers.UNet2DConditionModel.from_pretrained(pipeline_folder, subfolder="unet", local_files_only=True)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    layers = diffusers.utils.convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))
    generator = torch.Generator().manual_seed(seed)
    layers = {name: 0.5 * torch.randn(weight.shape, generator=generator) for name, weight in layers.items()}
    diffusers.StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)
    return folder / "pytorch_lora_weights.safetensors"


def textual_inversion(folder: Path, token: str, dim: int, *, vectors: int = 1, seed: int = 0) -> Path:
    """`learned_embeds.safetensors`: `token` → (dim,), or (vectors, dim) for more than one. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    learned = torch.randn(vectors, dim, generator=torch.Generator().manual_seed(seed))
    path = folder / "learned_embeds.safetensors"
    save_file({token: learned[0].clone() if vectors == 1 else learned}, path)
    return path


FAMILIES = {
    "sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux, "dit": dit, "pixart": pixart, "deepfloyd": deepfloyd,
    "deepfloyd_upscaler": deepfloyd_upscaler, "upscaler": upscaler, "lcm": lcm, "turbo": turbo,
    "animatediff": animatediff,
}  # fmt: skip


if __name__ == "__main__":  # python tests/tiny.py FOLDER: one of each, to try recipes on
    import sys

    for name, build in FAMILIES.items():
        build(Path(sys.argv[1]) / name)
