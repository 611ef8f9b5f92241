"""Neighbours in the training step: the offline job's pixels, the draws, the labels, and what is left alone."""

import io
import pickle
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from pipeline.errors import UserError
from pipeline.hooks.augment import GenerativeAugment
from pipeline.hooks.soft_labels import soft_labels
from pipeline.hooks.store import NeighbourStore
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from tests import builders

BOOMERANG = {"name": "boomerang", "t_boom": 0.4, "steps": 2}
COUNT = 10


def decoded(content: bytes) -> Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(content)).convert("RGB"))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def loaded(model: Path) -> Any:
    return load_model(ModelConfig(path=str(model)), "cpu")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.stack([decoded(builders.picture(i)) for i in range(COUNT)])


LABELS = torch.arange(COUNT) % builders.CLASSES


@pytest.mark.parametrize("copy", [0, 1])
def test_the_same_key_gives_the_pixels_of_the_offline_job(job: JobConfig, images: Tensor, copy: int) -> None:
    """Shard by shard, so that batches are as they were; store, tar and hook agree byte for byte."""
    assert job.operator is not None
    assert job.model is not None
    aug = GenerativeAugment(job.operator, job.model, p=1)
    store = NeighbourStore.open(job.output.path)
    for shard, rows in (("a", range(6)), ("b", range(6, COUNT))):
        written = builders.members_of(Path(job.output.path) / "data" / f"{shard}.tar")
        keys = [f"{row:04d}" for row in rows]
        full = [f"{shard}/{key}" for key in keys]
        near, labels = aug(images[list(rows)], LABELS[list(rows)], keys=full, copy=copy)
        assert torch.equal(labels, LABELS[list(rows)])
        for key, image in zip(keys, near, strict=True):
            assert torch.equal(image, decoded(written[f"{key}-{copy}.png"]))
            kept = store.get(key, copy)
            assert kept is not None
            assert np.array_equal(np.asarray(kept), image.permute(1, 2, 0).numpy())


def test_grey_images_are_those_of_the_offline_job(tmp_path: Path, model: Path) -> None:
    from pipeline.config import validate
    from pipeline.engine.planning import make_plan
    from pipeline.engine.running import run_job

    source = builders.shard(tmp_path / "in.tar", 4, mode="L")
    run_job(make_plan(validate(JobConfig, builders.recipe(source, tmp_path / "out", model), "test")))
    written = builders.members_of(tmp_path / "out" / "data" / "in.tar")
    grey = torch.stack([decoded(builders.picture(i, mode="L"))[:1] for i in range(4)])
    aug = GenerativeAugment(BOOMERANG, ModelConfig(path=str(model), batch_size=4), p=1)
    near = aug(grey / 255, LABELS[:4], keys=[f"in/{i:04d}" for i in range(4)])[0]
    assert near.shape == grey.shape
    assert torch.equal(
        (near * 255).round().byte(), torch.stack([decoded(written[f"{i:04d}.png"])[:1] for i in range(4)])
    )


def test_rows_that_are_not_chosen_keep_every_bit(loaded: Any, images: Tensor) -> None:
    given = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    before, labels = given.clone(), torch.zeros(40, dtype=torch.int64)
    near, _ = GenerativeAugment(BOOMERANG, loaded, p=0.5)(given, labels)
    same = (near == given).flatten(1).all(1)
    assert 8 <= int(same.sum()) <= 32  # P(outside) < 1e-4
    assert torch.equal(given, before)
    assert near[~same].min() >= 0
    assert near[~same].max() <= 1


def test_only_chosen_rows_go_through_the_model(loaded: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.models.pixel import PixelModel

    sizes: list[int] = []
    whole = PixelModel.encode
    monkeypatch.setattr(PixelModel, "encode", lambda self, x: sizes.append(len(x)) or whole(self, x))
    aug = GenerativeAugment(BOOMERANG, loaded, p=0.5, batch_size=8)
    near, _ = aug(images, LABELS)
    changed = int((near != images).flatten(1).any(1).sum())
    assert 0 < changed < COUNT
    assert sizes == [changed]
    sizes.clear()
    GenerativeAugment(BOOMERANG, loaded, p=0)(images, LABELS)
    assert sizes == []
    GenerativeAugment(BOOMERANG, loaded, p=1, batch_size=8)(images, LABELS)
    assert sizes == [5, 5]


def test_every_call_gives_fresh_neighbours_and_the_same_seed_the_same(loaded: Any, images: Tensor) -> None:
    def made(seed: int) -> list[Tensor]:
        aug = GenerativeAugment(BOOMERANG, loaded, p=1, generator=torch.Generator().manual_seed(seed))
        return [aug(images, LABELS)[0] for _ in range(2)]

    first, second = made(1)
    assert not torch.equal(first, second)
    assert all(torch.equal(a, b) for a, b in zip(made(1), (first, second), strict=True))
    assert not torch.equal(made(2)[0], first)


def test_the_state_resumes_the_draws_and_holds_no_model(loaded: Any, images: Tensor) -> None:
    aug = GenerativeAugment(BOOMERANG, loaded, p=0.5, generator=torch.Generator().manual_seed(3))
    aug(images, LABELS)
    state = load(save(aug.state_dict()))
    expected = [aug(images, LABELS)[0] for _ in range(2)]
    other = GenerativeAugment(BOOMERANG, loaded, p=0.5)
    other.load_state_dict(state)
    assert all(torch.equal(other(images, LABELS)[0], near) for near in expected)
    assert list(state) == ["_extra_state"]
    assert not list(aug.parameters())
    assert not list(aug.buffers())
    aug.train()
    assert not loaded.network.training


def test_global_randomness_and_autocast_change_nothing(loaded: Any, images: Tensor) -> None:
    def made() -> Tensor:
        return GenerativeAugment(BOOMERANG, loaded, p=1)(images, LABELS)[0]

    torch.manual_seed(0)
    before, near = torch.get_rng_state(), made()
    assert torch.equal(torch.get_rng_state(), before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(), near)


def test_eval_mode_passes_everything(loaded: Any, images: Tensor) -> None:
    aug = GenerativeAugment(BOOMERANG, loaded, p=1, gamma=1).eval()
    assert aug(images, LABELS) == (images, LABELS)
    assert aug(images) is images


def test_soft_labels_by_hand() -> None:
    soft = soft_labels(torch.tensor([2, 0, 1]), torch.tensor([0.0, 0.25, 1.0]), 0.5, 3)
    assert torch.equal(soft, torch.tensor([[0, 0, 1], [0.5, 0.25, 0.25], [0.5, 0, 0.5]]))


@pytest.mark.parametrize(
    "operator",
    [
        {"name": "boomerang", "t_boom": 0.4, "steps": 2},
        {"name": "sdedit", "t0": {"sigma": 0.7}, "steps": 2},
        {"name": "boomerang", "t_boom": [0.1, 0.8], "steps": 2},
    ],
)
def test_labels_soften_by_the_level_of_each_row(loaded: Any, images: Tensor, operator: dict[str, Any]) -> None:
    """Against the level that the operator itself reports (σ of its first step)."""
    from pipeline.diffusion.noise import KeyedNoise
    from pipeline.operators import Given

    gamma, keys = 0.7, [f"{i}" for i in range(COUNT)]
    aug = GenerativeAugment(operator, loaded, p=0.5, gamma=gamma, salt=b"of sixteen bytes")
    near, soft = aug(images, LABELS, keys=keys, copy=1)
    pixels = images.float() / 127.5 - 1
    noise = KeyedNoise(b"of sixteen bytes", keys, aug.neighbours.operator.name, 1)
    with torch.inference_mode():
        done = aug.neighbours.operator(loaded, pixels, Given(pixels=pixels, labels=LABELS), noise)
    fraction = loaded.levels.fraction(done.sigmas[:, 0])
    changed = (near != images).flatten(1).any(1)
    assert 0 < int(changed.sum()) < COUNT
    own = soft[torch.arange(COUNT), LABELS]
    assert own[~changed].tolist() == [1] * int((~changed).sum())
    assert torch.allclose(own[changed], (1 - fraction**gamma).float()[changed], atol=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(COUNT))
    others = soft.scatter(1, LABELS[:, None], -1)
    assert torch.allclose(others.amax(1), (1 - own) / (builders.CLASSES - 1), atol=1e-6)


def test_a_row_that_was_not_made_keeps_image_and_label(
    loaded: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.models.pixel import PixelModel

    whole = PixelModel.decode

    def broken(self: PixelModel, z: Tensor) -> Tensor:
        pixels = whole(self, z).clone()
        pixels[1] = float("nan")
        return pixels

    monkeypatch.setattr(PixelModel, "decode", broken)
    near, soft = GenerativeAugment(BOOMERANG, loaded, p=1, gamma=1)(images[:3], LABELS[:3])
    assert torch.equal(near[1], images[1])
    assert soft[1].tolist() == [0, 1, 0]
    assert (near[[0, 2]] != images[[0, 2]]).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (5, 8)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_images_come_back_as_they_were(loaded: Any, size: tuple[int, int], dtype: torch.dtype) -> None:
    for channels in (1, 3):
        given = torch.randint(256, (2, channels, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        given = given if dtype == torch.uint8 else (given / 255).to(dtype)
        near, _ = GenerativeAugment(BOOMERANG, loaded, p=1)(tv_tensors.Image(given), LABELS[:2])
        assert isinstance(near, tv_tensors.Image)
        assert (near.shape, near.dtype) == (given.shape, dtype)


def test_scaling_is_bicubic_and_level_zero_gives_back_what_was_scaled(loaded: Any) -> None:
    """Against Pillow's bicubic with antialiasing, which torchvision follows up to a grey level."""
    pixels = decoded(builders.picture(3, (20, 12)))
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    there = picture.resize((8, 8), Image.Resampling.BICUBIC).resize((20, 12), Image.Resampling.BICUBIC)
    operator = {**BOOMERANG, "t_boom": 0}
    near, _ = GenerativeAugment(operator, loaded, p=1)(pixels[None], LABELS[:1])
    assert (near[0].int() - torch.from_numpy(np.array(there)).permute(2, 0, 1)).abs().max() <= 2


Pair = namedtuple("Pair", "image label")


def test_inside_a_composition_of_torchvision(loaded: Any, images: Tensor) -> None:
    aug = GenerativeAugment(BOOMERANG, loaded, p=1)
    expected = GenerativeAugment(BOOMERANG, loaded, p=1)(images / 255, LABELS)[0]
    steps = v2.Compose([v2.ToDtype(torch.float32, scale=True), aug, v2.Normalize([0.5] * 3, [0.5] * 3)])
    near, labels = steps(images, LABELS)
    assert torch.allclose(near, expected * 2 - 1, atol=1e-6)
    assert torch.equal(labels, LABELS)
    mixed, soft = v2.Compose([aug, v2.MixUp(num_classes=3)])(images / 255, LABELS)
    assert mixed.shape == images.shape
    assert soft.shape == (COUNT, 3)
    as_dict = steps({"image": tv_tensors.Image(images), "labels": LABELS, "name": "kept"})
    assert (as_dict["name"], as_dict["image"].shape) == ("kept", images.shape)
    assert not torch.allclose(as_dict["image"], images / 127.5 - 1, atol=1e-3)


def test_as_a_collate_function(loaded: Any, images: Tensor) -> None:
    data = TensorDataset(images, LABELS)
    aug = GenerativeAugment(BOOMERANG, loaded, p=1)
    near = torch.cat([batch for batch, _ in DataLoader(data, batch_size=5, collate_fn=aug.collate)])
    assert (near != images).flatten(1).any(1).all()
    rows = [{"image": image, "label": int(label)} for image, label in zip(images, LABELS, strict=True)]
    assert set(aug.collate(rows)) == {"image", "label"}
    assert not torch.equal(aug.collate(rows)["image"], images)
    assert [len(part) for part in aug.collate([(images[0], 1, "name"), (images[1], 2, "other")])] == [2, 2, 2]
    pair = aug.collate([Pair(images[0], 1), Pair(images[1], 2)])
    assert isinstance(pair, Pair)
    assert pair.label.tolist() == [1, 2]


def test_workers_of_a_loader_draw_apart_from_each_other_and_from_the_epoch_before(model: Path, images: Tensor) -> None:
    same = TensorDataset(images[:1].repeat(4, 1, 1, 1), LABELS[:1].repeat(4))
    aug = GenerativeAugment(BOOMERANG, str(model), p=1)
    loader = DataLoader(
        same, batch_size=2, collate_fn=aug.collate, num_workers=2, generator=torch.Generator().manual_seed(0)
    )
    near = torch.cat([batch for _ in range(2) for batch, _ in loader])
    assert len(near.flatten(1).unique(dim=0)) == 8


@pytest.mark.parametrize("used", [False, True])
def test_it_travels_to_another_process(model: Path, images: Tensor, used: bool) -> None:
    aug = GenerativeAugment(BOOMERANG, str(model), p=1, salt=b"of sixteen bytes", batch_size=3)
    if used:
        aug(images, LABELS)
    content = pickle.dumps(aug)
    assert len(content) < 10_000  # no weights, which lie on disk, and no sketch of them
    other = pickle.loads(content)
    assert torch.equal(other(images, LABELS)[0], aug(images, LABELS)[0])
    assert other.neighbours.batch_size == 3


@pytest.mark.slow
@pytest.mark.parametrize("context", ["forkserver", "spawn"])
def test_workers_that_are_not_forked_can_collate(model: Path, images: Tensor, context: str) -> None:
    aug = GenerativeAugment(BOOMERANG, str(model), p=1)
    aug(images, LABELS)  # loads the model, and draws
    loader = DataLoader(
        TensorDataset(images, LABELS), batch_size=5, num_workers=1, collate_fn=aug.collate,
        multiprocessing_context=context,
    )  # fmt: skip
    near = torch.cat([batch for batch, _ in loader])
    assert (near != images).flatten(1).any(1).all()


def test_the_seed_of_torch_and_the_rank_decide_the_draws(
    loaded: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(seed: int, rank: int) -> Tensor:
        torch.manual_seed(seed)
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        return GenerativeAugment(BOOMERANG, loaded, p=1)(images, LABELS)[0]

    every = [made(seed, rank) for seed in (1, 2) for rank in (0, 3)]
    assert len(torch.stack(every).flatten(1).unique(dim=0)) == 4
    assert torch.equal(made(2, 0), every[2])


def test_the_salt_counts_and_shows_nowhere(
    loaded: Any, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    salt = "a secret of enough bytes"
    plain = GenerativeAugment(BOOMERANG, loaded, p=1)(images, LABELS, keys=list("0123456789"))[0]
    given = GenerativeAugment(BOOMERANG, loaded, p=1, salt=salt.encode())
    near = given(images, LABELS, keys=list("0123456789"))[0]
    assert not torch.equal(near, plain)
    monkeypatch.setenv("DOPPEL_SALT", salt)
    found = GenerativeAugment(BOOMERANG, loaded, p=1)
    assert torch.equal(found(images, LABELS, keys=list("0123456789"))[0], near)
    assert "secret" not in repr(given)


def test_labels_are_asked_for_only_where_they_are_used(tmp_path: Path, images: Tensor) -> None:
    free = builders.model_folder(tmp_path / "free", classes=None)
    aug = GenerativeAugment(BOOMERANG, str(free), p=1)
    assert not torch.equal(aug(images), images)
    labels = aug([images, {"boxes": 3}])[1]
    assert labels == {"boxes": 3}
    assert torch.equal(aug(images, LABELS + 100)[1], LABELS + 100)
    soft = GenerativeAugment(BOOMERANG, str(free), p=0, gamma=1, classes=5)(images, LABELS)[1]
    assert torch.equal(soft, torch.nn.functional.one_hot(LABELS, 5).float())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"p": 1.2}, r"p is 1\.2; a probability"),
        ({"gamma": 0}, "gamma is 0; a number above 0"),
        ({"gamma": 1, "classes": 1}, "soft labels need classes, at least 2; found 1"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"operator": {"name": "boomerang", "tboom": 1}}, r"operator\.tboom: Extra inputs"),
        ({"operator": {"name": "boomerang", "t_boom": 2}}, r"operator\.t_boom: a fraction of T lies in \[0, 1\]"),
        ({"operator": {"name": "ddib", "source": "own", "target": 1}, "gamma": 1}, "gamma: operator ddib has no level"),
        ({"operator": {"name": "boomerang", "condition": "none"}}, "condition none: the model was trained with labels"),
    ],
)
def test_what_cannot_work_is_refused_at_once(loaded: Any, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        GenerativeAugment(**{"operator": BOOMERANG, "model": loaded, **arguments})


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (LABELS + 1, "a label is 3; the model knows 0 to 2"),
        (LABELS - 2, "a label is -2; the model knows 0 to 2"),
        (LABELS[:4], r"labels are \[4\], expected are 10 class numbers"),
        (torch.eye(3)[LABELS], r"labels are \[10, 3\]"),
        (LABELS.float(), "class numbers"),
        (None, "labels are NoneType"),
    ],
)
def test_labels_that_do_not_fit_are_refused_whatever_is_drawn(
    loaded: Any, images: Tensor, labels: Tensor | None, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        GenerativeAugment(BOOMERANG, loaded, p=0)(images, labels)


def test_batches_that_do_not_fit_are_refused(loaded: Any, images: Tensor) -> None:
    aug = GenerativeAugment(BOOMERANG, loaded, p=1, gamma=1)
    for given, sentence in (
        (images[0], r"images are \[3, 8, 8\]; a batch"),
        (images.expand(COUNT, 3, 8, 8)[:, :2], "grey or RGB"),
        (images / 127.5 - 1, r"floats from -1 to .*normalise afterwards"),
        (images.int(), r"images hold torch\.int32"),
    ):
        with pytest.raises(UserError, match=sentence):
            aug(given, LABELS)
    with pytest.raises(UserError, match="2 keys are given for 10 images"):
        aug(images, LABELS, keys=["a", "b"])
    with pytest.raises(UserError, match=r"gamma: a label is -1; soft labels are made of 0 to 2"):
        aug(images, LABELS - 1)
