"""The order of a release: the same for every number of buckets, from keys and salt alone, and nothing of it stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.release import publishing, shuffling
from pipeline.release.finished_job import MadeImage, Span
from pipeline.release.privacy import derive, rank_of
from pipeline.release.shuffling import Shuffle
from tests.finished_job import SALT, everything, released
from tests.finished_job import people as sources_of

SECRET = derive(SALT)


def images(folder: Path, count: int = 40) -> list[MadeImage]:
    """Each with 3 bytes of its own in one of three tars, and half of them with a member."""
    made = []
    for number in range(count):
        tar = folder / f"{number % 3}.tar"
        start = tar.stat().st_size if tar.exists() else 0
        with open(tar, "ab") as file:
            file.write(f"{number:03d}txt".encode())
        members = {"txt": Span(start + 3, 3)} if number % 2 else {}
        made.append(MadeImage(
            key=f"in/é{number}\udc80", source=f"in/{number}", source_key=str(number), tar=tar, image_ext="png",
            image=Span(start, 3), members=members, label=number % 4 or None, level="0.5", verdict="anonymous",
            sigma=1.5, attempt=0,
        ))  # fmt: skip
    return made


@pytest.mark.parametrize("buckets", [1, 2, 7, 500])
def test_the_number_of_buckets_makes_no_difference(
    tmp_path: Path, buckets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shuffling, "WAITING", 1000)  # buckets are written to more than once
    made = images(tmp_path)
    shuffle = Shuffle(tmp_path / "spool", SECRET, buckets)
    for entry in random.Random(buckets).sample(made, len(made)):
        shuffle.add(entry)
    assert len(shuffle) == len(made)
    found = list(shuffle)
    assert [entry for entry, _ in found] == sorted(made, key=lambda entry: rank_of(SECRET, entry.key))
    for entry, content in found:
        assert content.image.decode() == f"{int(entry.source_key):03d}"
        assert content.members == ({"txt": b"txt"} if entry.members else {})
    assert (tmp_path / "spool").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "spool").iterdir())


def test_repeated_keys_are_counted(tmp_path: Path) -> None:
    shuffle, made = Shuffle(tmp_path / "spool", SECRET, 4), images(tmp_path, 9)
    for entry in [*made, made[3], made[3], made[5]]:
        shuffle.add(entry)
    assert shuffle.repeated() == 3


def test_a_release_is_the_same_within_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [sources_of(7), sources_of(14)[7:]]
    whole = everything(released(tmp_path / "whole", jobs))
    held = list[int]()
    before = Shuffle._entries

    def counted(self: Shuffle, bucket: int, tars: list[Path]) -> list[MadeImage]:
        entries = before(self, bucket, tars)
        held.append(len(entries))
        return entries

    monkeypatch.setattr(Shuffle, "_entries", counted)
    monkeypatch.setattr(publishing, "buckets_for", lambda tars, memory: 5)
    assert everything(released(tmp_path / "parts", jobs)) == whole
    assert sum(held) == 14
    assert max(held) < 14
    assert not list((tmp_path / "parts" / "job").rglob("*.jsonl*"))


def test_buckets_follow_from_what_may_be_held(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(3000))
    (tmp_path / "b.tar").write_bytes(bytes(1000))
    tars = [tmp_path / "a.tar", tmp_path / "b.tar"]
    assert [publishing.buckets_for(tars, memory) for memory in (1 << 30, 8000, 7999, 1000)] == [1, 1, 2, 8]
    assert publishing.buckets_for([], 1000) == 1
