"""What is wrong with a model folder is told in one sentence that names the file; what it holds has one hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from pipeline.errors import UserError
from pipeline.models.codec import SpaceToDepth, save_codec
from pipeline.models.config import ModelConfig
from pipeline.models.families import load_model
from pipeline.models.folder import find_model, hash_model, hub_patterns
from tests.models.networks import MakeFolder

UNET, WEIGHTS = "unet/config.json", "unet/diffusion_pytorch_model.safetensors"
SCHEDULER = "scheduler/scheduler_config.json"


def state(file: str, **values: Any) -> Callable[[Path], None]:
    """Writes keys into a JSON file of a model folder; None removes one."""

    def change(folder: Path) -> None:
        path = folder / file
        content = json.loads(path.read_text()) if path.exists() else {}
        content |= values
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return change


def write(file: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def only_pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def incomplete(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    del weights["conv_out.weight"]
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


def safetensors_of_the_codec_alone(folder: Path) -> None:
    """Sound weights of the network lie there too, but pickled."""
    (folder / "codec").mkdir()
    torch.save(load_file(folder / WEIGHTS), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / WEIGHTS).rename(folder / "codec" / "codec.safetensors")


def patched(folder: Path) -> None:
    save_codec(SpaceToDepth(patch=2), folder)


BROKEN: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no weights": (remove(WEIGHTS), "", "no weights"),
    "only pickled weights": (only_pickled, "", r"only pickled weights \(unet/diffusion_pytorch_model.bin\)"),
    "pickled, safetensors elsewhere": (safetensors_of_the_codec_alone, "unet", "the network cannot be loaded"),
    "rubbish weights": (write(WEIGHTS, b"rubbish" * 9), "unet", "the network cannot be loaded"),
    "empty weights": (write(WEIGHTS, b""), "unet", "the network cannot be loaded"),
    "truncated weights": (truncated, "unet", "the network cannot be loaded"),
    "incomplete weights": (incomplete, "unet", "the weights lack 1 tensors"),
    "other shapes": (state(UNET, block_out_channels=[32, 32]), "unet", "the network cannot be loaded"),
    "senseless network": (state(UNET, down_block_types=["Up", "Down"]), "unet", "the network cannot be loaded"),
    "another class": (state(UNET, _class_name="UNet2DConditionModel"), UNET, "_class_name is 'UNet2DConditionModel'"),
    "no class": (state(UNET, _class_name=None), UNET, "_class_name is None; allowed is UNet2DModel"),
    "time in integers": (state(UNET, time_embedding_type="learned"), UNET, "time_embedding_type is 'learned'"),
    "class embedding": (state(UNET, class_embed_type="timestep"), UNET, "class_embed_type is 'timestep'"),
    "no network": (remove(UNET), UNET, "is missing"),
    "network: no JSON": (write(UNET, '{"a": '), UNET, "is not valid JSON"),
    "network: not text": (write(UNET, b"\xff\xfe\x00"), UNET, "is not valid JSON"),
    "network: a list": (write(UNET, "[]"), UNET, "a JSON object is expected"),
    "no size": (state(UNET, sample_size=None), "", "states no sample_size"),
    "four channels": (patched, "", "3 channels in patches of 2 are neither grey nor RGB"),
    "no scheduler": (remove(SCHEDULER), "scheduler_config.json", "is missing"),
    "scheduler: no JSON": (write(SCHEDULER, "beta: 1"), SCHEDULER, "is not valid JSON"),
    "scheduler: unknown class": (
        state(SCHEDULER, _class_name="EDMEulerScheduler"), SCHEDULER,
        "_class_name is 'EDMEulerScheduler'; known are DDPMScheduler, DDIMScheduler",
    ),
    "scheduler: no class": (state(SCHEDULER, _class_name=None), SCHEDULER, "_class_name is None"),
    "scheduler: unknown betas": (state(SCHEDULER, beta_schedule="cubic"), "scheduler", "beta_schedule is 'cubic'"),
    "scheduler: unknown spacing": (state(SCHEDULER, timestep_spacing="odd"), "scheduler", "timestep_spacing is 'odd'"),
    "scheduler: no number": (state(SCHEDULER, beta_end="high"), "scheduler", "high"),
    "scheduler: unknown prediction": (
        state(SCHEDULER, prediction_type="noise"), "", "prediction_type is 'noise'; known are epsilon",
    ),
    "card: no JSON": (write("doppel.json", "{"), "doppel.json", "is not valid JSON"),
    "card: null label inside": (state("doppel.json", null_label=0), "doppel.json", "null_label is 0"),
    "card: too many names": (state("doppel.json", class_names=["a"] * 5), "doppel.json", "5 class_names"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_one_sentence(make_folder: MakeFolder, case: str) -> None:
    spoil, named, sentence = BROKEN[case]
    folder = make_folder(num_class_embeds=4)
    load_model(ModelConfig(path=str(folder)), "cpu")
    spoil(folder)
    with pytest.raises(UserError, match=sentence) as caught:
        load_model(ModelConfig(path=str(folder)), "cpu")
    text = str(caught.value)
    assert str(folder) in text
    assert named in text
    assert "\n" not in text
    assert len(text) < 700


@pytest.mark.parametrize("path", ["./missing", "/nowhere/at/all", "one", "a/b/c", "~/no-such-folder", "embedded:x/y"])
def test_a_path_that_is_no_folder_never_reaches_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="is not a folder") as caught:
        find_model(ModelConfig(path=path))
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("path", ["nobody/no-such-model", "-bad-/name", "a/b c"])
def test_offline_a_hub_id_is_one_sentence(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="the hub did not give it") as caught:
        find_model(ModelConfig(path=path))
    assert repr(path) in str(caught.value)
    assert "model_index.json" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hub_id_is_asked_for_without_pickles(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, asked = make_folder(), []

    def give(
        repository: str, revision: str | None, allow_patterns: list[str], ignore_patterns: list[str],
        local_files_only: bool,
    ) -> str:  # fmt: skip
        asked.append((repository, revision))
        assert not any(pattern.endswith((".bin", ".pt", ".py", "*")) for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", give)
    assert find_model(ModelConfig(path="google/ddpm", revision="main")) == folder
    assert asked == [("google/ddpm", "main")]


HELD = [
    "model_index.json", "README.md", "v1-5-pruned.safetensors", "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.bin", "tokenizer/vocab.json",
    "tokenizer/spiece.model", "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model.fp16-00001-of-00002.safetensors", "run.py",
]  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "weights"),
    [
        (None, {"unet/diffusion_pytorch_model.safetensors", "text_encoder/model-00001-of-00002.safetensors"}),
        (
            "fp16",
            {"unet/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.fp16-00001-of-00002.safetensors"},
        ),
    ],
)
def test_of_a_repository_one_variant_is_taken(variant: str | None, weights: set[str]) -> None:
    allowed, ignored = hub_patterns(variant)
    taken = set(filter_repo_objects(HELD, allow_patterns=allowed, ignore_patterns=ignored))
    words = {"model_index.json", "README.md", "unet/config.json", "tokenizer/vocab.json", "tokenizer/spiece.model"}
    assert taken == words | weights
    single = ["diffusion_pytorch_model.safetensors", "config.json"]
    assert variant or set(filter_repo_objects(single, allow_patterns=allowed, ignore_patterns=ignored)) == set(single)


def test_every_byte_of_weights_and_configuration_counts(make_folder: MakeFolder) -> None:
    folder = make_folder()
    save_codec(SpaceToDepth(patch=1), folder)
    seen = {hash_model(folder)}
    for file in (WEIGHTS, UNET, SCHEDULER, "codec/config.json"):
        content = bytearray((folder / file).read_bytes())
        content[-2] ^= 1
        (folder / file).write_bytes(content)
        seen.add(hash_model(folder))
    (folder / "doppel.json").write_text("{}")
    seen.add(hash_model(folder))
    (folder / "doppel.json").rename(folder / "other.json")
    seen.add(hash_model(folder))
    assert len(seen) == 7


def test_cards_and_pictures_do_not_count(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder = make_folder()
    before = hash_model(folder)
    (folder / "README.md").write_text("# A model")
    (folder / "samples.png").write_bytes(b"png")
    assert hash_model(folder) == before
    assert hash_model(folder.rename(tmp_path / "moved")) == before


def test_two_folders_with_the_same_content_have_the_same_hash(make_folder: MakeFolder) -> None:
    assert hash_model(make_folder()) == hash_model(make_folder())
    assert hash_model(make_folder(DDPMScheduler(beta_end=0.03))) != hash_model(make_folder())
