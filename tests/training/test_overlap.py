import gzip
import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.errors import UserError
from pipeline.media.looks import looks_of, near_copies
from pipeline.media.rules import PixelRules
from pipeline.models.training_set import read_training_set
from tests import builders
from tests.training.toy import EACH, SIDE, Configure
from training.data.cache import build_cache
from training.data.images import Images, pixel_marks
from training.data.overlap import marks_of, refuse_overlap
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


def pictures(count: int, first: int = 0) -> Images:
    """Random pictures of 24 × 24 pixels, with details of two pixels."""
    rngs = [np.random.default_rng(i) for i in range(first, first + count)]
    small = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for rng in rngs]
    made = [np.asarray(image.resize((24, 24), Image.Resampling.BICUBIC)) for image in small]
    pixels = torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()
    return Images(keys=tuple(f"{i}" for i in range(first, first + count)), pixels=pixels, labels=torch.zeros(count))


def saved_again(images: Images, kind: str, **options: Any) -> Images:
    def again(image: Tensor) -> Tensor:
        buffer = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, kind, **options)
        return torch.from_numpy(np.array(Image.open(buffer).convert("RGB"))).permute(2, 0, 1)

    pixels = torch.stack([again(image) for image in images.pixels])
    return replace(images, keys=tuple(f"copy of {key}" for key in images.keys), pixels=pixels)


def test_the_same_images_as_jpeg_are_refused_and_a_few_are_said(caplog: pytest.LogCaptureFixture) -> None:
    seen, others = pictures(20), pictures(300, first=100)
    marks = marks_of(seen.keys, seen.pixels)
    refuse_overlap("the denoiser", marks, {"data.test": others})
    assert not caplog.text
    copies = saved_again(seen, "JPEG", quality=97, subsampling=0)
    assert not torch.isin(pixel_marks(copies.pixels), marks["contents"]).any()
    with pytest.raises(
        UserError, match=r"20 of 20 images are near-copies of some in .* first is 'copy of 0'; .* 1\.0%"
    ):
        refuse_overlap("the denoiser", marks, {"data.test": copies})
    few = Images(
        keys=(*copies.keys[:3], *others.keys), pixels=torch.cat([copies.pixels[:3], others.pixels]),
        labels=torch.zeros(303),
    )  # fmt: skip
    refuse_overlap("the denoiser", marks, {"data.test": few})
    assert "3 of 303 images are near-copies" in caplog.text
    with pytest.raises(UserError, match="3 of 303"):
        refuse_overlap("the denoiser", marks, {"data.test": few}, 0)


def test_a_model_of_an_earlier_version_does_not_tell_looks(caplog: pytest.LogCaptureFixture) -> None:
    seen = pictures(3)
    marks = marks_of(seen.keys, seen.pixels)
    del marks["looks"]
    refuse_overlap("the denoiser", marks, {"data.test": saved_again(seen, "JPEG")})
    assert "does not say how its training images look" in caplog.text


def test_images_without_a_picture_are_nobodys_copies() -> None:
    flat = torch.full((3, 3, 8, 8), 90, dtype=torch.uint8)
    flat[1, :, :, :4] += 60
    assert not near_copies(looks_of(flat), looks_of(flat)).any()


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "mnist"])
def test_near_copies_on_real_images(name: str) -> None:
    """The figures that the threshold states, on fewer images: copies are found, and other images are not."""
    train, test = (real(name, split, 1000) for split in ("train", "test"))
    looks = looks_of(train.pixels)
    assert near_copies(looks_of(test.pixels), looks).float().mean() <= 0.002
    for copies, share in ((saved_again(train.take(torch.arange(200)), "JPEG", quality=q), s) for q, s in WANTED):
        assert near_copies(looks_of(copies.pixels), looks).float().mean() >= share


WANTED = (90, 0.96), (75, 0.85)


def real(name: str, split: str, count: int) -> Images:
    folder = builders.SHARED / name
    if not folder.exists():
        pytest.skip(f"{folder} is not here")
    if name == "cifar10":
        arrays = np.load(folder / "cifar10_jpeg.npz")
        data, offsets = arrays[f"{split}_jpeg"], arrays[f"{split}_offsets"]
        pixels = np.stack([
            np.asarray(Image.open(io.BytesIO(data[a:b].tobytes())).convert("RGB"))
            for a, b in pairwise(offsets[: count + 1].tolist())
        ])  # fmt: skip
    else:
        file = folder / f"{'train' if split == 'train' else 't10k'}-images-idx3-ubyte.gz"
        with gzip.open(file) as content:
            grey = np.frombuffer(content.read(16 + count * 784)[16:], np.uint8)
        pixels = grey.reshape(count, 28, 28, 1).repeat(3, 3)
    keys = tuple(f"{split} {i}" for i in range(count))
    return Images(keys=keys, pixels=torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2), labels=torch.zeros(count))
