"""Guidance: it looks where recognisers look, stops where they are far enough, and one that is left out judges it."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.anonymity.faces.deepface_recognisers import unit
from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.embedder import SmallEmbedder
from pipeline.anonymity.faces.places import PLACES, chipped, crop, squared
from pipeline.anonymity.faces.recognise import available, load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import FaceTable, tabulate
from pipeline.anonymity.gate import judges
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.guidance import FaceGuidance
from pipeline.anonymity.guidance import guide
from pipeline.anonymity.guidance.guide import Guide, apart, differentiable
from pipeline.anonymity.guidance.pushing import Witness, pushed, smooth
from pipeline.config import validate
from pipeline.diffusion.denoisers import steered
from pipeline.diffusion.noise import KeyedNoise
from pipeline.engine import gate as verifying
from pipeline.engine import planning, running
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from tests.anonymity import fakes
from tests.anonymity.portraits import LFW, needs_dlib, needs_lfw

WHOLE = torch.tensor([[[31 / 32, 0.0, 0.0], [0.0, 31 / 32, 0.0]]])


def noise(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_crop_of_all_pixels_is_the_image() -> None:
    image = noise(2, 3, 16, 16)
    all_of_it = torch.tensor([[[8.0, 0.0, 7.5], [0.0, 8.0, 7.5]]]).expand(2, 2, 3)
    assert torch.allclose(crop(image, all_of_it, 16), image, atol=1e-4)
    moved = torch.tensor([[[4.0, 0.0, 5.5], [0.0, 4.0, 9.5]]]).expand(2, 2, 3)
    assert torch.allclose(crop(image, moved, 8), image[:, :, 6:14, 2:10], atol=1e-4)


def test_places_of_known_faces() -> None:
    box = torch.tensor([[10.0, 20.0, 30.0, 30.0]])
    eyes = torch.tensor([[[35.0, 30.0], [15.0, 30.0]]])
    assert torch.allclose(squared(box, eyes)[0], torch.tensor([[19.5, 0, 24.5], [0, 19.5, 31.5]]))
    for i, (x, y) in enumerate(((0.6685, 0.3142), (0.3182, 0.3142))):  # where dlib's chips have the eyes
        at = chipped(box, eyes)[0] @ torch.tensor([2 * x - 1, 2 * y - 1, 1.0])
        assert torch.allclose(at, eyes[0, i], atol=0.01)


@pytest.fixture(scope="module")
def faces() -> tuple[list[np.ndarray], FaceTable]:
    """Nine people, cut out as the embedded face model has them, and their faces."""
    stream = image_stream(WebDatasetInput(urls=(str(LFW / "dev-00000.tar"),)), (64, 64), PixelRules(fit="centre 128"))
    images = [image for _, _, image in islice(stream, 9)]
    recognisers = [load_recogniser(name) for name in PLACES if available(name)]
    with FaceFinder(workers=0) as finder:
        return images, tabulate(images, [str(i) for i in range(9)], [None] * 9, finder, recognisers)


@needs_dlib
@needs_lfw
@pytest.mark.parametrize(("name", "near"), [("Dlib", 0.002), ("dlib-chip", 0.03), ("small", 0.03), ("faceres", 0.01)])
def test_it_sees_what_the_recogniser_sees(faces: tuple[list[np.ndarray], FaceTable], name: str, near: float) -> None:
    images, table = faces
    if name not in table.embeddings:
        pytest.skip(f"needs the weights of {name}")
    pixels = to_pixels([images[i] for i in table.image], "cpu")
    (recogniser,) = differentiable([name], "cpu", 0)
    place = PLACES[name](torch.from_numpy(table.box), torch.from_numpy(table.eyes))
    with torch.no_grad():
        found = recogniser.features(crop(pixels, place, recogniser.side).clamp(-1, 1)).numpy()
    distances = 1 - (unit(found) * table.embeddings[name]).sum(1)
    assert np.median(distances) < near
    assert np.mean(distances < 3 * near) > 0.7  # boxes beyond the edge look otherwise; strangers are at .15 to 1


def test_gradients_are_slopes() -> None:
    embedder = SmallEmbedder.load()
    at, way = noise(1, 3, embedder.side, embedder.side), noise(1, 3, embedder.side, embedder.side).flip(3)
    point = at.clone().requires_grad_()
    (slope,) = torch.autograd.grad(embedder.features(point)[0, 0], point)
    with torch.no_grad():
        ahead, behind = (embedder.features(at + step * way)[0, 0] for step in (1e-2, -1e-2))
    assert float((slope * way).sum()) == pytest.approx(float(ahead - behind) / 2e-2, rel=0.05)


def colour(pixels: Tensor) -> Tensor:
    """A recogniser to reason about: a person is the mean colour."""
    return pixels.mean((2, 3))


def witness(known: Tensor, goal: float = 0.5, count: int = 1) -> Witness:
    return Witness(features=colour, side=8, place=WHOLE.expand(count, 2, 3) * 8 + 7.5 * torch.tensor([0, 0, 1.0]),
                   known=known.expand(count, 1, 3), goal=goal)  # fmt: skip


RED = torch.tensor([[[1.0, 0.0, 0.0]]])


def red(count: int = 1) -> Tensor:
    return torch.tensor([0.5, 0.1, 0.1]).reshape(1, 3, 1, 1).expand(count, 3, 16, 16).clone()


def push(images: Tensor, owner: list[int], witnesses: list[Witness], reach: Tensor | None = None, **how: Any) -> Tensor:
    everywhere = torch.ones(len(images), 1, 16, 16)
    options = {"scale": 0.1, "pushes": 12, "turn": 0, **how}
    return pushed(images, torch.tensor(owner), everywhere if reach is None else reach, witnesses, **options)


def test_pushes_end_where_it_is_far_enough() -> None:
    made = push(red(), [0], [witness(RED)])
    distance = 1 - torch.nn.functional.cosine_similarity(colour(made), RED[0])
    assert 0.4 < float(distance) < 0.8  # the way there, and no further than one push
    far = push(-3 * red(), [0], [witness(RED)])  # an estimate beyond the range, far away
    assert torch.equal(far, -3 * red())


def test_they_reach_only_the_face_and_only_its_image() -> None:
    reach = torch.zeros(3, 1, 16, 16)
    reach[:, :, 4:12, 4:12] = 1
    made = push(red(3), [0, 2], [witness(RED, count=2)], reach)
    outside = reach.expand_as(made) == 0
    assert torch.equal(made[outside], red(3)[outside])
    assert torch.equal(made[1], red()[0])  # it has no face
    assert not torch.equal(made[2], red()[0])


def test_a_row_is_alone_and_the_same_every_time() -> None:
    images = torch.cat([red(), red() * 0.7])
    together = push(images, [0, 1], [witness(RED, count=2)])
    for i in range(2):
        assert torch.allclose(push(images[i : i + 1], [0], [witness(RED)]), together[i : i + 1], atol=1e-6)
    seen = witness(RED, count=2)
    with torch.inference_mode():
        again = push(images, [0, 1], [seen])
    assert torch.equal(again, together)


def test_two_recognisers_must_both_be_far() -> None:
    """Green is far from red, and known to the second."""
    green = torch.tensor([[[0.0, 1.0, 0.0]]])
    made = push(red() + torch.tensor([0.0, 0.3, 0.0]).reshape(1, 3, 1, 1), [0], [witness(RED), witness(green)])
    for known in (RED, green):
        assert float(torch.nn.functional.cosine_similarity(colour(made), known[0])) < 0.65


def test_smoothing_keeps_what_is_even_and_drops_what_is_not() -> None:
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(32, 32)[None, None]
    assert float(smooth(board)[:, :, 8:-8, 8:-8].abs().max()) < 1e-2
    assert torch.allclose(smooth(torch.ones_like(board))[:, :, 8:-8, 8:-8], torch.ones(48, 48), atol=1e-5)


class Seer(fakes.FakeRecogniser):
    """The fake recogniser with gradients."""

    side = 8

    def features(self, pixels: Tensor) -> Tensor:
        return (pixels.mean((2, 3)) + 1) * 127.5


def a_guide(monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Guide, Gate]:
    images = {"a/red": fakes.picture(((250, 20, 20), 9, 9)), "a/none": fakes.picture(),
              "a/blue": fakes.picture(((20, 20, 250), 9, 9))}  # fmt: skip
    gate = fakes.gate(fakes.originals(images), recogniser=Seer())
    monkeypatch.setattr(guide, "load_recogniser", lambda name, **_: Seer())
    monkeypatch.setitem(PLACES, "fake", PLACES["Dlib"])
    config = FaceGuidance.model_validate({"recognisers": ["fake"], "scale": 0.2, **options})
    return Guide.of(config, gate, "cpu", 0), gate


def steps_of(folder: Path, found: Guide, sigma: float) -> tuple[Tensor, Tensor]:
    model = load_model(ModelConfig(path=str(builders.model_folder(folder / "model", classes=None))), "cpu")
    pictures = [fakes.picture(((250, 20, 20), 9, 9)), fakes.picture()]
    pixels = torch.nn.functional.interpolate(to_pixels(pictures, "cpu"), model.size)
    with torch.inference_mode():
        z = model.encode(pixels)
        return z, found.steer(["a/red", "a/none"], model)(z, torch.tensor([sigma, sigma], dtype=torch.float64))


def test_a_guide_pushes_faces_of_its_sources_at_its_levels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = a_guide(monkeypatch, face_only=False)
    assert found.goals[0] == pytest.approx(1 - (2 * 250 * 20 + 20 * 20) / (250**2 + 2 * 20**2), abs=1e-3)
    before, after = steps_of(tmp_path, found, 1.0)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    late, there = steps_of(tmp_path, found, 0.01)
    assert torch.equal(late, there)


def test_strangers_are_other_people(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"a": fakes.picture(((250, 20, 20), 9, 9)), "b": fakes.picture(((20, 20, 250), 9, 9))}
    table = fakes.originals(images, {"a": "one", "b": "one"})
    with pytest.raises(UserError, match="the originals show one person only"):
        apart(table, np.array([0, 0]), "fake", 0.5)


def test_a_denoiser_that_is_steered_nowhere_stays() -> None:
    denoise = steered(lambda x, sigma: x / 2, lambda x0, sigma: x0)
    x = noise(2, 3, 4, 4)
    assert torch.equal(denoise(x, torch.ones(2)), x / 2)
    there = steered(lambda x, sigma: x, lambda x0, sigma: x0 + sigma[:, None, None, None])
    assert torch.equal(there(x, torch.ones(2)), x + 1)


def recipe(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    options = {"anonymity.guidance": {"recognisers": ["small"]}, **changes}
    return builders.recipe("in.tar", tmp_path / "out", tmp_path / "model", **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anonymity.guidance": {"recognisers": ["ArcFace"]}}, "ArcFace gives no gradients; those that do are Dlib"),
        ({"anonymity.guidance": {"recognisers": []}}, "recognisers"),
        ({"anonymity.guidance": {"recognisers": ["small"], "strength": 2}}, "strength"),
        ({"anonymity.guidance": {"recognisers": ["small"], "margin": 1}}, "margin"),
        ({"operator": {"name": "tile_morph", "tiles": 2, "conditions": ["none"] * 2}}, "cannot be steered"),
        ({"model.upscalers": [{"path": "up"}]}, "one stage"),
    ],
)  # fmt: skip
def test_what_cannot_guide_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(JobConfig, recipe(tmp_path, **changes), "recipe")


def test_a_recogniser_without_gradients_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "load_recogniser", lambda name, **_: fakes.FakeRecogniser())
    with pytest.raises(UserError, match="recogniser Dlib gives no gradients on this machine"):
        differentiable(["Dlib"], "cpu", 0)


@needs_dlib
@needs_lfw
def test_a_perturbation_that_fools_its_target_alone_is_noticed(faces: tuple[list[np.ndarray], FaceTable]) -> None:
    """Small pushes on finished photographs, for one network: it knows nobody any more, the one left out most."""
    images, table = faces
    pixels, known = to_pixels(images, "cpu"), table.embeddings
    target, left_out = seers = differentiable(["dlib-chip", "small"], "cpu", 0)
    place = {name: PLACES[name](torch.from_numpy(table.box), torch.from_numpy(table.eyes)) for name in known}
    seen = Witness(features=target.features, side=target.side, place=place["dlib-chip"], goal=0.14,
                   known=torch.from_numpy(known["dlib-chip"])[:, None])  # fmt: skip
    owner, everywhere = torch.from_numpy(table.image), torch.ones(len(images), 1, 64, 64)
    made = pushed(pixels, owner, everywhere, [seen], scale=0.015, pushes=6, turn=0)
    with torch.no_grad():
        alike = {one.name: unit(one.features(crop(made[owner], place[one.name], one.side)).numpy()) @ known[one.name].T
                 for one in seers}  # fmt: skip
    assert float((made - pixels).square().mean().sqrt()) < 0.1  # nobody would take them for other faces
    assert np.median(1 - alike["dlib-chip"].diagonal()) > 0.0723  # the threshold at FAR 1e-3
    assert np.mean(alike[left_out.name].argmax(1) == np.arange(len(table.image))) > 0.7


@pytest.mark.slow
@needs_dlib
@needs_lfw
def test_guidance_changes_the_face_for_a_recogniser_that_is_left_out(
    faces: tuple[list[np.ndarray], FaceTable],
) -> None:
    images, table = faces
    gate: Any = fakes.gate(table)
    model = load_model(ModelConfig(path="embedded:lfw_faces/model"), "cpu")
    pixels = to_pixels(images, "cpu")
    config = FaceGuidance(recognisers=("dlib-chip",))
    steer = Guide.of(config, gate, "cpu", 0).steer(table.keys, model)
    with torch.inference_mode(), FaceFinder(workers=0) as finder:
        distances = []
        for how in (None, steer):
            drawn = KeyedNoise(b"a salt of this test", list(table.keys), "boomerang", 0)
            done = Boomerang(t_boom=0.5, steps=8)(model, model.encode(pixels), Given(pixels=pixels, steer=how), drawn)
            made = tabulate(
                list(from_pixels(done.pixels)), list(table.keys), [None] * 9, finder, [SmallEmbedder.load()]
            )
            both = np.intersect1d(made.image, table.image)
            ours, theirs = (t.embeddings["small"][[t.rows_of(i)[0] for i in both]] for t in (made, table))
            distances.append(float((1 - (ours * theirs).sum(1)).mean()))
    assert distances[1] > distances[0] + 0.1


class PixelSeer(fakes.PixelRecogniser):
    """The fake recogniser of pictures with gradients."""

    side = builders.SIDE

    def features(self, pixels: Tensor) -> Tensor:
        vectors = (pixels.movedim(1, -1).flatten(1) + 1) * 127.5
        return vectors - vectors.mean(1, keepdim=True)


def job(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Any:
    monkeypatch.setenv("DOPPEL_SALT", "a secret of these tests")
    monkeypatch.setattr(running, "scan_apart", lambda *_: None)  # other processes see no fakes
    for module in (planning, verifying):
        monkeypatch.setattr(module, "FaceFinder", fakes.LoadedFinder)
    for module in (judges, guide):
        monkeypatch.setattr(module, "load_recogniser", lambda name, **_: PixelSeer())
    monkeypatch.setitem(PLACES, "fake", PLACES["Dlib"])
    source = builders.shard(folder / "in" / "a.tar", 11)
    model = builders.model_folder(folder / "model", classes=None)
    side = builders.SIDE
    (folder / "certificate.json").write_text(fakes.certificate(size=(side, side)).model_dump_json())
    content = builders.recipe(source, folder / changes.pop("out", "out"), model, anonymity={
            "recognisers": ["fake"], "certificates": [str(folder / "certificate.json")], "smallest_face": 4,
            "ladder": [1.0], "one_family": "accepted", "near_copy": 2, "workers": 1, **changes,
        })  # fmt: skip
    return make_plan(validate(JobConfig, content, "recipe"))


def test_a_guided_job_says_so_and_writes_the_same_bytes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"guidance": {"recognisers": ["fake"]}}
    plans = [job(tmp_path, monkeypatch, out="plain"), *(job(tmp_path, monkeypatch, out=i, **options) for i in "ab")]
    assert plans[0].hashes["config"] != plans[1].hashes["config"] == plans[2].hashes["config"]
    assert plans[0].hashes["gate"] != plans[1].hashes["gate"]
    assert plans[1].gate.guided_by == {"fake": "fake-weights"}
    read = {run_job(plan).counts.read for plan in plans}
    assert read == {11}
    plain, once, again = (builders.tree(tmp_path / out, "data", "quarantine") for out in ("plain", "a", "b"))
    assert once == again
    assert once != plain
    members = {k: v for tar in (tmp_path / "a" / "data").glob("*.tar") for k, v in builders.members_of(tar).items()}
    told = [json.loads(content) for name, content in members.items() if name.endswith("doppel.json")]
    assert told
    assert all(one["guidance"] == FaceGuidance(recognisers=("fake",)).model_dump(mode="json") for one in told)
