from pathlib import Path

import pytest
import torch

from pipeline.errors import UserError
from pipeline.media.rules import PixelRules
from tests.training.toy import EACH, SIDE, Configure
from training.data.cache import build_cache
from training.data.images import Images
from training.data.overlap import marks_of, read_training_set, refuse_overlap
from training.denoiser.train import train_denoiser


def images(*keys: str, seed: int) -> Images:
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(keys), 3, 4, 4), generator=rng, dtype=torch.uint8)
    return Images(keys=keys, pixels=pixels, labels=torch.zeros(len(keys), dtype=torch.int64))


def test_strangers_pass() -> None:
    seen, own = images("a", "b", seed=0), images("c", "d", seed=1)
    refuse_overlap("the denoiser", marks_of(seen.keys, seen.pixels), {"data.test": own})


def test_a_shared_key_is_refused() -> None:
    seen, own = images("a", "b", seed=0), images("c", "b", seed=1)
    with pytest.raises(
        UserError, match=r"data.test: 1 of 2 images are in the training set of the denoiser by their keys"
    ):
        refuse_overlap("the denoiser", marks_of(seen.keys, seen.pixels), {"data.test": own})


def test_shared_content_under_another_key_is_refused() -> None:
    seen = images("a", "b", seed=0)
    own = Images(
        keys=("x", "y"), pixels=seen.pixels.flip(0) ^ torch.tensor([[[[0]]], [[[1]]]]).byte(), labels=seen.labels
    )
    with pytest.raises(UserError, match=r"by their contents, the first is 'x'"):
        refuse_overlap("the denoiser", marks_of(seen.keys, seen.pixels), {"data.validation": own})


def test_a_trained_model_says_what_it_has_seen(configure: Configure, data: Path, tmp_path: Path) -> None:
    folder = train_denoiser(configure())
    seen = read_training_set(folder / "model")
    assert seen is not None
    assert len(seen["keys"]) == 2 * EACH
    cache = build_cache(configure().data, tmp_path / "again", (SIDE, SIDE), PixelRules())
    own = Images(keys=tuple(f"other-{i}" for i in range(len(cache))), pixels=cache.images(), labels=torch.zeros(1))
    with pytest.raises(UserError, match=rf"{2 * EACH} of {2 * EACH} images .* by their contents"):
        refuse_overlap("it", seen, {"data.test": own})
    assert read_training_set(tmp_path) is None
