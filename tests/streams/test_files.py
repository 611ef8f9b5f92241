"""Files by URL: patterns, names, fingerprints."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import fsspec
import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from pipeline.errors import UserError
from pipeline.streams import INPUTS, WRITERS, AnyInput, files, open_writer
from pipeline.streams.contract import InputStream
from pipeline.streams.files import (
    HashedReader,
    content_hash,
    count_braces,
    expand_urls,
    fingerprint,
    is_damage,
    open_url,
)
from pipeline.streams.shards import WebDatasetInput
from tests.streams.made import disk, folders, picture, samples, tar_bytes


@pytest.fixture
def three(tmp_path: Path) -> Path:
    for name in ("a-0.tar", "a-1.tar", "b[1].tar"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_patterns_expand_in_the_order_given(three: Path) -> None:
    a0, a1, b = (str(three / n) for n in ("a-0.tar", "a-1.tar", "b[1].tar"))
    assert expand_urls([b, str(three / "a-{1..0}.tar")]) == [b, a1, a0]
    assert expand_urls([str(three / "a-*.tar")]) == [a0, a1]
    assert expand_urls([str(three / "a-[0].tar")]) == [a0]


@pytest.mark.parametrize("pattern", ["missing.tar", "missing-*.tar", "a-{0..2}.tar", "a-{0.tar"])
def test_patterns_that_match_nothing_are_named(three: Path, pattern: str) -> None:
    with pytest.raises(UserError, match=r"input\.urls: '.*(missing|a-)"):
        expand_urls([str(three / pattern)])


def test_relative_globs_start_here(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(three)
    assert expand_urls(["a-*.tar"]) == ["a-0.tar", "a-1.tar"]


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..99999999}.tar",
        "{0..999}{0..999}{0..999}.tar",
        "{a{0..9999999},b}.tar",
        "{-9999999..9999999..2}",
        "{a,b}" * 30,
    ],
)
def test_patterns_are_counted_before_they_are_expanded(pattern: str) -> None:
    started = time.monotonic()
    tracemalloc.start()
    with pytest.raises(UserError, match=r"input\.urls: '.*' stands for .* files; input\.bounds\.files allows 1000000"):
        expand_urls([pattern])
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("pattern", ["{" * 5000 + "}" * 5000, "{0.." + "9" * 5000 + "}", "{" * 5000, "{a,b", "a}"])
def test_patterns_that_mean_nothing_are_one_sentence(pattern: str) -> None:
    with pytest.raises(UserError, match=r"input\.urls: '") as caught:
        expand_urls([pattern])
    assert len(str(caught.value)) < 300


def test_the_bound_on_files_is_an_option_of_the_input(three: Path) -> None:
    def opened(urls: str | tuple[str, ...], files: int) -> int:
        given = {"urls": [str(three / url) for url in ([urls] if isinstance(urls, str) else urls)]}
        return len(WebDatasetInput.model_validate({**given, "bounds": {"files": files}}).open().shards)

    assert opened("a-*.tar", 2) == opened("a-{0..1}.tar", 2) == opened(("a-0.tar", "a-1.tar"), 2) == 2
    for urls in ("a-*.tar", "a-{0..1}.tar", ("a-0.tar", "a-1.tar"), ("a-0.tar", "*.tar")):
        with pytest.raises(UserError, match=r"input\.bounds\.files allows"):
            opened(urls, 1)


PIECES = st.recursive(
    st.sampled_from(["a", "", "{1..3}", "{5..-2}", "{0..9..3}", "{a..c}", "\\{", "\\,", "{}", "{a}"]),
    lambda below: (
        st.lists(below, min_size=1, max_size=3).map("".join)
        | st.lists(below, min_size=1, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}")
    ),
    max_leaves=8,
)


@given(PIECES)
def test_the_count_is_no_less_than_what_comes_out(pattern: str) -> None:
    try:
        names = list(braceexpand(pattern))
    except ValueError:
        return
    assert len(names) <= count_braces(pattern) * (26 ** pattern.count("{a..c}"))
    if "{a..c}" not in pattern:
        assert count_braces(pattern) <= 2 * len(names)


def test_a_fingerprint_changes_when_the_file_does(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    first = fingerprint(str(path))
    assert fingerprint(str(path)) == first
    path.write_bytes(b"2")
    assert fingerprint(str(path)) != first
    assert content_hash(str(path)) == hashlib.sha256(b"2").hexdigest()


def test_remote_files_are_read_by_url() -> None:
    memory = fsspec.filesystem("memory")
    content = tar_bytes([("a.png", picture(1)), ("a.cls", b"1")])
    for i in range(2):
        memory.pipe(f"/set/s-{i}.tar", content)
    stream = WebDatasetInput(urls=("memory://set/s-*.tar",)).open()
    assert [shard.name for shard in stream.shards] == ["s-0", "s-1"]
    shard = stream.shards[1]
    assert [s.image for s in samples(shard)] == [picture(1)]
    assert shard.content_hash() == hashlib.sha256(content).hexdigest()
    before = shard.fingerprint()
    memory.pipe("/set/s-1.tar", content + bytes(512))
    assert shard.fingerprint() != before


def test_the_hub_is_asked_for_the_hash_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hub:
        def info(self, path: str) -> dict[str, object]:
            return {"lfs": {"sha256": "ab"} if path == "big" else None}

    monkeypatch.setattr(files, "file_system_at", lambda url: (Hub(), url.rpartition("/")[2]))
    assert files.stored_sha256("hf://datasets/u/s@0/big") == "ab"
    assert files.stored_sha256("hf://datasets/u/s@0/small") is None
    assert files.stored_sha256("/local/big") is None


@pytest.mark.parametrize(
    ("error", "local", "damage"),
    [
        (ValueError("bad"), False, True),
        (zlib.error("bad"), False, True),
        (EOFError(), False, True),
        (OSError("Corrupt snappy compressed data"), True, True),
        (OSError("connection lost"), False, False),
        (OSError(5, "input/output error"), True, False),
        (ConnectionResetError(), True, False),
        (TypeError("code"), True, False),
    ],
)
def test_damage_is_told_from_storage_that_fails(error: Exception, local: bool, damage: bool) -> None:
    assert is_damage(error, local=local) is damage


def test_the_registry_of_inputs_is_the_union_that_configurations_take(tmp_path: Path) -> None:
    adapter: TypeAdapter[BaseModel] = TypeAdapter(AnyInput)
    for name, kind in INPUTS.items():
        value = {"format": name, "urls" if name in ("webdataset", "captions") else "path": "x"}
        assert type(adapter.validate_python(value)) is kind
    with pytest.raises(ValidationError, match="'webdataset', 'hub', 'folder'"):
        adapter.validate_python({"format": "zip", "path": "x"})
    with pytest.raises(ValidationError, match="extra"):
        adapter.validate_python({"format": "folder", "path": "x", "shards": 3})


def test_an_unknown_output_format_lists_the_known_ones(tmp_path: Path) -> None:
    data, parts = folders(tmp_path)
    with pytest.raises(UserError, match=r"'zip' is unknown \(known: webdataset, parquet, folder\)"):
        open_writer("zip", store=disk(data), parts=parts, name="x", stream=InputStream(shards=[]))
    for name in WRITERS:
        open_writer(name, store=disk(data), parts=parts, name="x", stream=InputStream(shards=[])).abort()
        assert not list(parts.iterdir())


def test_importing_streams_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'datasets', 'pyarrow', 'webdataset', 'fsspec', 'numpy'}"
    code = f"import sys, pipeline.streams; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("url", ["nosuch://bucket/a.tar", "nosuch://bucket/*.tar"])
def test_a_protocol_that_is_not_there_is_one_sentence(url: str) -> None:
    with pytest.raises(UserError, match="nosuch") as caught:
        [open_url(found) for found in expand_urls([url])]
    assert url in str(caught.value)


def test_a_hash_is_complete_only_where_the_end_was_seen_since_the_start() -> None:
    reader = HashedReader(io.BytesIO(b"abc"))
    for read, complete in ((2, False), (0, False), (2, False), (0, False), (1, True), (0, False), (1, True)):
        reader.read(read)
        assert reader.sha256() == (hashlib.sha256(b"abc").hexdigest() if complete else None), read
    reader.seek(0)
    assert reader.sha256() is None
    reader.read()
    assert reader.sha256() == hashlib.sha256(b"abc").hexdigest()
