"""The model's own safety checker: it says what diffusers' pipeline says, and what it objects to is not written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image

from pipeline.commands.estimate import estimate
from pipeline.config import validate
from pipeline.engine.events import Noted
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.engine.transforming import UNSAFE
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.models.config import ModelConfig
from pipeline.models.safety import UNASKED, SafetyChecker, load_checkers
from pipeline.streams.quarantine import read_quarantine
from tests import builders

SIDE = 32


def add_checker(folder: Path, like: Image.Image | None = None, threshold: float = 2.0) -> Path:
    """A tiny checker with random weights that objects to what is like one image, by the cosine of their embeddings."""
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config=small, vision_config={**small, "image_size": SIDE, "patch_size": 8}, projection_dim=8
    )
    network = StableDiffusionSafetyChecker(config).eval()
    sizes = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
    prepare: Any = transformers.CLIPImageProcessor(**sizes)
    network.concept_embeds.data = -torch.ones(17, 8)
    network.concept_embeds_weights.data.fill_(threshold)
    network.special_care_embeds_weights.data.fill_(2.0)
    if like is not None:
        seen = prepare([like], return_tensors="pt").pixel_values
        with torch.no_grad():
            network.concept_embeds.data[3] = network.visual_projection(network.vision_model(seen)[1])[0]
    network.save_pretrained(folder / "safety_checker", safe_serialization=True)
    prepare.save_pretrained(folder / "feature_extractor")
    return folder


@pytest.fixture
def checked(model: Path, tmp_path: Path) -> Path:
    """A tiny model with a checker that objects to nothing."""
    return add_checker(Path(shutil.copytree(model, tmp_path / "checked")))


def job(tmp_path: Path, model: Path, out: str, **changes: Any) -> JobConfig:
    source = tmp_path / "in.tar"
    if not source.exists():
        builders.shard(source, 6)
    return validate(JobConfig, builders.recipe(source, tmp_path / out, model, **changes), "test")


def loaded(folder: Path) -> SafetyChecker:
    (checker,) = load_checkers([ModelConfig(path=str(folder))], "cpu")
    return checker


def test_it_says_what_diffusers_says(checked: Path) -> None:
    images = [np.random.default_rng(i).integers(0, 256, (40 + i, 64, 3), dtype=np.uint8) for i in range(8)]
    images = [image[:40] for image in images]
    add_checker(checked, Image.fromarray(images[5]), threshold=0.98)
    checker = loaded(checked)
    pipe = SimpleNamespace(
        safety_checker=checker.network, feature_extractor=checker.prepare, image_processor=VaeImageProcessor()
    )
    stacked = np.stack(images).astype(np.float32) / 255
    run: Any = diffusers.StableDiffusionPipeline.run_safety_checker
    _, expected = run(pipe, stacked, "cpu", torch.float32)
    assert checker.objections(images) == expected
    assert 0 < sum(expected) < 8
    assert checker.objections(images)[5]


def test_what_it_objects_to_goes_to_quarantine(tmp_path: Path, checked: Path) -> None:
    """Of two copies each: one objection refuses the sample; all others are as without the checker."""
    copies = {"operator.copies": 2}
    run_job(make_plan(job(tmp_path, checked, "off", **copies)))
    made = builders.members_of(tmp_path / "off/data/in.tar")
    bad = tmp_path / "bad.png"
    bad.write_bytes(made["0003-1.png"])
    add_checker(checked, Image.open(bad).convert("RGB"), threshold=0.999)
    seen = list[Any]()
    manifest = run_job(make_plan(job(tmp_path, checked, "refuse", safety="refuse", **copies)), observe=seen.append)
    assert Noted(UNASKED) not in seen
    assert manifest.reasons == {UNSAFE: 1}
    ((why, members),) = read_quarantine(tmp_path / "refuse/quarantine/in.tar")
    assert (why.key, why.reason, why.kind) == ("0003", UNSAFE, "refused")
    assert members["png"] == builders.picture(3)
    kept = builders.members_of(tmp_path / "refuse/data/in.tar")
    pictures = {name: content for name, content in made.items() if name.endswith(".png") and "0003" not in name}
    assert {name: content for name, content in kept.items() if name.endswith(".png")} == pictures


def test_off_says_that_it_is_not_asked(tmp_path: Path, checked: Path, model: Path) -> None:
    plan = make_plan(job(tmp_path, checked, "out"))
    seen = list[Any]()
    run_job(plan, observe=seen.append)
    assert Noted(UNASKED) in seen
    assert f"# {UNASKED}" in estimate(plan).splitlines()
    assert make_plan(job(tmp_path, model, "none")).notes == []
    assert make_plan(job(tmp_path, checked, "out", safety="refuse")).hashes["config"] != plan.hashes["config"]


def test_without_a_checker_it_is_refused_before_any_work(tmp_path: Path, model: Path) -> None:
    with pytest.raises(UserError, match="safety: refuse needs a model with a folder safety_checker; allowed is off"):
        make_plan(job(tmp_path, model, "out", safety="refuse"))
    with pytest.raises(UserError, match="there is no model"):
        validate(JobConfig, builders.recipe("in.tar", tmp_path, None, safety="refuse"), "test")


def test_a_checker_that_cannot_be_asked_is_refused(tmp_path: Path, checked: Path) -> None:
    file = checked / "safety_checker/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "architectures": ["IFSafetyChecker"]}))
    with pytest.raises(UserError, match=r"the checker is a \['IFSafetyChecker'\]"):
        make_plan(job(tmp_path, checked, "out", safety="refuse"))
    file.write_text(json.dumps(config))
    (checked / "feature_extractor/preprocessor_config.json").rename(tmp_path / "away")
    with pytest.raises(UserError, match=r"preprocessor_config\.json is missing"):
        make_plan(job(tmp_path, checked, "out", safety="refuse"))
    (tmp_path / "away").rename(checked / "feature_extractor/preprocessor_config.json")
    add_checker(checked, threshold=float("nan"))
    with pytest.raises(UserError, match="not finite, so it would object to nothing"):
        loaded(checked)
    weights = checked / "safety_checker/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be loaded"):
        loaded(checked)
