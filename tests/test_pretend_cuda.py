"""What a machine without a GPU can see of devices: that nothing is left on the CPU, and that nothing mixes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.anonymity.faces.embedder import SmallEmbedder
from pipeline.config import validate
from pipeline.diffusion.levels import FlowLevels, grid, levels_from_scheduler
from pipeline.diffusion.model import OfClips
from pipeline.diffusion.noise import KeyedNoise
from pipeline.diffusion.tiles import matching
from pipeline.engine.batch_size import largest_batch
from pipeline.engine.devices import resolve_devices
from pipeline.engine.planning import make_plan
from pipeline.hooks.augment import GenerativeAugment
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig, Upscaler
from pipeline.models.families import load_model
from pipeline.operators import OPERATORS, Boomerang, Given, Operator
from pipeline.operators.on_cascades import through
from tests import builders, tiny
from tests.device_cases import CASES, IDS, LATENT_SETTINGS, Bench, Folders, build, images_of
from tests.operator_settings import SETTINGS, TEXT_SETTINGS
from tests.pretend_cuda import OnCuda, pretend_cuda
from tests.test_run import run

A, B = torch.arange(3.0), torch.ones(3)
INDEX = torch.tensor([2, 0])


# --- the pretended device itself ---


def on_cuda(x: Tensor) -> Tensor:
    return x.to("cuda:0")


MIXED: dict[str, Callable[[], Any]] = {
    "add": lambda: on_cuda(A) + B,
    "reversed": lambda: B * on_cuda(A),
    "in place": lambda: on_cuda(A).mul_(B),
    "in place on the CPU": lambda: A.clone().add_(on_cuda(B)),
    "list": lambda: torch.cat([on_cuda(A), B]),
    "keyword": lambda: torch.clamp(on_cuda(A), min=B),
    "where": lambda: torch.where(on_cuda(A) > 0, B, 0.0),
    "einsum": lambda: torch.einsum("a,a->a", on_cuda(A), B),
    "gather": lambda: on_cuda(A).gather(0, INDEX),
    "index_select": lambda: on_cuda(A).index_select(0, INDEX),
    "an index on the device": lambda: A[on_cuda(INDEX)],
    "values for an index": lambda: on_cuda(A).__setitem__(INDEX, B[:2]),
    "module": lambda: nn.Linear(3, 2)(on_cuda(A)),
    "moved module": lambda: nn.Linear(3, 2).to("cuda")(A),
    "convolution": lambda: nn.Conv2d(1, 1, 1).to("cuda")(torch.zeros(1, 1, 2, 2)),
    "function": lambda: nn.functional.embedding(INDEX, on_cuda(torch.eye(3))),
    "generator": lambda: torch.randn(3, device="cuda", generator=torch.Generator()),
    "generator in place": lambda: on_cuda(A).normal_(generator=torch.Generator()),
}
ALLOWED: dict[str, tuple[Callable[[], Tensor], Tensor]] = {
    "a number on the CPU": (lambda: on_cuda(A) + torch.tensor(1.0), A + 1),
    "its own": (lambda: on_cuda(A) * on_cuda(B), A * B),
    "indices on the CPU": (lambda: on_cuda(A)[INDEX], A[INDEX]),
    "a mask on the CPU": (lambda: on_cuda(A)[A > 0], A[1:]),
    "like another": (lambda: INDEX.to(on_cuda(A)), INDEX.float()),
    "factory": (lambda: torch.arange(3.0, device=on_cuda(A).device), A),
    "factory like it": (lambda: torch.ones_like(on_cuda(A)), B),
    "new tensor": (lambda: on_cuda(A).new_tensor([1, 1, 1]), B),
    "module": (lambda: nn.Identity().to("cuda")(on_cuda(A)), A),
    "type": (lambda: on_cuda(INDEX).double(), INDEX.double()),
}


@pytest.mark.parametrize("ways", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("name", MIXED)
def test_what_mixes_devices_is_refused(name: str, ways: Any) -> None:
    with pretend_cuda(), ways(), pytest.raises(RuntimeError, match=r"same device|'cuda' device type for generator"):
        MIXED[name]()


def test_what_cuda_adds_in_any_order_is_refused() -> None:
    with pretend_cuda():
        for sums in (
            lambda: on_cuda(A).scatter_add(0, on_cuda(INDEX), on_cuda(B)),
            lambda: on_cuda(A).index_add_(0, on_cuda(INDEX), on_cuda(B[:2])),
            lambda: torch.cumsum(on_cuda(A), 0),
        ):
            with pytest.raises(RuntimeError, match="no deterministic implementation"):
                sums()
        assert on_cuda(INDEX).cumsum(0).tolist() == [2, 2]  # whole numbers don't mind


@pytest.mark.parametrize("name", ALLOWED)
def test_what_cuda_allows_is_allowed_and_stays_there(name: str) -> None:
    made, wanted = ALLOWED[name]
    with pretend_cuda():
        there = made()
        assert there.device == torch.device("cuda:0")
        assert torch.equal(there.cpu(), wanted)
        assert there.tolist() == wanted.tolist()
        assert isinstance(there.cpu(), Tensor)
        assert not isinstance(there.cpu(), OnCuda)
        for look in (lambda: there.numpy(), lambda: np.asarray(there)):
            with pytest.raises(TypeError, match="can't convert cuda:0"):
                look()


def test_memory_is_shared_by_views_and_by_nothing_else() -> None:
    here = torch.zeros(2, 3)
    with pretend_cuda():
        there = on_cuda(here)
        there[0] = torch.ones(3)  # a copy into a part may cross over
        there.flatten()[5:].add_(2)
        back = there.cpu()
        back += 9
        assert there.add_(0) is there
        assert there.sum().item() == 5.0
        assert here.sum() == 0
    assert torch.equal(torch.zeros(1), here[0, :1])


def test_it_ends_with_its_context() -> None:
    with pretend_cuda():
        assert resolve_devices(["cuda:0"]) == ("cuda:0",)
    assert not torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda:0")


# --- doppel on it ---


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def here(folders: Folders) -> Bench:
    return Bench.on("cpu", folders)


@pytest.fixture(scope="module")
def there(folders: Folders) -> Bench:
    with pretend_cuda():
        return Bench.on("cuda:0", folders)


def test_there_are_cases_for_every_operator() -> None:
    assert (SETTINGS | TEXT_SETTINGS).keys() == OPERATORS.keys() == LATENT_SETTINGS.keys()


@pytest.mark.parametrize(("kind", "name", "settings"), CASES, ids=IDS)
def test_every_operator_stays_on_its_device(
    here: Bench, there: Bench, kind: str, name: str, settings: dict[str, Any]
) -> None:
    wanted = here.run(kind, name, settings)
    with pretend_cuda():
        made = there.run(kind, name, settings)
        for image, same in zip(images_of(made), images_of(wanted), strict=True):
            assert isinstance(image, OnCuda)
            assert torch.equal(image.cpu(), same)
        assert torch.equal(made.sigmas.cpu(), wanted.sigmas)
        assert made.details == wanted.details


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", sorted(tiny.FAMILIES.keys() - {"upscaler", "deepfloyd_upscaler"}))
def test_every_family_stays_on_its_device(family: str, dtype: Any, tmp_path: Path) -> None:
    config = ModelConfig(path=str(tiny.FAMILIES[family](tmp_path / family)), dtype=dtype)
    stays(config, Boomerang(t_boom=0.5, steps=2, guidance=2))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anagram", "prompt_to_prompt", "tile_morph"])
def test_a_cascade_stays_on_its_device(name: str, tmp_path: Path) -> None:
    upper = [tiny.deepfloyd_upscaler(tmp_path / "if"), tiny.upscaler(tmp_path / "sd")]
    above = tuple(Upscaler(path=str(path)) for path in upper)
    config = ModelConfig(path=str(tiny.deepfloyd(tmp_path / "first")), upscalers=above)
    stays(config, OPERATORS[name].model_validate({"name": name, "steps": 2, **LATENT_SETTINGS[name]}))


@torch.inference_mode()
def stays(config: ModelConfig, operator: Operator) -> None:
    def images(device: str) -> list[Tensor]:
        model = load_model(config, device)
        frames = (3,) if isinstance(model, OfClips) else ()
        drawn = 0.5 * torch.randn(2, 3, *frames, *model.size, generator=torch.Generator().manual_seed(0))
        pixels, labels = drawn.to(device), torch.tensor([0, -1], device=device)
        given = Given(pixels=pixels, labels=labels, captions=["a cat", "a dog two birds"])
        return images_of(through(operator, model, model.encode(pixels), given, KeyedNoise(b"s", ["a", "b"], "x", 0)))

    wanted = images("cpu")
    with pretend_cuda():
        for image, same in zip(images("cuda:0"), wanted, strict=True):
            assert isinstance(image, OnCuda)
            # a text encoder's weights lie elsewhere in memory, and its sums come out otherwise
            torch.testing.assert_close(image.cpu(), same, rtol=0, atol=1e-5 if config.dtype == "float32" else 0.05)


def test_a_forgotten_move_does_not_pass(there: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the noise, and of a table in one of the threads that match tiles."""
    noise = KeyedNoise.__call__
    with pretend_cuda(), monkeypatch.context() as patch:
        patch.setattr(KeyedNoise, "__call__", lambda self, like: noise(self, torch.empty(like.shape)))
        with pytest.raises(RuntimeError, match="same device"):
            there.run("pixel", "boomerang", {})
    describe = matching.values
    with pretend_cuda(), monkeypatch.context() as patch:
        patch.setattr(matching, "values", lambda tile: describe(tile) * torch.ones(tile.shape[-1] * tile.shape[-2]))
        with pytest.raises(RuntimeError, match="same device"):
            there.run("pixel", "mosaic", {"tiles": 4})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_noise_is_the_cpu_s_wherever_it_goes(dtype: torch.dtype) -> None:
    like = torch.zeros(2, 3, 4, dtype=dtype)
    wanted = KeyedNoise(b"salt", ["a", "b"], "x", 0)(torch.zeros(2, 3, 4))
    with pretend_cuda():
        noise = KeyedNoise(b"salt", ["a", "b"], "x", 0)
        drawn = noise(like.to("cuda:0"))
        assert (drawn.device.type, drawn.dtype) == ("cuda", dtype)
        assert torch.equal(drawn.cpu(), wanted.to(dtype))
        assert noise.uniform().device.type == "cpu"


def test_levels_and_grids_are_where_they_are_asked_for() -> None:
    discrete = levels_from_scheduler({"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"})
    for levels in (discrete, FlowLevels(shift=3)):
        with pretend_cuda():
            moved, fraction = levels.to("cuda:0"), torch.tensor([0.3, 1.0], dtype=torch.float64, device="cuda:0")
            for spacing in ("trailing", "leading", "linspace", "karras", "consistency"):
                made = grid(moved, moved.sigma(fraction), 4, spacing)  # type: ignore[arg-type]
                wanted = grid(levels, levels.sigma(fraction.cpu()), 4, spacing)  # type: ignore[arg-type]
                assert isinstance(made, OnCuda)
                assert torch.equal(made.cpu(), wanted)


def test_a_whole_job_writes_the_bytes_of_the_cpu(tmp_path: Path, model: Path) -> None:
    builders.shard(tmp_path / "in" / "a.tar", 5)
    source = builders.shard(tmp_path / "in" / "b.tar", 3, first=5).parent / "*.tar"
    run(builders.recipe(source, tmp_path / "cpu", model))
    with pretend_cuda():
        run(builders.recipe(source, tmp_path / "cuda", model, **{"run.devices": ["cuda:0"]}))
    assert builders.tree(tmp_path / "cuda", "data") == builders.tree(tmp_path / "cpu", "data")


def test_the_batch_size_is_tried_out_on_the_device(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the memory of the trial is given back: other processes may do the work."""
    freed: list[bool] = []
    monkeypatch.setattr("pipeline.engine.planning.free", lambda: freed.append(True))
    monkeypatch.setattr("pipeline.engine.transforming.largest_batch", partial(largest_batch, largest=4))
    source = builders.shard(tmp_path / "in.tar", 1)
    recipe = builders.recipe(source, tmp_path / "out", model, **{"model.batch_size": "auto"})
    with pretend_cuda():
        plan = make_plan(validate(JobConfig, recipe | {"run": {"devices": ["cuda:0"]}}, "test"))
    assert plan.batch_size == 4
    assert freed == [True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_neighbours_in_a_training_step(model: Path, dtype: torch.dtype) -> None:
    """Images on the device; labels there, or still on the CPU, where loaders leave them."""
    images = torch.stack([torch.from_numpy(np.full((3, 8, 8), 20 * i, np.uint8)) for i in range(6)])
    images = images if dtype == torch.uint8 else images / 255
    labels, keys = torch.tensor([0, 1, 2, 0, 1, 2]), list("abcdef")

    def augmented(images: Tensor, labels: Tensor) -> list[Tensor]:
        augment = GenerativeAugment({"name": "boomerang", "t_boom": [0.2, 0.5], "steps": 2}, str(model), gamma=0.8)
        return list(augment(images, labels, keys=keys))

    wanted = augmented(images, labels)
    with pretend_cuda():
        for given in (labels.to("cuda:0"), labels):
            near, soft = augmented(images.to("cuda:0"), given)
            assert (near.device.type, soft.device) == ("cuda", given.device)
            assert torch.equal(near.cpu(), wanted[0])
            assert torch.equal(soft.cpu(), wanted[1])


def test_labels_may_be_anywhere(model: Path) -> None:
    with pretend_cuda():
        loaded = load_model(ModelConfig(path=str(model)), "cuda:0")
        z = torch.zeros(2, 3, 8, 8, device="cuda:0")
        sigma = torch.ones(2, dtype=torch.float64, device="cuda:0")
        first, *others = (loaded.denoiser(rows)(z, sigma) for rows in ([2, 0], INDEX, INDEX.to("cuda:0")))
        assert isinstance(first, OnCuda)
        assert all(torch.equal(first, other) for other in others)


def test_our_recogniser() -> None:
    crops = [np.random.default_rng(i).integers(0, 256, (40 + i, 30, 3), dtype=np.uint8) for i in range(2)]
    wanted = SmallEmbedder.load().embed(crops)
    with pretend_cuda():
        assert np.array_equal(SmallEmbedder.load(device="cuda:0").embed(crops), wanted)
