"""Captions as samples: every line is one, good or rejected, whatever is in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import validate
from pipeline.errors import UserError
from pipeline.job.captions import CaptionConfig, read_captions
from pipeline.media.pixels import decode
from pipeline.media.records import Rejected, Sample
from pipeline.media.rules import PixelRules
from pipeline.streams import INPUTS, open_writer
from pipeline.streams.bounds import Bounds
from pipeline.streams.captions import CaptionShard, CaptionsInput
from pipeline.streams.compressed import Damage
from pipeline.streams.files import HashedReader
from pipeline.streams.lines import read_lines
from pipeline.streams.shards import WebDatasetInput
from tests.streams.made import disk, everything, folders, lay, rejected, samples, write
from tests.streams.squeezed import WAYS, Squeeze, every_way


def lines(*contents: object) -> bytes:
    return b"".join(json.dumps(content).encode() + b"\n" for content in contents)


def shard(root: Path, content: bytes, name: str = "edits.jsonl", **options: Any) -> CaptionShard:
    (root / name).write_bytes(content)
    (only,) = CaptionsInput(urls=(str(root / name),), **options).open().shards
    assert isinstance(only, CaptionShard)
    return only


def one(root: Path, line: bytes, **options: Any) -> Sample | Rejected:
    (item,) = shard(root, line, **options).read()
    return item


def test_every_line_is_a_sample_with_its_caption_and_itself(tmp_path: Path) -> None:
    content = lines({"id": "a", "caption": "One Cat", "edited": "one dog"}, {"id": 7, "caption": "zwei Äpfel"})
    first, second = samples(shard(tmp_path, content))
    assert (first.key, second.key) == ("a", "7")
    assert first.members == {"json": content.splitlines()[0], "txt": b"One Cat"}
    assert second.members["txt"].decode() == "zwei Äpfel"
    assert (first.label, first.image_ext, first.origin) == (None, "png", "edits:line 1")
    assert first.image == second.image


def test_the_image_is_a_small_grey_one_in_colour(tmp_path: Path) -> None:
    (sample,) = samples(shard(tmp_path, lines({"caption": "x"})))
    image = Image.open(io.BytesIO(sample.image))
    assert image.format == "PNG"
    pixels, frame = decode(sample.image, (8, 6), PixelRules(fit="crop"))
    assert pixels.shape == (8, 6, 3)
    assert pixels.min() == pixels.max() == 128
    assert frame.mode == "RGB"  # else outputs in the source's mode would lose their colours


def test_lines_without_id_are_numbered_as_an_editor_does(tmp_path: Path) -> None:
    content = b'{"caption": "one"}\r\n\n  \n{"caption": "four"}'
    read = samples(shard(tmp_path, content))
    assert [(s.key, s.members["txt"]) for s in read] == [("edits-000001", b"one"), ("edits-000004", b"four")]
    assert read[0].members["json"] == b'{"caption": "one"}'


def test_the_fields_have_other_names(tmp_path: Path) -> None:
    content = lines({"name": "n", "text": "said", "id": "i", "caption": "c"})
    (sample,) = samples(shard(tmp_path, content, prompt="text", id="name"))
    assert (sample.key, sample.members["txt"]) == ("n", b"said")


def test_a_list_of_captions_stays_in_its_line(tmp_path: Path) -> None:
    line = b'{"caption": ["a cat", "a dog"]}'
    (sample,) = samples(shard(tmp_path, line))
    assert sample.members == {"json": line}
    config = CaptionConfig.model_validate({"template": "{json:caption}", "pick": "each"})
    assert read_captions(config, sample, None, [0, 0]).texts == ("a cat", "a dog")


@pytest.mark.parametrize(
    ("line", "reason", "kind"),
    [
        (b"{", "not valid JSON", "undecodable"),
        (b'{"caption": "\xff"}', "not valid JSON", "undecodable"),
        (b"[" * 100_000, "not valid JSON", "undecodable"),
        (b'{"caption": "x", "id": ' + b"9" * 5000 + b"}", "not valid JSON", "undecodable"),
        (b'["caption"]', "JSON object", "undecodable"),
        (b'"caption"', "JSON object", "undecodable"),
        (b"{}", "'caption' is missing", "refused"),
        (b'{"caption": 3}', "must be text or a list of texts, found 3", "refused"),
        (b'{"caption": ["a", 3]}', "must be text or a list of texts", "refused"),
        (b'{"caption": []}', "is empty", "refused"),
        (b'{"caption": ["a", " "]}', "is empty", "refused"),
        (b'{"caption": null}', "must be text", "refused"),
        (b'{"caption": " "}', "is empty", "refused"),
        (b'{"caption": "\\ud800"}', "surrogate", "refused"),
    ],
)
def test_bad_lines_are_rejected_with_their_bytes(tmp_path: Path, line: bytes, reason: str, kind: str) -> None:
    good = b'{"caption": "good"}'
    items = list(shard(tmp_path, b"\n".join([good, line, good])).read())
    assert [item.key for item in items] == ["edits-000001", "edits-000002", "edits-000003"]
    (bad,) = rejected(items)
    assert reason in bad.reason
    assert (bad.kind, bad.origin, bad.members) == (kind, "edits:line 2", {"line": line})


LONGEST_KEY, LONGEST_LINE = Bounds().key_bytes, Bounds().line_bytes
KEYS = ["", "/etc/x", "../x", "a/../b", "C:\\x", "a\nb", "a/", "\ud800", "k" * (LONGEST_KEY + 1), None, True, 1.5, []]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_keys_that_cannot_name_a_sample_are_refused(tmp_path: Path, key: object) -> None:
    item = one(tmp_path, lines({"id": key, "caption": "x"}))
    assert isinstance(item, Rejected)
    assert item.kind == "refused"
    assert "key" in item.reason


def test_the_second_of_two_equal_keys_is_refused(tmp_path: Path) -> None:
    content = lines(*({"id": i, "caption": c} for i, c in ((1, "a"), ("1", "b"), ("edits-000004", "c"))))
    items = list(shard(tmp_path, content + b'{"caption": "d"}').read())
    assert [item.key for item in items if isinstance(item, Sample)] == ["1", "edits-000004"]
    assert [bad.origin for bad in rejected(items) if "duplicate" in bad.reason] == ["edits:line 2", "edits:line 4"]


def test_a_line_over_the_limit_is_refused_and_its_neighbours_are_not(tmp_path: Path) -> None:
    def padded(size: int) -> bytes:
        return b'{"caption": "%s"}' % (b"x" * (size - len(b'{"caption": ""}')))

    content = padded(LONGEST_LINE) + b"\r\n" + padded(LONGEST_LINE + 1) + b"\n" + padded(30)
    first, second, third = shard(tmp_path, content).read()
    assert isinstance(first, Sample)
    assert isinstance(second, Rejected)
    assert f"{LONGEST_LINE + 1} bytes" in second.reason
    assert padded(LONGEST_LINE + 1).startswith(second.members["line"])
    assert len(second.members["line"]) < 5000
    assert isinstance(third, Sample)


def test_memory_does_not_grow_with_the_length_of_a_line(tmp_path: Path) -> None:
    source = shard(tmp_path, gzip.compress(bytes(60 << 20), 1))
    tracemalloc.start()
    try:
        (item,) = source.read()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(item, Rejected)
    assert f"{60 << 20} bytes" in item.reason
    assert peak < 10 << 20


@given(content=st.lists(st.sampled_from([b"ab", b"\n", b"\r\n", b"", b"x" * 20, b"\r"])).map(b"".join))
def test_lines_are_those_of_splitting_at_newlines_for_any_chunk(content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for chunk in (1, 3, 1000):
            patch.setattr("pipeline.streams.compressed.CHUNK", chunk)
            found = list(read_lines(io.BytesIO(content), 10))
            *ended, rest = content.split(b"\n")
            expected = [line.removesuffix(b"\r") for line in ended] + ([rest] if rest else [])
            assert len(found) == len(expected)
            for line, whole in zip(found, expected, strict=True):
                assert not isinstance(line, Damage)
                if line.too_long:
                    assert whole.startswith(line.start[:10])
                    assert line.size >= len(whole) > 10 or whole == line.start
                else:
                    assert (line.start, line.size) == (whole, len(whole))


@given(line=st.binary(max_size=40) | st.text(max_size=20).map(lambda t: json.dumps({"caption": t, "id": t}).encode()))
def test_no_line_is_a_crash(line: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    for item in shard(tmp_path_factory.mktemp("any"), line).read():
        assert isinstance(item, Sample | Rejected)


@pytest.mark.parametrize("squeeze", [bytes, *WAYS.values()], ids=["plain", *WAYS])
def test_plain_and_compressed_files_read_alike_and_are_hashed_on_the_way(
    tmp_path: Path, squeeze: Squeeze, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = squeeze(lines(*({"caption": f"c{i}"} for i in range(50))))
    for name in ("e.jsonl", "e.jsonl.gz", "e.jsonl.zst"):
        source = shard(tmp_path, data, name=name)
        assert source.name == "e"
        truth = hashlib.sha256(data).hexdigest()
        next(source.read())  # begun and left: not enough to know
        assert source.content_hash() == truth
        assert [s.key for s in samples(source)][-1] == "e-000050"
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.streams.captions.content_hash", lambda url: "read a second time")
            assert source.content_hash() == truth


@every_way
def test_a_damaged_file_gives_what_came_before_and_tells_of_the_damage(tmp_path: Path, squeeze: Squeeze) -> None:
    whole = lines(*({"caption": hashlib.sha256(b"%d" % i).hexdigest()} for i in range(40_000)))
    squeezed = squeeze(whole)
    content = squeezed[: len(squeezed) * 3 // 4]
    source = shard(tmp_path, content)
    items = list(source.read())
    (bad,) = rejected(items)
    assert items[-1] is bad
    assert 17_000 < len(items) < 32_000
    assert f"nothing can be read from line {len(items)} on" in bad.reason
    assert (bad.kind, bad.key) == ("damaged", "")
    assert source.content_hash() == hashlib.sha256(content).hexdigest()


def test_a_wrong_checksum_behind_the_last_line_is_damage(tmp_path: Path) -> None:
    """zlib gives all but the last byte, which costs the last line."""
    flipped = bytearray(gzip.compress(lines({"caption": "x"}, {"caption": "y"})))
    flipped[-6] ^= 1
    good, bad = shard(tmp_path, bytes(flipped)).read()
    assert isinstance(good, Sample)
    assert isinstance(bad, Rejected)
    assert bad.kind == "damaged"


def test_an_archive_in_place_of_text_is_named(tmp_path: Path) -> None:
    (bad,) = rejected(shard(tmp_path, b"PK\x03\x04" + bytes(100)).read())
    assert "the file is a zip archive" in bad.reason
    assert bad.kind == "damaged"


@pytest.mark.parametrize(("bound", "size"), [("line_bytes", 50), ("key_bytes", 4)])
def test_the_bounds_of_lines_and_keys_are_settings(tmp_path: Path, bound: str, size: int) -> None:
    content = lines({"id": "abcde", "caption": "x" * 40})
    assert isinstance(one(tmp_path, content), Sample)
    item = one(tmp_path, content, bounds={bound: size})
    assert isinstance(item, Rejected)
    assert str(size) in item.reason


def test_storage_that_fails_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shard(tmp_path, lines({"caption": "x"}))

    def fail(self: HashedReader, size: int = -1) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(HashedReader, "read", fail)
    with pytest.raises(OSError, match="Input/output"):
        list(source.read())


def test_shards_are_named_after_files_without_their_ending(tmp_path: Path) -> None:
    line = lines({"caption": "x"})
    lay(tmp_path, {"a.jsonl": line, "b.c.jsonl.gz": gzip.compress(line), "d/a.jsonl": line})
    stream = CaptionsInput(urls=(f"{tmp_path}/*.jsonl*",)).open()
    assert [s.name for s in stream.shards] == ["a", "b.c"]
    both = CaptionsInput(urls=(f"{tmp_path}/a.jsonl", f"{tmp_path}/d/a.jsonl")).open()
    assert [s.name[:2] for s in both.shards] == ["a-", "a-"]
    assert len({s.key for s in everything(both)}) == 2


def test_a_touched_file_has_another_fingerprint(tmp_path: Path) -> None:
    source = shard(tmp_path, lines({"caption": "x"}))
    before = source.fingerprint()
    assert source.fingerprint() == before
    (tmp_path / "edits.jsonl").write_bytes(lines({"caption": "y", "more": 1}))
    assert source.fingerprint() != before


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"urls": "nowhere-*.jsonl"}, "input.urls: 'nowhere-[*].jsonl' matches no file"),
        ({"urls": "nowhere.jsonl"}, "input.urls: 'nowhere.jsonl' matches no file"),
        ({"urls": "x.jsonl", "promt": "caption"}, "did you mean 'prompt'"),
        ({}, "urls is missing"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence(options: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(INPUTS["captions"], {"format": "captions", **options}, "test").open()


@pytest.mark.parametrize("format", ["webdataset", "parquet", "folder"])
def test_every_writer_takes_them(tmp_path: Path, format: str) -> None:
    contents = [{"id": "a.b/c.d", "caption": "x"}, {"id": "k" * LONGEST_KEY, "caption": "y"}, {"caption": "z"}]
    (tmp_path / "e.jsonl").write_bytes(lines(*contents))
    stream = CaptionsInput(urls=(f"{tmp_path}/e.jsonl",)).open()
    data, parts = folders(tmp_path / "out")
    data.mkdir()
    write(
        open_writer(format, store=disk(data), parts=parts, name="e", stream=stream),
        everything(stream),
    )
    if format == "webdataset":
        back = everything(WebDatasetInput(urls=(f"{data}/e.tar",)).open())
        assert [s.key for s in back] == ["a.b/c%2Ed", "k" * LONGEST_KEY, "e-000003"]
        assert [s.members["txt"] for s in back] == [b"x", b"y", b"z"]
