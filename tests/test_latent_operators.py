"""Operators on models of latents: what holds in pixels all the same, and what is refused, with the reason."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.diffusion.cells import CellView, cell_order, to_cells, views_on
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.tiles.regions import Cut
from pipeline.diffusion.views.catalogue import (
    FlipHorizontal,
    Identity,
    InnerCircle,
    Negate,
    PatchPermutation,
    Rotate,
    Skew,
)
from pipeline.errors import UserError
from pipeline.models.gaussian import Gaussian
from pipeline.operators import OPERATORS, Given, Operator, Transformed
from tests.latent_model import CELL, Cells, Lossy
from tests.operator_settings import SETTINGS
from tests.test_operators import GUIDE, LABELS, LEVELS, MASK, MODEL, Z

CLASSES = {"by_class": tuple(Gaussian(mean=m, std=0.5) for m in (0.3, -0.4, 0.1)), "class_names": ("a", "b", "c")}
LATENT = Cells(denoise=MODEL.denoise, levels=LEVELS, size=(12, 12), **CLASSES)  # type: ignore[arg-type]
LOSSY = Lossy(denoise=MODEL.denoise, levels=LEVELS, size=(12, 12), **CLASSES)  # type: ignore[arg-type]
REFUSED = {
    "anagram-1": "view pixel_permutation tears squares of 2 × 2 pixels apart",
    "anagram-2": "view skew tears squares",
    "factorized-2": "factorized takes the colours of pixels apart, and the model works on latents",
    "factorized-3": "components motion: a blur of 3 pixels is lost in cells of 2 × 2",
    "ilvr-1": "factor is 3; on latents with cells of 2 × 2 pixels, allowed are multiples of 2 from 4 on",
    "ilvr-3": "factor is 2; on latents",
}
CASES = [(name, i, settings) for name, several in SETTINGS.items() for i, settings in enumerate(several)]


def apply(model: Cells, operator: Operator, rows: list[int], **given: Any) -> Transformed:
    everything = operator.needs | operator.accepts
    extras = {
        "mask": MASK[rows] if "mask" in everything else None,
        "guide": GUIDE[rows] if "guide" in everything else None,
    }
    noise = KeyedNoise(b"salt", [str(row) for row in rows], operator.name, 0)
    pixels = Z[rows]
    return operator(model, model.encode(pixels), Given(pixels=pixels, labels=LABELS[rows], **extras | given), noise)


@pytest.mark.parametrize(("name", "i", "settings"), CASES)
def test_every_setting_works_on_latents_or_is_refused_with_the_reason(name: str, i: int, settings: Any) -> None:
    operator = OPERATORS[name](name=name, **settings)
    if sentence := REFUSED.get(f"{name}-{i}"):
        with pytest.raises(UserError, match=sentence):
            operator.check(LATENT, None)
        return
    operator.check(LATENT, None)
    done, some = apply(LATENT, operator, [0, 1, 2]), apply(LATENT, operator, [2, 0])
    for image, again in zip([done.pixels, *done.others.values()], [some.pixels, *some.others.values()], strict=True):
        assert image.shape == Z.shape
        assert image.isfinite().all()
        torch.testing.assert_close(image[[2, 0]], again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "settings"), [("sdedit", {"repeats": 2}), ("inpaint", {"steps": 6})])
def test_what_a_mask_keeps_is_the_image_s_own_whatever_the_decoder_loses(name: str, settings: Any) -> None:
    """Also in cells that are to change in part."""
    made = apply(LOSSY, OPERATORS[name](name=name, **settings), [0, 1, 2]).pixels
    kept = (MASK < 0.5).expand_as(made)
    assert torch.equal(made[kept], Z[kept])
    assert not torch.isclose(made[~kept], Z[~kept]).any()


def test_a_cell_changes_where_any_of_its_pixels_does() -> None:
    mask = torch.zeros(1, 1, 4, 6)
    mask[0, 0, 1, 2] = mask[0, 0, 3, 5] = 1
    assert to_cells(mask, torch.zeros(1, 12, 2, 3)).flatten().tolist() == [0, 1, 0, 0, 0, 1]
    assert to_cells(mask, torch.zeros(1, 3, 4, 6)) is mask


def test_a_view_moves_cells_as_it_moves_their_pixels() -> None:
    """Noise that is the same all over a cell goes where its pixels go."""
    noise = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    flat = noise.repeat_interleave(CELL, 2).repeat_interleave(CELL, 3)
    for view in (FlipHorizontal(), Rotate(degrees=90), PatchPermutation(tiles=3), PatchPermutation(tiles=6, seed=2)):
        (seen,) = views_on(LATENT, [view])
        assert torch.equal(seen(LATENT.encode(flat)), LATENT.encode(view(flat)))
        assert torch.equal(seen.inverse(LATENT.encode(view(Z))), LATENT.encode(Z))
    for torn in (Skew(), InnerCircle(), PatchPermutation(tiles=12)):
        with pytest.raises(ValueError, match=f"view {torn.name} tears"):
            cell_order(torn, LATENT)
    with pytest.raises(ValueError, match="changes the sign"):
        cell_order(Negate(), LATENT)
    assert views_on(LATENT, [Identity()]) == [Identity()]
    assert isinstance(views_on(LATENT, [FlipHorizontal()])[0], CellView)


def test_an_anagram_of_an_image_that_knows_its_views() -> None:
    """With one mean for all, and no noise left to speak of, the estimate under each view is the same image."""
    mean = torch.linspace(-1, 1, 12)[:, None, None].expand(12, 6, 6)
    upright = Gaussian(mean=mean, std=1e-3)
    flipped = Gaussian(mean=LATENT.encode(FlipHorizontal()(LATENT.decode(mean[None])))[0], std=1e-3)
    model = Cells(denoise=upright, by_class=(upright, flipped), levels=LEVELS, size=(12, 12))
    anagram = OPERATORS["anagram"].model_validate(
        {"views": ["identity", "flip_horizontal"], "conditions": [0, 1], "guidance": 1, "steps": 3}
    )
    made = apply(model, anagram, [0, 1])
    torch.testing.assert_close(made.pixels, LATENT.decode(mean[None]).expand(2, -1, -1, -1), atol=0.02, rtol=0)
    assert torch.equal(made.others["view-1"], FlipHorizontal()(made.pixels))


@pytest.mark.parametrize("tiles", [3, 12, "pixels"])
def test_a_morph_of_the_image_s_own_tiles_uses_each_once(tiles: Any) -> None:
    """Single pixels, too: what is laid are pixels, not latents."""
    morph = OPERATORS["tile_morph"].model_validate(
        {"conditions": ["a"], "tiles": tiles, "source": "image", "steps": 2, "match_from": {"sigma": 9}}
    )
    made = apply(LOSSY, morph, [0, 1], guide=None).pixels
    (group,) = Cut.model_validate(tiles)((12, 12))

    def multiset(images: Tensor) -> Tensor:
        cut = images.flatten(2)[:, :, torch.from_numpy(group.pixels)].transpose(1, 2).flatten(2)
        return torch.stack([torch.stack(sorted(image, key=lambda tile: tile.tolist())) for image in cut])

    assert torch.equal(multiset(made), multiset(Z[[0, 1]]))
    assert not torch.equal(made, Z[[0, 1]])


def test_measurements_hold_in_pixels() -> None:
    enhance = OPERATORS["enhance"].model_validate({"factor": 4, "steps": 3})
    measured = avg_pool2d(apply(LOSSY, enhance, [0, 1, 2]).pixels, 4)
    torch.testing.assert_close(measured, avg_pool2d(Z, 4), atol=1e-5, rtol=0)
    ilvr = OPERATORS["ilvr"].model_validate(
        {"factor": 4, "steps": 3}
    )  # exact, where the decoder is linear and lossless
    means = avg_pool2d(apply(LATENT, ilvr, [0, 1, 2], guide=None).pixels, 4)
    torch.testing.assert_close(means, avg_pool2d(Z, 4), atol=1e-4, rtol=0)


def test_a_known_component_is_that_of_the_image() -> None:
    options = {"components": "spatial", "conditions": ["a", "b"], "inverse": "outside", "steps": 2}
    made = apply(LOSSY, OPERATORS["factorized"].model_validate(options), [0, 1, 2]).pixels
    outside = (MASK < 0.5).expand_as(made)
    torch.testing.assert_close(made[outside], Z[outside], atol=1e-6, rtol=0)
