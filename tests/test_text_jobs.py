"""Jobs with models that take prompts: captions, templates, licences, and what is missing or too long."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers

from pipeline.cli import main
from pipeline.commands.estimate import estimate
from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.provenance import Prompt, Provenance
from pipeline.streams.job_records import Manifest, StatedLicence
from tests import builders, tiny
from tests.test_run import run

PROMPT = {"condition": "a photo of a cat", "steps": 2}


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.sd(tmp_path_factory.mktemp("sd"))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Five samples: two captions, of which one stands twice; one sample has none."""
    captions = ["a photo of a cat", "a photo of a dog", "a photo of a cat", None, "a red house"]
    members = []
    for i, caption in enumerate(captions):
        members += [(f"{i}.png", builders.picture(i, (32, 32))), (f"{i}.cls", str(i % 3).encode())]
        members += [(f"{i}.txt", caption.encode())] if caption else []
        members += [(f"{i}.json", json.dumps({"caption": caption}).encode())]
    return builders.tar(tmp_path / "in.tar", members)


def recipe(shard: Path, out: Path, sd: Path, operator: dict[str, Any], **changes: Any) -> dict[str, Any]:
    operator = {"name": "boomerang", "t_boom": 0.6, **operator}
    return builders.recipe(shard, out, sd, **{"operator": operator, "input.label": "cls", **changes})


def images(out: Path) -> dict[str, bytes]:
    return {n: c for n, c in builders.members_of(out / "data" / "in.tar").items() if n.endswith(".png")}


def test_captions_come_from_the_sample_and_belong_to_it(shard: Path, sd: Path, tmp_path: Path) -> None:
    """Each sample's image is the one that its own caption makes, in whatever company."""
    own = {"steps": 2}
    caption = {"template": "{txt}", "on_missing": "skip"}
    counts = run(recipe(shard, tmp_path / "own", sd, own, caption=caption)).counts
    assert (counts.written, counts.quarantined) == (4, 1)
    reason = builders.members_of(tmp_path / "own" / "quarantine" / "in.tar")
    assert any("no caption: the sample has no member 'txt'" in c.decode(errors="ignore") for c in reason.values())
    run(recipe(shard, tmp_path / "cat", sd, PROMPT))
    made, cat = images(tmp_path / "own"), images(tmp_path / "cat")
    same = {name for name in made if made[name] == cat[name]}
    assert same == {"0.png", "2.png"}


def test_a_template_over_labels_is_the_same_as_saying_it(shard: Path, sd: Path, tmp_path: Path) -> None:
    named = {"input.label_names": ["owl", "cat", "dog"]}
    run(recipe(shard, tmp_path / "label", sd, {"steps": 2}, caption="a photo of {label}", **named))
    run(recipe(shard, tmp_path / "said", sd, {"steps": 2, "condition": "a photo of cat"}))
    made, said = images(tmp_path / "label"), images(tmp_path / "said")
    assert {name for name in made if made[name] == said[name]} == {"1.png", "4.png"}


def test_a_template_over_labels_without_names_is_refused_before_any_work(shard: Path, sd: Path, tmp_path: Path) -> None:
    """It was the prompt `a photo of 1`, without a word."""
    content = recipe(shard, tmp_path / "out", sd, {"steps": 1}, caption="a photo of {label}")
    for change in ({}, {"caption": {"template": "{label}", "on_missing": "skip"}}):
        plan = make_plan(validate(JobConfig, content | change, "test"))
        for work in (run_job, estimate):
            with pytest.raises(
                UserError, match=r"caption: \{label\} is the name .* give input\.label_names: \[NAME, …\]"
            ):
                work(plan)
    assert not (tmp_path / "out").exists()


def test_missing_captions_end_the_job_take_the_default_or_are_skipped(shard: Path, sd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"caption: json:caption is missing \(in:3\); on_missing: skip"):
        run(recipe(shard, tmp_path / "error", sd, {"steps": 1}, caption="{json:caption}"))
    default = {"template": "{txt}", "on_missing": "default", "default": "a photo of a horse"}
    assert run(recipe(shard, tmp_path / "default", sd, {"steps": 1}, caption=default)).counts.written == 5
    horse = {"steps": 1, "condition": "a photo of a horse"}
    run(recipe(shard, tmp_path / "horse", sd, horse))
    made, said = images(tmp_path / "default"), images(tmp_path / "horse")
    assert {name for name in made if made[name] == said[name]} == {"3.png"}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "condition own: the model takes prompts; give the recipe a section caption, or the operator a prompt"),
        ({"operator.condition": 3}, "condition 3: the model takes prompts, and a prompt is text"),
        (
            {"operator.condition": "edited"},
            "condition edited: the model takes prompts; give the recipe a section",
        ),
        ({"caption": {"template": "{txt}", "default": "x"}}, "default and on_missing: default belong together"),
        ({"operator.condition": "x", "model.size": [33, 32]}, "model.size is 33 × 32; allowed are multiples of 2"),
        ({"operator.condition": "x", "model.offload": "model"}, "model.offload is model, and the device is the CPU"),
        ({"operator.condition": "x", "model.variant": "fp16"}, "no weights of variant 'fp16'"),
        ({"operator.condition": "x", "model.lora": [{"path": "/no.bin"}]}, "model.lora: '/no.bin' is not a file"),
    ],
)
def test_bad_recipes(changes: Any, sentence: str, shard: Path, sd: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        run(recipe(shard, tmp_path / "out", sd, {"steps": 1}, **changes))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def broken(folder: Path, name: str) -> None:
    if name == "unknown class":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "HunyuanDiTPipeline"}))
    elif name == "foreign component":
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps(index | {"unet": ["my_module", "Net"]}))
    elif name == "missing component":
        shutil.rmtree(folder / "text_encoder")
    elif name == "pickled":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_suffix(".bin"))
    elif name == "cut off":
        file = folder / "unet" / "diffusion_pytorch_model.safetensors"
        file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("unknown class", "model_index.json: _class_name is 'HunyuanDiTPipeline'; known are DDPMPipeline, "),
        ("foreign component", "unet comes from 'my_module'; allowed are diffusers, transformers"),
        ("missing component", "text_encoder is missing: model_index.json lists it as a CLIPTextModel"),
        ("pickled", "unet holds only pickled weights (diffusion_pytorch_model.bin); only .safetensors are loaded"),
        ("cut off", "the pipeline cannot be loaded ("),
    ],
)
def test_bad_folders(damage: str, sentence: str, shard: Path, sd: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sd, tmp_path / "sd"))
    broken(folder, damage)
    with pytest.raises(UserError) as caught:
        run(recipe(shard, tmp_path / "out", folder, PROMPT))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prompt_that_is_too_long_is_cut_and_said(shard: Path, sd: Path, tmp_path: Path, caplog: Any) -> None:
    import diffusers

    diffusers.logging.enable_propagation()
    try:
        long = " ".join(["a photo of a cat"] * 30) + " with mountains"
        run(recipe(shard, tmp_path / "out", sd, {"steps": 1, "condition": long}, limit=1))
    finally:
        diffusers.logging.disable_propagation()
    (said,) = {r.getMessage() for r in caplog.records if "truncated" in r.getMessage()}
    assert "with mountains" in said
    (made,) = provenances(tmp_path / "out")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(sd / "tokenizer")
    tokens = tokenizer(long, truncation=False).input_ids
    assert made.prompts == (Prompt(text=long, cut=len(tokens) - tokenizer.model_max_length),)
    manifest = Manifest.from_json((tmp_path / "out" / "manifest.json").read_bytes(), "manifest")
    assert [count for note, count in manifest.notes.items() if "too long for the text encoder" in note] == [1]


LISTS = [["a cat", "a dog", "a red house"], ["a boat"], ["a horse", "a tree"]]


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Three samples, each with its list of captions."""
    members = []
    for i, captions in enumerate(LISTS):
        members += [(f"{i}.png", builders.picture(i, (32, 32))), (f"{i}.cls", b"0")]
        members += [(f"{i}.json", json.dumps({"captions": captions}).encode())]
    return builders.tar(tmp_path / "in.tar", members)


def provenances(out: Path) -> list[Provenance]:
    members = builders.members_of(out / "data" / "in.tar")
    return [Provenance.from_json(c, n) for n, c in members.items() if n.endswith("doppel.json")]


def texts(out: Path) -> dict[tuple[str, int], str]:
    """The prompt that stands in the provenance of each copy."""
    return {(made.key.source, made.key.copy): made.prompts[0].text for made in provenances(out)}


def test_each_copy_is_made_with_the_caption_that_is_its_own(listed: Path, sd: Path, tmp_path: Path) -> None:
    """The image of a copy is the one that its text makes where the recipe gives nothing else."""
    caption = {"template": "{json:captions}", "pick": "each"}
    manifest = run(recipe(listed, tmp_path / "each", sd, {"steps": 1, "copies": 2}, caption=caption))
    assert texts(tmp_path / "each") == {
        (str(i), copy): captions[copy % len(captions)] for i, captions in enumerate(LISTS) for copy in range(2)
    }
    assert [count for note, count in manifest.notes.items() if "more texts than there are copies" in note] == [1]
    run(recipe(listed, tmp_path / "dog", sd, {"steps": 1, "copies": 2, "condition": "a dog"}))
    made, dog = images(tmp_path / "each"), images(tmp_path / "dog")
    assert {name for name in made if made[name] == dog[name]} == {"0-1.png"}


def test_the_first_is_taken_and_said_and_a_random_one_hangs_on_key_and_copy(
    listed: Path, sd: Path, tmp_path: Path
) -> None:
    manifest = run(recipe(listed, tmp_path / "first", sd, {"steps": 1}, caption="{json:captions}"))
    assert texts(tmp_path / "first") == {(str(i), 0): captions[0] for i, captions in enumerate(LISTS)}
    assert [count for note, count in manifest.notes.items() if "the first is taken" in note] == [2]
    drawn = []
    for size in (1, 3):
        changes = {"caption": {"template": "{json:captions}", "pick": "random"}, "model.batch_size": size}
        run(recipe(listed, tmp_path / f"random{size}", sd, {"steps": 1, "copies": 4}, **changes))
        drawn.append(texts(tmp_path / f"random{size}"))
    assert drawn[0] == drawn[1]
    assert len({text for (key, _), text in drawn[0].items() if key == "0"}) > 1


def card(folder: Path, licence: str) -> None:
    (folder / "README.md").write_text(f"---\nlicense: {licence}\n---\n# a model\n")


def test_the_licence_stands_in_the_manifest(shard: Path, sd: Path, tmp_path: Path, capsys: Any) -> None:
    folder = Path(shutil.copytree(sd, tmp_path / "sd"))
    card(folder, "cc-by-nc-4.0")
    content = recipe(shard, tmp_path / "out", folder, PROMPT, limit=1)
    assert run(content).licences == {str(folder): StatedLicence(name="cc-by-nc-4.0", link=None, noncommercial=True)}
    (tmp_path / "r.yaml").write_text(json.dumps(content))
    assert main(["run", str(tmp_path / "r.yaml"), "--overwrite"]) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "non-commercial" in line]
    assert warnings == [f"doppel: {folder}: non-commercial licence cc-by-nc-4.0; it may bind the outputs too"]
    assert main(["run", str(tmp_path / "r.yaml"), "--overwrite", "--forbid-noncommercial"]) == 2
    assert "--forbid-noncommercial was given" in capsys.readouterr().err
    card(folder, "apache-2.0")
    assert main(["run", str(tmp_path / "r.yaml"), "--overwrite", "--forbid-noncommercial"]) == 0
    assert "non-commercial" not in capsys.readouterr().err


def test_what_is_loaded_on_top_counts_for_the_hash(shard: Path, sd: Path, tmp_path: Path) -> None:
    """And where it lies does not."""
    file = tiny.lora(tmp_path / "lora", sd)
    moved = shutil.copy(file, tmp_path / "moved.safetensors")

    def hashes(**changes: Any) -> tuple[str, str]:
        job = make_plan(validate(JobConfig, recipe(shard, tmp_path / "out", sd, PROMPT, **changes), "test"))
        return job.hashes["model"], job.hashes["config"]

    plain, with_file = hashes(), hashes(**{"model.lora": [{"path": str(file)}]})
    assert plain[0] != with_file[0]
    assert with_file == hashes(**{"model.lora": [{"path": str(moved)}]})
    assert with_file[1] != hashes(**{"model.lora": [{"path": str(file), "scale": 0.5}]})[1]
