"""Contact sheets: rows of pictures under one another, each row with its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from pipeline.media.records import Pixels8

GAP, INK, PAPER = 4, (30, 30, 30), (255, 255, 255)
"""Pixels between pictures, and the colours (RGB) of text and background."""


def contact_sheet(rows: Sequence[tuple[str, Sequence[Pixels8]]], cell: int = 84) -> Image.Image:
    """Draws a sheet of `rows`: (name, uint8 `[H, W, 3]` pictures).

    Each picture fits a square of `cell` × `cell` pixels. Small pictures are enlarged without smoothing, so that single
    pixels stay visible.
    """
    font = ImageFont.load_default(size=13)
    margin = int(max(font.getlength(name) for name, _ in rows)) + 3 * GAP
    columns = max(len(pictures) for _, pictures in rows)
    sheet = Image.new("RGB", (margin + columns * (cell + GAP), len(rows) * (cell + GAP) + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, (name, pictures) in enumerate(rows):
        top = GAP + i * (cell + GAP)
        plain = name.replace("×", "x").replace("→", ">")  # the font has neither
        draw.text((GAP, top + cell // 2), plain, fill=INK, font=font, anchor="lm")
        for j, picture in enumerate(pictures):
            image = _fit(Image.fromarray(np.ascontiguousarray(picture)), cell)
            sheet.paste(image, (margin + j * (cell + GAP), top))
    return sheet


def _fit(image: Image.Image, cell: int) -> Image.Image:
    scale = cell / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
