"""Tars as people make them: with what macOS and Windows add, and with members of one sample far apart."""

from __future__ import annotations

import gzip
import io
import lzma
import random
import tarfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.records import Sample
from pipeline.streams.names import is_junk
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from tests.streams.damaged import read, shard, starts, told
from tests.streams.made import picture, rejected, samples, tar_bytes

KEYS = ("a", "b", "d/c")
IMAGES = [(f"{key}.png", picture(i)) for i, key in enumerate(KEYS)]
LABELS = [(f"{key}.cls", b"%d" % i) for i, key in enumerate(KEYS)]
JUNK = ("._a.png", "__MACOSX/._a.png", "__MACOSX/d/x.txt", ".DS_Store", "d/.DS_Store", "d/Thumbs.db", "d/._c.cls")


def content_of(found: Sequence[object]) -> dict[str, tuple[bytes, int | None, dict[str, bytes]]]:
    return {s.key: (s.image, s.label, dict(s.members)) for s in found if isinstance(s, Sample)}


def test_what_macos_and_windows_add_is_ignored_and_parts_no_sample(tmp_path: Path) -> None:
    members = [member for pair in zip(IMAGES, LABELS, strict=True) for member in pair]
    mixed = list(members)
    for place, name in enumerate(JUNK):
        mixed.insert(2 * place, (name, b"junk"))
    assert content_of(samples(shard(tmp_path / "mac.tar", tar_bytes(mixed)))) == content_of(
        samples(shard(tmp_path / "plain.tar", tar_bytes(members)))
    )


@pytest.mark.parametrize("name", ["a.png", "_a.png", "x/.a/b.png", "MACOSX/a.png", "a/Thumbs.db.png", "a._b.png"])
def test_nothing_else_is_junk(name: str) -> None:
    assert not is_junk(name)


def test_members_that_lie_apart_are_refused_before_the_first_sample(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"do not lie together.*input\.unsorted: true"):
        next(iter(shard(tmp_path / "t.tar", tar_bytes(IMAGES + LABELS)).read()))


def test_in_a_compressed_tar_they_are_refused_when_the_second_part_comes(tmp_path: Path) -> None:
    items = shard(tmp_path / "t.tar", gzip.compress(tar_bytes(IMAGES + LABELS))).read()
    assert [item.key for _, item in zip(KEYS, items, strict=False)] == list(KEYS)
    with pytest.raises(UserError, match=r"input\.unsorted"):
        next(items)


def test_the_refusal_names_no_key_and_a_job_writes_nothing_of_the_shard(tmp_path: Path) -> None:
    source = builders.tar(tmp_path / "in.tar", [("anna.png", builders.picture(0)), ("b.png", builders.picture(1)),
                                                ("anna.cls", b"1"), ("b.cls", b"2")])  # fmt: skip
    recipe = builders.recipe(source, tmp_path / "out", None)
    with pytest.raises(UserError) as refused:
        run_job(make_plan(validate(JobConfig, recipe, "test")))
    assert "anna" not in str(refused.value)
    assert list(builders.tree(tmp_path / "out", "data", "shards")) == []
    recipe["input"]["unsorted"] = True
    recipe["output"]["path"] = str(tmp_path / "again")
    assert run_job(make_plan(validate(JobConfig, recipe, "test"))).counts.written == 2
    written = builders.members_of(tmp_path / "again" / "data" / "in.tar")
    assert (written["anna.cls"], written["b.cls"]) == (b"1", b"2")


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress])
def test_an_unsorted_tar_is_read_as_tarfile_sorts_it(tmp_path: Path, pack: type[bytes]) -> None:
    found = shard(tmp_path / "t.tar", pack(tar_bytes(IMAGES + LABELS)), unsorted=True)
    assert content_of(samples(found)) == {
        key: (picture(i), i, {"cls": b"%d" % i}) for i, key in enumerate(KEYS)
    }  # fmt: skip
    assert len(found.content_hash()) == 64


@given(order=st.permutations(IMAGES + LABELS + [("d/c.json", b"{}"), ("a.txt", b"x")]))
def test_the_order_of_members_changes_no_sample(
    tmp_path_factory: pytest.TempPathFactory, order: list[tuple[str, bytes]]
) -> None:
    content = tar_bytes(order)
    grouped: dict[str, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:  # the independent reader
        for info in tar:
            key, _, extension = info.name.rpartition(".")
            grouped.setdefault(key, {})[extension] = tar.extractfile(info).read()  # type: ignore[union-attr]
    found = content_of(read(tmp_path_factory.getbasetemp(), content, unsorted=True))
    assert {key: {"png": image, **members} for key, (image, _, members) in found.items()} == grouped
    assert list(found) == list(grouped)


def test_two_members_of_one_extension_are_no_sample(tmp_path: Path) -> None:
    content = tar_bytes([*IMAGES, ("a.png", picture(9)), *LABELS])
    items = read(tmp_path, content, unsorted=True)
    assert told(items) == ["a?", "b", "d/c"]
    assert "two members" in rejected(items)[0].reason


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_of_a_damaged_unsorted_tar_nothing_is_read(tmp_path: Path, pack: type[bytes]) -> None:
    whole = tar_bytes(IMAGES + LABELS)
    cut = pack(whole[: dict(starts(whole))["b.cls"] + 100])
    assert told(read(tmp_path, cut, unsorted=True)) == ["#"]


def test_a_broken_compression_is_damage(tmp_path: Path) -> None:
    assert told(read(tmp_path, gzip.compress(tar_bytes(IMAGES))[:-9], unsorted=True)) == ["#"]


def test_what_is_unpacked_has_a_bound(tmp_path: Path) -> None:
    bomb = gzip.compress(tar_bytes([("a.png", bytes(1 << 22))]))
    with pytest.raises(UserError, match=r"input\.bounds\.unsorted_bytes"):
        read(tmp_path, bomb, unsorted=True, bounds={"unsorted_bytes": 1 << 20})


def test_only_places_are_held_in_memory(tmp_path: Path) -> None:
    members = [(f"{i}.{extension}", bytes(300_000)) for extension in ("png", "bin") for i in range(40)]
    tar = shard(tmp_path / "t.tar", tar_bytes(members), unsorted=True)
    tracemalloc.start()
    count = sum(1 for _ in tar.read())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 40
    assert peak < 3_000_000


def test_a_key_twice_stays_a_duplicate(tmp_path: Path) -> None:
    pairs = [member for pair in zip(IMAGES, LABELS, strict=True) for member in pair]
    assert told(read(tmp_path, tar_bytes([*pairs, ("a.png", b"x"), ("a.cls", b"5")]))) == ["a", "b", "d/c", "a!"]


def test_parts_next_to_damage_are_not_taken_for_parts_of_a_sample(tmp_path: Path) -> None:
    content = bytearray(
        tar_bytes([("a.png", picture(0)), ("a.txt", b"x"), ("a.json", b"{}"), ("a.cls", b"1"), *IMAGES[1:]])
    )
    content[dict(starts(bytes(content)))["a.txt"]] ^= 255
    assert told(read(tmp_path, bytes(content)))[-1] == "d/c"


def test_shuffled_members_of_a_large_tar(tmp_path: Path) -> None:
    members = [(f"{i:04d}.{extension}", b"%d" % i) for i in range(500) for extension in ("png", "cls")]
    random.Random(0).shuffle(members)
    found = samples(shard(tmp_path / "t.tar", tar_bytes(members), unsorted=True))
    assert sorted((s.key, s.label) for s in found) == [(f"{i:04d}", i) for i in range(500)]


def test_real_photographs_in_another_order_are_the_same_samples(tmp_path: Path) -> None:
    source = builders.SHARED / "lfw" / "dev-00000.tar"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    members = sorted(builders.members_of(source).items(), key=lambda member: member[0].rpartition(".")[2])
    with pytest.raises(UserError, match=r"input\.unsorted"):
        next(iter(shard(tmp_path / "t.tar", tar_bytes(members)).read()))
    found = shard(tmp_path / "t.tar", tar_bytes(members), unsorted=True)
    (original,) = WebDatasetInput(urls=(str(source),)).open().shards
    assert content_of(samples(found)) == content_of(samples(original))
