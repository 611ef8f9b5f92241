"""Records that a crash, a disk or a person has damaged: one sentence that names the file, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import BAD_INPUT, main
from pipeline.engine.batch_size import REMEMBERED, remember, remembered
from pipeline.errors import UserError
from pipeline.hooks.live.background import IDENTITY, claim
from pipeline.hooks.store import read_weights
from pipeline.media.rules import PLAIN
from pipeline.models.folder import read_json
from pipeline.models.training_set import FILE, read_training_set
from pipeline.streams.folder import FolderInput
from pipeline.streams.hub import HubInput
from pipeline.streams.store import DiskStore
from tests import builders
from tests.streams.made import lay, picture
from training.data.cache import FACTS, KEYS, LABELS, PIXELS, build_cache
from training.denoiser.checkpoint import load_checkpoint

DAMAGED = {
    "empty": b"", "blank": b"  \n", "cut": b'{"version": 1, "conf', "list": b"[1]", "null": b"null", "text": b'"x"',
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 100_000, "binary": b"\xff\xfe\x00", "object": b"{}",
    "zeros": bytes(512), "digits": b'{"version": ' + b"9" * 5000 + b"}",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    builders.shard(folder / "in.tar", 2)
    recipe = builders.recipe(folder / "in.tar", folder / "out", None)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["run", str(folder / "recipe.yaml")]) == 0
    return folder


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", ["job.json", "shards/in.json", "manifest.json"])
@pytest.mark.parametrize("options", [[], ["--keep-finished"]], ids=["plain", "keep"])
def test_a_job_names_a_damaged_record(
    name: str, content: bytes, options: list[str], finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = finished / "out" / name
    whole = file.read_bytes()
    try:
        file.write_bytes(content)
        code = main(["run", str(finished / "recipe.yaml"), *options])
    finally:
        file.write_bytes(whole)
    said = capsys.readouterr().err
    if name == "manifest.json":  # the totals of the records: it is written anew
        assert code == 0
        return
    assert code == BAD_INPUT
    (line,) = [line for line in said.splitlines() if line.startswith("doppel: ")]
    assert str(file) in line
    assert "Traceback" not in said
    assert len(line) < 600


def readers(folder: Path) -> dict[str, Callable[[Path], Any]]:
    return {
        "weights.json": read_weights,
        "config.json": read_json,
        REMEMBERED: lambda file: remembered(DiskStore(file.parent, file.parent / ".parts"), HASHES, lambda: 1 // 0),
        IDENTITY: lambda file: claim(file.parent, {"model": "m"}),
        "dataset_dict.json": lambda file: HubInput(path=str(file.parent)).open(),
        "state.json": lambda file: HubInput(path=str(file.parent)).open(),
        "checkpoint/state.json": lambda file: load_checkpoint(file.parents[1], {}, *([None] * 3)),  # type: ignore[arg-type]
    }


HASHES = {"config": "c", "model": "m", "second_model": "", "judge": ""}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("name", readers(Path()))
def test_every_reader_names_its_file(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    try:
        readers(tmp_path)[name](file)
    except UserError as error:
        said = str(error)
    except ZeroDivisionError:  # it was looked for anew
        said = f"{file}"
        assert content in (b"{}", DAMAGED["digits"])
    else:
        said = f"{file}"
        assert content == b"{}"
        assert name in ("weights.json", "config.json")
    assert file.name in said or "store from another configuration" in said
    assert "\n" not in said


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_tensors_are_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"training_set\.safetensors is damaged, or cannot be read") as caught:
        read_training_set(tmp_path)
    assert "\n" not in str(caught.value)


def test_tensors_that_find_no_room(tmp_path: Path) -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    code = f"""{limited}
import torch
from pathlib import Path
from pipeline.tensors import write_tensors
try:
    write_tensors({{"a": torch.zeros(10_000)}}, Path({str(tmp_path / "x.safetensors")!r}))
except OSError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "x.safetensors: " in result.stdout
    assert "File too large" in result.stdout


def test_a_batch_size_is_remembered_whole_or_not_at_all(tmp_path: Path) -> None:
    remember(DiskStore(tmp_path, tmp_path / ".parts"), HASHES, 32)
    assert remembered(DiskStore(tmp_path, tmp_path / ".parts"), HASHES, lambda: 1) == 32
    assert remembered(DiskStore(tmp_path, tmp_path / ".parts"), {**HASHES, "model": "other"}, lambda: 1) == 1
    for wrong in (None, "32", 0, -1, True, 1.5):
        known = json.loads((tmp_path / REMEMBERED).read_text())
        (tmp_path / REMEMBERED).write_text(json.dumps({**known, "batch_size": wrong}))
        with pytest.raises(UserError, match="batch_size is"):
            remembered(DiskStore(tmp_path, tmp_path / ".parts"), HASHES, lambda: 1)


@pytest.mark.parametrize("name", [FACTS, KEYS, LABELS, PIXELS])
@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\x93NUMPY", bytes(64), b'{"key": 1}'])
def test_a_damaged_cache_is_made_anew(name: str, content: bytes, tmp_path: Path) -> None:
    lay(tmp_path / "in", {f"c/{i}.png": picture(i) for i in range(3)})
    source, folder = FolderInput(path=str(tmp_path / "in")), tmp_path / "cache"
    whole = build_cache(source, folder, (8, 8), PLAIN)
    before = builders.tree(tmp_path, "cache")
    del whole
    (folder / name).write_bytes(content)
    build_cache(source, folder, (8, 8), PLAIN)
    assert builders.tree(tmp_path, "cache") == before
