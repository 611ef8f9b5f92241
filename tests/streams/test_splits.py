"""Splits of a data set: none is dropped in silence, and `datasets` finds them again in the output."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Image, Value, load_dataset
from datasets.data_files import DataFilesDict, get_data_patterns

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.streams.hub import HubInput
from pipeline.streams.splits import KEYWORDS, names_in_split, splits_in
from tests import builders
from tests.streams.made import everything, lay, picture

COUNTS = {"train": 40, "test": 10}
NAMES = [
    "train-00000-of-00001", "a", "test", "cats.test", "latest", "test2017", "my_val_set", "validate", "eval-1", "dev",
    "developer", "training data", "TEST", "0test0", "a-train-b", "x.train", "trainer", "evaluation", "test-train",
    "val",
]  # fmt: skip


def rows(split: str, count: int) -> Dataset:
    content = [{"image": {"bytes": picture(i), "path": None}, "text": f"{split} {i}"} for i in range(count)]
    return Dataset.from_list(content, features=Features({"image": Image(), "text": Value("string")}))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same set, in the forms that have splits."""
    root = tmp_path_factory.mktemp("sets")
    for split, count in COUNTS.items():
        rows(split, count).to_parquet(root / "parquet" / f"{split}-00000-of-00001.parquet")
        lay(root / "images", {f"{split}/{kind}/{i}.png": picture(i) for kind in "ab" for i in range(count // 2)})
    DatasetDict({split: rows(split, count) for split, count in COUNTS.items()}).save_to_disk(root / "saved")
    return {name: root / name for name in ("parquet", "images", "saved")}


@pytest.mark.parametrize("form", ["parquet", "images", "saved"])
def test_of_several_splits_one_must_be_named(sets: dict[str, Path], form: str) -> None:
    path = str(sets[form])
    with pytest.raises(UserError, match=r"input\.split: .* several splits \((train, test)\); name one of them, or all"):
        HubInput(path=path).open()
    for split, count in COUNTS.items():
        assert len(everything(HubInput(path=path, split=split).open())) == count
    with pytest.raises(UserError, match=r"no split 'val' \(splits: train, test\)"):
        HubInput(path=path, split="val").open()


@pytest.mark.parametrize("form", ["parquet", "images", "saved"])
def test_all_splits_are_read_and_their_shards_begin_with_them(sets: dict[str, Path], form: str) -> None:
    stream = HubInput(path=str(sets[form]), split="all").open()
    by_split = {
        split: sum(len(list(shard.read())) for shard in stream.shards if shard.name.startswith(f"{split}-"))
        for split in COUNTS
    }
    assert by_split == COUNTS
    keys = [sample.key for sample in everything(stream)]
    assert len(set(keys)) == len(keys) == 50


def test_the_only_split_needs_no_name(tmp_path: Path) -> None:
    rows("test", 3).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    stream = HubInput(path=str(tmp_path)).open()
    assert [shard.name for shard in stream.shards] == ["test-00000-of-00001"]
    assert len(everything(stream)) == 3


def test_splits_whose_columns_differ_are_refused_together(tmp_path: Path) -> None:
    rows("train", 2).to_parquet(tmp_path / "train.parquet")
    rows("test", 2).rename_column("text", "words").to_parquet(tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"columns of 'train' and 'test' differ"):
        HubInput(path=str(tmp_path), split="all").open()


@pytest.mark.parametrize(("form", "format"), [("saved", "parquet"), ("images", "webdataset"), ("images", "folder")])
def test_datasets_finds_the_splits_in_what_a_job_wrote(
    sets: dict[str, Path], form: str, format: str, tmp_path: Path
) -> None:
    recipe: dict[str, Any] = builders.recipe("", tmp_path / "out", None, **{"output.format": format})
    recipe["input"] = {"format": "hub", "path": str(sets[form]), "split": "all"}
    manifest = run_job(make_plan(validate(JobConfig, recipe, "test")))
    assert manifest.counts.written == 50
    kind = {"data_dir": str(tmp_path / "out" / "data")}
    found = load_dataset("imagefolder" if format == "folder" else format, **kind, cache_dir=str(tmp_path / "cache"))
    assert {split: len(part) for split, part in found.items()} == COUNTS
    if form == "saved":
        assert {part["text"][0] for part in found.values()} == {"train 0", "test 0"}


def test_one_split_of_several_keeps_its_name(sets: dict[str, Path], tmp_path: Path) -> None:
    for form in sets:
        stream = HubInput(path=str(sets[form]), split="test").open()
        whole = HubInput(path=str(sets[form]), split="all").open()
        assert [splits_in(shard.name) for shard in stream.shards] == [{"test"}]
        assert {shard.name for shard in stream.shards} < {shard.name for shard in whole.shards}
        assert {sample.full_key for sample in everything(stream)} < {sample.full_key for sample in everything(whole)}


def test_files_of_no_split_are_listed_with_the_lines_that_read_them(tmp_path: Path) -> None:
    for split, count in {**COUNTS, "extra": 3}.items():
        rows(split, count).to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
        lay(tmp_path / "images", {f"{split}/{kind}/{i}.png": picture(i) for kind in "ab" for i in range(2)})
    wanted = r"none of its splits \(.*\).*: extra-00000-of-00001\.parquet; .*data_files: \['extra-0.*split: 'extra'"
    with pytest.raises(UserError, match=wanted):
        HubInput(path=str(tmp_path / "set"), split="all").open()
    with pytest.raises(UserError, match=r"no split 'extra' .*to read extra-00000-of-00001\.parquet, say data_files"):
        HubInput(path=str(tmp_path / "set"), split="extra").open()
    assert len(everything(HubInput(path=str(tmp_path / "set"), split="test").open())) == COUNTS["test"]
    extra = HubInput(path=str(tmp_path / "set"), split="extra", data_files=("extra-00000-of-00001.parquet",)).open()
    assert len(everything(extra)) == 3
    for more in ({"path": str(tmp_path / "images")}, {"path": "imagefolder", "data_dir": str(tmp_path / "images")}):
        with pytest.raises(
            UserError, match=r"none of its splits .*: extra/\*\*; .*data_files: \['extra/\*\*'\] and split: 'extra'"
        ):
            HubInput.model_validate({**more, "split": "all"}).open()
        extra = HubInput.model_validate({**more, "split": "extra", "data_files": "extra/**"}).open()
        assert len(everything(extra)) == 4


def test_the_only_split_hides_no_files(tmp_path: Path) -> None:
    for name in ("train", "more"):
        rows(name, 2).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(UserError, match=r"none of its splits \(train\).*: more\.parquet"):
        HubInput(path=str(tmp_path)).open()


def test_a_set_that_states_its_files_is_believed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rows(name, 2).to_parquet(tmp_path / f"{name}.parquet")
    configs = "".join(f"- {{config_name: {name}, data_files: {name}.parquet}}\n" for name in ("a", "b"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    assert [sample.members["text.txt"] for sample in everything(HubInput(path=str(tmp_path), name="b").open())] == [
        b"b 0", b"b 1",
    ]  # fmt: skip


def test_words_that_mean_a_split_are_those_of_datasets(tmp_path: Path) -> None:
    for number, name in enumerate(NAMES):
        folder = tmp_path / f"{number:x}x"
        lay(folder, {f"{name}.parquet": b""})
        found = set(DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder)))
        assert {str(split) for split in found} == (splits_in(name) or {"train"}), name


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_names_of_shards_mean_their_split_alone(split: str, tmp_path: Path) -> None:
    named = names_in_split(split, NAMES)
    assert len(set(named)) == len(NAMES)
    assert all(splits_in(name) == {split} for name in named)
    assert names_in_split(split, [f"{split}-0", f"{split}-1"]) == [f"{split}-0", f"{split}-1"]


@pytest.mark.parametrize(("split", "means"), [("Train", "train"), ("TEST", "test"), ("Val_2017", "validation")])
def test_splits_in_upper_case_are_found_again(split: str, means: str) -> None:
    assert [splits_in(name) for name in names_in_split(split, ["a", f"{split}-0"])] == [{means}, {means}]


def test_a_word_belongs_to_one_split() -> None:
    from datasets.data_files import SPLIT_KEYWORDS

    assert {word: str(split) for split, words in SPLIT_KEYWORDS.items() for word in words} == KEYWORDS
