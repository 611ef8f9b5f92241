"""Tiny diffusers pipelines with random weights, built and saved on the spot; read by the tests of the real loaders.

Schedulers carry the constants of the published checkpoints, networks the layout but not the width. Widths differ on
purpose between neighbours (32, 40, 48, 80), so that a swapped tensor cannot pass. Latents are 16×16, images
`16 * vae_scale`. Weights depend on `seed` alone; the global generator is left as it was.
"""

from tests.tiny.beside import clip, lora, textual_inversion
from tests.tiny.cascade import PIXEL_UNET, deepfloyd, deepfloyd_upscaler
from tests.tiny.flow import flux, sd3
from tests.tiny.parts import CONTEXT, SIDE, UNET, WORDS, clip_tokenizer, seeded, t5_tokenizer
from tests.tiny.stable_diffusion import animatediff, lcm, sd, sdxl, turbo, upscaler
from tests.tiny.transformers_of_latents import LABELS, dit, pixart, pixart_sigma

__all__ = [
    "CONTEXT", "FAMILIES", "LABELS", "PIXEL_UNET", "SIDE", "UNET", "WORDS", "animatediff", "clip", "clip_tokenizer",
    "deepfloyd", "deepfloyd_upscaler", "dit", "flux", "lcm", "lora", "pixart", "pixart_sigma", "sd", "sd3", "sdxl",
    "seeded", "t5_tokenizer", "textual_inversion", "turbo", "upscaler",
]  # fmt: skip

FAMILIES = {
    "sd": sd, "sdxl": sdxl, "sd3": sd3, "flux": flux, "dit": dit, "pixart": pixart, "deepfloyd": deepfloyd,
    "deepfloyd_upscaler": deepfloyd_upscaler, "upscaler": upscaler, "lcm": lcm, "turbo": turbo,
    "animatediff": animatediff,
}  # fmt: skip
