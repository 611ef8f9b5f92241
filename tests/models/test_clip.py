"""CLIP as a judge, against transformers' own processor and model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from pipeline.errors import UserError
from pipeline.models.clip import ClipJudge, load_clip
from tests import tiny

SIDE, FEATURES = 32, 24  # of the tiny CLIP


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def judge(folder: Path) -> ClipJudge:
    return load_clip(str(folder), None, "cpu")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth, with edges, using the whole range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3)).astype(np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    image.paste((255, 0, 0), (width // 3, height // 3, width // 2, height // 2))
    return image


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


SIZES = [(32, 32), (64, 64), (50, 81), (97, 40), (20, 20), (15, 33), (301, 200)]


@pytest.mark.parametrize("size", SIZES)
def test_images_are_prepared_as_the_folders_processor_does(
    judge: ClipJudge, folder: Path, size: tuple[int, int]
) -> None:
    image = photo(*size)
    processor = CLIPProcessor.from_pretrained(folder)
    expected = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
    found = judge.prepare(tensor(image))
    assert found.shape == expected.shape == (1, 3, SIDE, SIDE)
    level = 1 / 255 / 0.26  # one grey level, in normalised units: theirs rounds after resizing
    assert (found - expected).abs().max() < 1.01 * level
    assert (found - expected).abs().mean() < 0.5 * level


def test_vectors_are_those_of_the_model(judge: ClipJudge, folder: Path) -> None:
    images = [photo(64, 48, seed) for seed in range(3)]
    words = ["a photo of a cat", "a red car on grass", "dog"]
    inputs = CLIPProcessor.from_pretrained(folder)(text=words, images=images, return_tensors="pt", padding=True)
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(folder).eval()(**inputs)
    texts, pictures = judge.texts(words), judge.images(torch.cat([tensor(i) for i in images]))
    assert texts.shape == pictures.shape == (3, FEATURES)
    assert torch.allclose(texts, expected.text_embeds, atol=1e-5)
    assert torch.cosine_similarity(pictures, expected.image_embeds, dim=-1).min() > 0.999
    for vectors in (texts, pictures):
        assert torch.allclose(vectors.norm(dim=-1), torch.ones(3), atol=1e-6)
        assert not vectors.requires_grad
    assert (texts[0] - texts[1]).norm() > 1e-3
    assert (pictures[0] - pictures[1]).norm() > 1e-3


def test_a_vector_does_not_depend_on_its_neighbours(judge: ClipJudge) -> None:
    words = ["cat", "a photo of a red dog on grass in snow", "street"]
    images = torch.cat([tensor(photo(40, 40, seed)) for seed in range(3)])
    together = judge.texts(words), judge.images(images)
    for i in range(3):
        assert torch.allclose(judge.texts(words[i : i + 1]), together[0][i : i + 1], atol=1e-6)
        assert torch.allclose(judge.images(images[i : i + 1]), together[1][i : i + 1], atol=1e-6)


def test_texts_are_cut_at_the_encoders_limit(judge: ClipJudge) -> None:
    limit = judge.model.config.text_config.max_position_embeddings
    long = "dog " * (limit - 2)
    exact, longer, other = judge.texts([long, long + "cat horse house", "cat " + long])
    assert torch.equal(exact, longer)
    assert not torch.allclose(exact, other, atol=1e-4)


def test_images_are_not_changed_and_white_is_the_brightest(judge: ClipJudge) -> None:
    pixels = torch.rand(1, 3, 40, 50) * 4 - 2
    before = pixels.clone()
    assert torch.allclose(judge.images(pixels), judge.images(pixels.clamp(-1, 1)))
    assert torch.equal(pixels, before)


def test_the_hash_tells_two_models_apart(judge: ClipJudge, tmp_path: Path, folder: Path) -> None:
    other = load_clip(str(tiny.clip(tmp_path / "other", seed=1)), None, "cpu")
    again = load_clip(str(folder), None, "cpu")
    assert judge.hash == again.hash != other.hash
    assert torch.equal(judge.texts(["cat"]), again.texts(["cat"]))


def test_older_folders_state_the_processor_in_a_file_of_its_own(copy: Path, judge: ClipJudge) -> None:
    """As openai/clip-vit-large-patch14 has it, with numbers for sizes."""
    stated = json.loads((copy / "processor_config.json").read_text())["image_processor"]
    stated |= {"size": SIDE, "crop_size": SIDE, "feature_extractor_type": "CLIPFeatureExtractor"}
    for name in ("do_rescale", "rescale_factor", "image_processor_type", "do_convert_rgb"):
        stated.pop(name, None)
    (copy / "processor_config.json").unlink()
    (copy / "preprocessor_config.json").write_text(json.dumps(stated))
    image = tensor(photo(50, 81))
    assert torch.equal(load_clip(str(copy), None, "cpu").images(image), judge.images(image))


def test_the_processors_own_numbers_are_used(copy: Path) -> None:
    change(copy, {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.25, 0.125], "size": {"shortest_edge": 48}})
    image = photo(60, 90)
    expected = CLIPProcessor.from_pretrained(copy).image_processor(images=image, return_tensors="pt")["pixel_values"]
    found = load_clip(str(copy), None, "cpu").prepare(tensor(image))
    assert (found - expected).abs().max() < 1.01 / 255 / 0.125


def change(folder: Path, options: dict[str, Any]) -> None:
    file = folder / "processor_config.json"
    content = json.loads(file.read_text())
    content["image_processor"] |= options
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"resample": 0}, "resample of the image processor is 0; 3 is expected"),
        ({"rescale_factor": 1.0}, "rescale_factor"),
        ({"do_normalize": False}, "do_normalize of the image processor is False"),
        ({"do_resize": False}, "do_resize"),
        ({"do_center_crop": False}, "do_center_crop"),
        ({"crop_size": {"height": 40, "width": 40}}, "crop_size"),
        ({"size": {"shortest_edge": 16}}, "shortest_edge ≥ 32"),
        ({"size": {"height": 32, "width": 32}}, "shortest_edge ≥ 32"),
    ],
)
def test_another_preparation_is_refused(copy: Path, options: dict[str, Any], sentence: str) -> None:
    change(copy, options)
    with pytest.raises(UserError, match=sentence):
        load_clip(str(copy), None, "cpu")


def test_a_folder_that_is_no_whole_clip_is_one_sentence(copy: Path, tmp_path: Path) -> None:
    weights = copy / "model.safetensors"
    tensors = load_file(weights)
    del tensors["visual_projection.weight"]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(UserError, match="the weights lack 1 tensors"):
        load_clip(str(copy), None, "cpu")
    weights.write_bytes(b"rubbish")
    with pytest.raises(UserError, match="no CLIP can be loaded from it"):
        load_clip(str(copy), None, "cpu")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"model_type": "siglip"}))
    with pytest.raises(UserError, match="model_type is 'siglip'; a 'clip'"):
        load_clip(str(copy), None, "cpu")
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_clip(str(copy), None, "cpu")
    weights.rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="only pickled weights"):
        load_clip(str(copy), None, "cpu")


def test_a_tokenizer_of_another_model_is_one_sentence(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["vocab_size"] -= 1
    (copy / "config.json").write_text(json.dumps(config))
    weights = load_file(copy / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    save_file(weights | {name: weights[name][:-1].clone()}, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"the tokenizer has (\d+) tokens, the text encoder \d+"):
        load_clip(str(copy), None, "cpu")


def test_older_tokenizers_are_two_files(copy: Path, judge: ClipJudge) -> None:
    model = json.loads((copy / "tokenizer.json").read_text())["model"]
    (copy / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    (copy / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (copy / "tokenizer.json").unlink()
    words = ["a photo of a red cat", "dog"]
    assert torch.equal(load_clip(str(copy), None, "cpu").texts(words), judge.texts(words))


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("tokenizer.json", "tokenizer.json or vocab.json and merges.txt is missing"),
        ("processor_config.json", "no CLIP can be loaded from it"),
    ],
)
def test_a_missing_part_is_one_sentence(copy: Path, missing: str, sentence: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(UserError, match=sentence):
        load_clip(str(copy), None, "cpu")
