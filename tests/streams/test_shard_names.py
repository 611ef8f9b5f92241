"""What shards are called, and where folders are cut: neither depends on files elsewhere."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.streams.folder import FolderInput
from pipeline.streams.names import safe_component
from pipeline.streams.shard_names import cut_name, cuts, shard_names
from pipeline.streams.shards import WebDatasetInput
from tests.streams.made import lay, picture, tar_bytes

keys = st.lists(st.text("abcdef/0123456789", min_size=1, max_size=8), unique=True, max_size=60).map(sorted)


@pytest.mark.parametrize(
    ("urls", "patterns", "names"),
    [
        (["x/a.tar", "s3://y/b.tar.gz?v=1"], [], ["a", "b"]),
        (["in/a.tar", "in/b.tgz"], ["in/*.t*"], ["a", "b"]),
        (["in/x/a.tar"], ["in/*/*.tar"], ["x-a"]),
        (["in/x/a.tar", "in/y/a.tar"], ["in/*/*.tar"], ["x-a", "y-a"]),
        (["in/train/0.tar", "in/val/0.tar"], ["in/{train,val}/0.tar"], ["train-0", "val-0"]),
        (["s3://b/x/a.tar"], ["s3://b/*/a.tar"], ["x-a"]),
        (["in/...tar"], ["in/*.tar"], ["%2E%2E"]),
        (["in/..tar"], ["in/*.tar"], ["%2E"]),
        (["in/.tar"], ["in/.tar"], ["%2Etar"]),
        (["in/c.jsonl.gz", "in/d.tar.zst"], [], ["c", "d"]),
        (["in/con.tar"], [], ["%63on"]),
    ],
)
def test_a_shard_is_called_by_its_path_below_what_the_pattern_fixes(
    urls: list[str], patterns: list[str], names: list[str]
) -> None:
    assert shard_names(urls, patterns) == names


def test_only_files_that_would_have_one_name_get_a_hash() -> None:
    before = shard_names(["x/a.tar", "x/b.tar"], ["x/a.tar", "x/b.tar"])
    after = shard_names(["x/a.tar", "x/b.tar", "y/a.tar"], ["x/a.tar", "x/b.tar", "y/a.tar"])
    assert before == ["a", "b"]
    assert after[1] == "b"
    assert len(set(after)) == 3
    assert all(name.startswith("a-") for name in (after[0], after[2]))
    assert shard_names(["a.tar", "a.tgz"]) != ["a", "a"]


CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"]) | st.sampled_from("\udc80\udcff")


@given(st.lists(st.text(CHARACTERS, min_size=1, max_size=300), min_size=1, max_size=5, unique=True))
def test_shard_names_are_unique_and_safe(stems: list[str]) -> None:
    names = shard_names([f"in/{stem}.tar" for stem in stems], ["in/*.tar"])
    assert len(set(names)) == len(names)
    for name in names:
        assert name not in ("", ".", "..")
        assert not {"/", "\\", "\0"} & set(name)
        assert len(f"{name}.provenance.jsonl.part".encode()) < 255


@given(keys, st.integers(1, 9))
def test_cuts_cover_the_keys_and_leave_no_small_shard(found: list[str], size: int) -> None:
    starts = cuts(found, size)
    assert starts == sorted(set(starts))
    assert starts[:1] == ([0] if found else [])
    assert all(end - start > (size - 1) // 2 for start, end in itertools.pairwise(starts))
    if len(found) <= size // 2:
        assert len(starts) <= 1 or size == 1


def parts(found: list[str], size: int) -> dict[str, tuple[str, ...]]:
    starts = cuts(found, size)
    ends = [*starts[1:], len(found)]
    return {cut_name(found[s]) if s else "first": tuple(found[s:e]) for s, e in zip(starts, ends, strict=True)}


@given(keys.filter(bool), st.text("abcdef/0123456789", min_size=1, max_size=8), st.integers(1, 9))
def test_a_key_more_changes_only_shards_nearby(found: list[str], more: str, size: int) -> None:
    if more in found:
        return
    reach = (size - 1) // 2
    both = sorted([*found, more])
    at = both.index(more)
    before, after = parts(found, size), parts(both, size)
    for name in before.keys() | after.keys():
        if before.get(name) != after.get(name):
            changed = {*before.get(name, ()), *after.get(name, ())}
            reached = both[max(0, at - 2 * reach - 1) : at + 2 * reach + 2]
            assert changed & set(reached) or more in changed


def test_sizes_are_about_what_was_asked_for() -> None:
    found = [f"{i:06d}" for i in range(50_000)]
    starts = cuts(found, 100)
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    assert 90 < sum(sizes) / len(sizes) < 110
    assert max(sizes) < 500


def test_an_image_more_changes_one_shard_of_a_folder(tmp_path: Path) -> None:
    root = lay(tmp_path / "set", {f"a/{i:03d}.png": picture(i) for i in range(40)})
    before = {shard.name: shard.fingerprint() for shard in FolderInput(path=str(root), shard_size=7).open().shards}
    lay(root, {"a/020b.png": picture(99)})
    after = {shard.name: shard.fingerprint() for shard in FolderInput(path=str(root), shard_size=7).open().shards}
    assert len(before) > 4
    assert len({name for name in before if after.get(name) != before[name]}) <= 2
    lay(root, {"a/!first.png": picture(99)})
    assert before.keys() - {s.name for s in FolderInput(path=str(root), shard_size=7).open().shards} == set()


def test_another_folder_of_tars_renames_nothing(tmp_path: Path) -> None:
    content = tar_bytes([("a.png", picture(1))])
    lay(tmp_path, {"x/a0.tar": content, "x/a1.tar": content})
    source = WebDatasetInput(urls=(str(tmp_path / "*" / "*.tar"),))
    before = [shard.name for shard in source.open().shards]
    lay(tmp_path, {"y/a0.tar": content})
    assert [shard.name for shard in source.open().shards] == [*before, "y-a0"]


def test_the_name_of_a_folder_is_safe(tmp_path: Path) -> None:
    root = lay(tmp_path / "...", {"a.png": picture(1)})
    (shard,) = FolderInput(path=str(root)).open().shards
    assert shard.name == safe_component("...-000000000000")
