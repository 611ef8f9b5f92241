"""Folders of images in and out."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.streams import open_writer
from pipeline.streams.contract import InputStream
from pipeline.streams.folder import FolderInput
from pipeline.streams.names import text_of
from pipeline.streams.shards import WebDatasetInput
from tests.streams.made import disk, everything, folders, lay, picture, rejected, tree, write


def copied(stream: InputStream, root: Path, format: str = "folder") -> Path:
    data, parts = folders(root)
    for shard in stream.shards:
        items = [item for item in shard.read() if isinstance(item, Sample)]
        write(open_writer(format, store=disk(data), parts=parts, name=shard.name, stream=stream), items)
    assert not list(parts.iterdir())
    return data


SOURCE = {
    "dog/2.jpg": b"d2",
    "cat/001.jpg": b"c1",
    "cat/001.txt": b"tabby",
    "cat/001.meta.json": b"{}",
    "cat/IMG.2020.PNG": b"c2",
    "cat/IMG.2020.txt": b"dotted",
    "cat/IMG.jpg": b"c3",
    "cat/IMG.json": b"[]",
    "root.png": b"r",
}


def test_a_folder_gives_keys_labels_and_sidecars(tmp_path: Path) -> None:
    stream = FolderInput(path=str(lay(tmp_path / "set", SOURCE))).open()
    assert stream.label_names == ("cat", "dog")
    found = {s.key: s for s in everything(stream)}
    assert list(found) == ["cat/001", "cat/IMG", "cat/IMG.2020", "dog/2", "root"]
    assert found["cat/001"].members == {"cls": b"0", "txt": b"tabby", "meta.json": b"{}"}
    assert found["cat/IMG.2020"].members == {"cls": b"0", "txt": b"dotted"}
    assert found["cat/IMG.2020"].image_ext == "PNG"
    assert found["cat/IMG"].members == {"cls": b"0", "json": b"[]"}
    assert [(s.label, s.image) for s in found.values()] == [
        (0, b"c1"),
        (0, b"c3"),
        (0, b"c2"),
        (1, b"d2"),
        (None, b"r"),
    ]
    assert found["root"].members == {}


def test_labels_can_be_left_out(tmp_path: Path) -> None:
    stream = FolderInput(path=str(lay(tmp_path, SOURCE)), labels="none").open()
    assert stream.label_names is None
    assert {s.label for s in everything(stream)} == {None}
    assert not any("cls" in s.members for s in everything(stream))


def test_shards_are_consecutive_chunks_of_the_sorted_folder(tmp_path: Path) -> None:
    lay(tmp_path / "my set", {f"{i:03d}.png": b"x" for i in range(20)})
    stream = FolderInput(path=str(tmp_path / "my set"), shard_size=3).open()
    assert stream.shards[0].name == "my set-000000000000"
    assert len({s.name for s in stream.shards}) == len(stream.shards) > 3
    assert [s.key for s in everything(stream)] == [f"{i:03d}" for i in range(20)]


def test_two_images_of_one_name_are_told_even_across_shards(tmp_path: Path) -> None:
    lay(tmp_path, {"a.jpg": b"1", "a.k.jpg": b"2", "a.png": b"3"})
    stream = FolderInput(path=str(tmp_path), shard_size=1).open()
    items = [item for shard in stream.shards for item in shard.read()]
    assert [item.key for item in items if isinstance(item, Sample)] == ["a", "a.k"]
    (bad,) = rejected(items)
    assert (bad.key, bad.kind, bad.members) == ("a", "refused", {"png": b"3"})


def test_what_is_skipped_is_what_the_rules_say(tmp_path: Path) -> None:
    lay(tmp_path / "outside", {"secret.png": b"s", "deep/x.png": b"x"})
    root = lay(tmp_path / "set", {"a.png": b"a", "notes.txt": b"", ".hidden.png": b"", ".git/x.png": b""})
    (root / "away.png").symlink_to(tmp_path / "outside" / "secret.png")
    (root / "a.txt").symlink_to(tmp_path / "outside" / "secret.png")
    (root / "far").symlink_to(tmp_path / "outside" / "deep")
    (root / "near.png").symlink_to(root / "a.png")
    os.mkfifo(root / "pipe.png")
    found = everything(FolderInput(path=str(root)).open())
    assert [(s.key, s.image, s.members) for s in found] == [("a", b"a", {}), ("near", b"a", {})]


def test_files_that_cannot_be_read_or_named_are_rejected(tmp_path: Path) -> None:
    lay(tmp_path, {"a.png": b"a", "gone.png": b"", "back\\slash.png": b"", "new\nline.png": b""})
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nothing.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).write_bytes(b"")
    stream = FolderInput(path=str(tmp_path)).open()
    (tmp_path / "gone.png").unlink()
    items = list(stream.shards[0].read())
    assert [item.key for item in items if isinstance(item, Sample)] == ["a"]
    assert {bad.key: bad.kind for bad in rejected(items)} == {
        "gone": "undecodable", "dangling": "undecodable", "back\\slash": "refused", "new\nline": "refused",
        "\\udcff": "refused",
    }  # fmt: skip


def test_extensions_are_a_choice(tmp_path: Path) -> None:
    lay(tmp_path, {"a.PGM": b"a", "b.png": b"b"})
    assert [s.key for s in everything(FolderInput(path=str(tmp_path), extensions=(".pgm",)).open())] == ["a"]
    with pytest.raises(UserError, match=r"no image in .* \(extensions: jxl, layout: classes\)"):
        FolderInput(path=str(tmp_path), extensions=("jxl",)).open()
    with pytest.raises(UserError, match="'/no/where' is not a folder"):
        FolderInput(path="/no/where").open()


@pytest.mark.parametrize("changed", ["cat/001.jpg", "cat/001.txt"])
def test_fingerprint_and_hash_follow_images_and_sidecars(tmp_path: Path, changed: str) -> None:
    def both() -> tuple[str, str]:
        (shard,) = FolderInput(path=str(tmp_path)).open().shards
        return shard.fingerprint(), shard.content_hash()

    lay(tmp_path, SOURCE)
    before = both()
    assert both() == before
    lay(tmp_path, {changed: b"c9"})
    assert both()[0] != before[0]
    assert both()[1] != before[1]


def test_a_folder_comes_back_as_it_was(tmp_path: Path) -> None:
    source = dict(SOURCE)
    stream = FolderInput(path=str(lay(tmp_path / "set", source)), shard_size=2).open()
    assert tree(copied(stream, tmp_path / "out")) == source


def test_dotted_keys_survive_a_tar(tmp_path: Path) -> None:
    stream = FolderInput(path=str(lay(tmp_path / "set", SOURCE | {"dog/100%.2E.jpg": b"%"}))).open()
    tars = copied(stream, tmp_path / "tar", "webdataset")
    middle = WebDatasetInput(urls=(str(tars / "*.tar"),), label_names=stream.label_names).open()
    assert [s.image for s in everything(middle)] == [s.image for s in everything(stream)]
    assert "cat/IMG%2E2020" in [s.key for s in everything(middle)]
    (shard,) = middle.shards  # keys of tars may repeat, so that its name stands before them
    found = {name.replace(f"{shard.name}%2F", "").removeprefix(f"{shard.name}/"): content
             for name, content in tree(copied(middle, tmp_path / "out")).items()}  # fmt: skip
    assert found == SOURCE | {"dog/100%25.2E.jpg": b"%"}


names = st.from_regex(r"[A-Za-z0-9%][A-Za-z0-9 ._%-]{0,6}", fullmatch=True).filter(lambda n: n.strip() == n)


@settings(max_examples=40)
@given(st.dictionaries(st.tuples(names, names), st.binary(max_size=8), min_size=1, max_size=6))
def test_any_folder_of_classes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, str], bytes]
) -> None:
    root = tmp_path_factory.mktemp("any")
    source = {f"{folder}/{name}.jpg": content for (folder, name), content in files.items()}
    stream = FolderInput(path=str(lay(root / "set", source))).open()
    assert not any(isinstance(item, Rejected) for shard in stream.shards for item in shard.read())
    found = tree(copied(stream, root / "out")).items()
    assert {
        "/".join(map(text_of, path.removesuffix(".jpg").split("/"))) + ".jpg": held for path, held in found
    } == source


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"member_bytes": 1000}, r"input\.bounds\.member_bytes allows, 1000 bytes: 'a\.(bin|png)'"),
        ({"sample_bytes": 1000}, r"input\.bounds\.sample_bytes allows, 1000 bytes: 'a\.(bin|png)'"),
        ({"sample_members": 2}, r"it has 3 files; input\.bounds\.sample_members allows 2"),
    ],
)
@pytest.mark.parametrize("huge", ["a.bin", "a.png"])
def test_a_sample_over_a_bound_is_one_rejected_row(
    tmp_path: Path, bounds: dict[str, int], reason: str, huge: str
) -> None:
    lay(tmp_path, {"a.png": picture(1), "a.bin": b"", "a.txt": b"t", "b.png": picture(2)})
    with open(tmp_path / huge, "r+b") as file:
        file.truncate(1 << 40)  # it takes no room on the disk
    (shard,) = FolderInput.model_validate({"path": str(tmp_path), "bounds": bounds}).open().shards
    bad, good = shard.read()
    assert isinstance(bad, Rejected)
    assert isinstance(good, Sample)
    assert bad.kind == "undecodable"
    assert re.search(reason, bad.reason), bad.reason
    assert sum(map(len, bad.members.values())) < 1000
