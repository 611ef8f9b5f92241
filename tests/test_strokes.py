"""Stroke paintings: few colours, no specks, for any size."""

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import median_filter

from pipeline.media.strokes import stroke_painting
from tests.builders import SHARED


def picture(height: int = 40, width: int = 52) -> np.ndarray:
    small = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("colours", "share"), [(2, 0.9), (6, 0.75), (17, 0.6)])
def test_few_colours_near_the_image_s_own(colours: int, share: float) -> None:
    image = picture()
    before, painted = image.copy(), stroke_painting(image, colours)
    assert np.array_equal(image, before)
    assert (painted.shape, painted.dtype) == (image.shape, np.uint8)
    assert len(np.unique(painted.reshape(-1, 3), axis=0)) == colours
    spread = np.abs(image - image.mean((0, 1))).mean()
    assert np.abs(painted.astype(float) - image).mean() < share * spread


@pytest.mark.parametrize(
    ("size", "kernel", "side"),
    [
        ((256, 300), 5, 5),
        ((256, 300), 4, 5),
        ((28, 28), 23, 3),
        ((64, 90), 23, 5),
        ((90, 64), 23, 5),
        ((16, 16), 23, 3),
        ((40, 40), 1, 1),
    ],
)
def test_the_median_filter_scales_with_the_image(size: tuple[int, int], kernel: int, side: int) -> None:
    """Against scipy's filter; with few colours in the image the palette leaves all as they are."""
    image = np.random.default_rng(1).choice(np.array([0, 255], np.uint8), size)[..., None].repeat(3, 2)
    expected = median_filter(image, (side, side, 1), mode="nearest")
    assert np.array_equal(stroke_painting(image, 256, kernel), expected)


def test_grey_stays_grey_and_specks_go() -> None:
    image = np.full((28, 28, 3), 200, np.uint8)
    image[:, 14:] = 40
    clean = image.copy()
    image[5, 5], image[20, 20] = 0, 255
    assert np.array_equal(stroke_painting(image), clean)


def test_what_cannot_be_painted_is_refused() -> None:
    with pytest.raises(ValueError, match="1 colours: 2 to 256"):
        stroke_painting(picture(), 1)
    with pytest.raises(ValueError, match="0 × 0 pixels: 1 × 1 is the smallest"):
        stroke_painting(picture(), 6, 0)


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_a_photograph_becomes_as_flat_as_people_s_paintings() -> None:
    """The share of neighbouring pixels that differ: in painted guides of the paper's kind, few."""

    def edges(image: np.ndarray) -> float:
        return float((np.abs(np.diff(image.astype(int), axis=1)).sum(2) > 24).mean())

    with Image.open(SHARED / "hires_cc0" / "rocket.jpg") as photograph:
        image = np.asarray(photograph.convert("RGB").resize((128, 128), Image.Resampling.BICUBIC))
    guides = [np.asarray(Image.open(f).convert("RGB")) for f in (SHARED / "sdedit_strokes").glob("*.png")]
    limit = max(edges(guide) for guide in guides)
    assert edges(stroke_painting(image)) < min(limit, edges(image))
