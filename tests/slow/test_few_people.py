"""Twenty people and nobody else: what a gate of two families withholds of Boomerang's outputs at .9, and why.

`uv run pytest -m slow -k few_people -s` prints the counts.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from pipeline.anonymity.faces.detect import FaceFinder
from pipeline.anonymity.faces.recognise import load_recogniser
from pipeline.anonymity.faces.scanning import image_stream
from pipeline.anonymity.faces.table import tabulate
from pipeline.anonymity.gate.calibration import SHIPPED, find_certificate
from pipeline.anonymity.gate.facts import said
from pipeline.anonymity.gate.families import default_recognisers
from pipeline.anonymity.gate.gate import Gate
from pipeline.anonymity.gate.judge import Judge
from pipeline.diffusion.noise import KeyedNoise
from pipeline.media.pixels import from_pixels, to_pixels
from pipeline.media.rules import PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.operators import Boomerang, Given
from pipeline.streams.shards import WebDatasetInput
from tests.anonymity.portraits import LFW, needs_dlib, needs_lfw

SIZE, PEOPLE = (64, 64), 20


@pytest.mark.slow
@needs_lfw
@needs_dlib
def test_few_people_are_released_or_refused_for_a_reason() -> None:
    stream = image_stream(
        WebDatasetInput(urls=(str(LFW / "dev-00002.tar"),)), SIZE, PixelRules(fit="centre 128"), "json:identity"
    )
    names = [name for name in default_recognisers() if (SHIPPED / f"{name}_64.json").exists()]
    images, who = {}, set[str | None]()
    with FaceFinder("dlib", workers=2) as finder:
        for key, person, image in stream:
            if person not in who and len(finder.find([image])[0]) == 1:
                images[key] = image
                who.add(person)
            if len(images) == PEOPLE:
                break
        recognisers = [load_recogniser(name) for name in names]
        keys, sources = list(images), list(images.values())
        judges = tuple(Judge.of(one, find_certificate(one, finder, SIZE), "deepface") for one in recognisers)
        originals = tabulate(sources, keys, [None] * PEOPLE, finder, recognisers)
        gate = Gate(finder=finder, judges=judges, originals=originals, smallest_face=16, near_copy=6)
        assert not gate.rank_counts(1)
        operator = Boomerang.model_validate({"name": "boomerang", "t_boom": 0.9, "steps": 20})
        model = load_model(ModelConfig(path="embedded:lfw_faces/model"), "cpu")
        pixels = to_pixels(sources, "cpu")
        with torch.inference_mode():
            noise = KeyedNoise(b"a salt of the tests", keys, operator.name, 0)
            outputs = from_pixels(operator(model, model.encode(pixels), Given(pixels=pixels), noise).pixels)
        found = gate.judge(keys, list(outputs), sources)
        ranked = replace(gate, judges=judges, undoings={})
        nearest = sum(
            any((embedded @ originals.embeddings[name].T).argmax() == i for name, embedded in one.vectors.items())
            for i, one in enumerate(ranked.judge(keys, list(outputs), sources))
        )
    counts = Counter(one.verdict for one in found)
    print(f"\n{dict(counts)}; {dict(Counter(one.why for one in found if one.why))}")
    print(f"by rank {nearest} of {PEOPLE} would be refused for their own person's sake")
    print("\n".join(said(gate)))
    assert counts["anonymous"] >= PEOPLE / 2
    assert all(one.why for one in found if one.verdict != "anonymous")
    assert not any("is nearest" in one.why for one in found)
