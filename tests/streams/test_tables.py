"""Parquet and Arrow files of any size and in any state: little memory, every row in its place, damage told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.streams import files, tables
from pipeline.streams.arrow_messages import unpacked_bytes
from pipeline.streams.hub import HubInput
from pipeline.streams.own_files import OwnFiles
from pipeline.streams.remote import Unreachable
from pipeline.streams.rows import FileShard
from tests.streams.hub_set import made
from tests.streams.made import picture, rejected, samples

ROOT = Path(__file__).resolve().parents[2]
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

PEAK = """
import json, sys
from pathlib import Path
from pipeline.streams.arrow_messages import unpacked_bytes
from pipeline.streams.hub import HubInput

def memory(entry):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(entry)).split()[1]) << 10

def read(options):
    rows, private = 0, 0
    for shard in HubInput.model_validate({"image": "image", **options}).open().shards:
        for item in shard.read():
            rows += hasattr(item, "image")
            private = max(private, memory("RssAnon"))
    return rows, private

warm, *cases = json.loads(sys.argv[1])
read(warm)
for options in cases:
    Path("/proc/self/clear_refs").write_text("5")
    before, quiet = memory("VmRSS"), memory("RssAnon")
    rows, private = read(options)
    print(json.dumps([rows, memory("VmHWM") - before, private - quiet]))
"""


def peaks(warm: Path, *cases: dict[str, Any]) -> list[list[int]]:
    """[rows, bytes of memory at the peak, bytes that are not mapped from files] of each case, in one fresh process."""
    arguments = json.dumps([{"path": str(warm)}, *cases])
    done = subprocess.run([sys.executable, "-c", PEAK, arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def images(rows: int, size: int) -> pa.Table:
    """Rows of `size` bytes that no compression makes smaller."""
    import random

    noise = random.Random(0).randbytes(size)
    cells = [{"bytes": i.to_bytes(4, "big") + noise[4:], "path": None} for i in range(rows)]
    return pa.table({"image": pa.array(cells, IMAGE)})


MB = 1 << 20


def test_little_of_a_large_row_group_is_in_memory(tmp_path: Path) -> None:
    pq.write_table(images(2, 100), tmp_path / "warm.parquet")
    table = images(120, MB)
    pq.write_table(table, tmp_path / "group.parquet", write_batch_size=4)
    with pa.ipc.new_stream(tmp_path / "batch.arrow", table.schema) as stream:
        stream.write_batch(table.combine_chunks().to_batches()[0])
    alike = pa.table({"image": pa.array([{"bytes": bytes(8 * MB), "path": None}] * 60, IMAGE)})
    pq.write_table(alike, tmp_path / "dictionary.parquet", compression="zstd")
    group, batch, dictionary = peaks(
        tmp_path / "warm.parquet",
        *({"path": str(tmp_path / f)} for f in ("group.parquet", "batch.arrow", "dictionary.parquet")),
    )
    assert group[0] == batch[0] == 120
    assert group[1] < 60 * MB  # 120 MB of images, in pages of 4 MB
    assert batch[2] < 30 * MB
    assert dictionary[0] == 60
    assert dictionary[1] < 100 * MB  # 480 MB, all of which is one value


def test_a_page_that_grows_in_memory_is_refused_before_it_does(tmp_path: Path) -> None:
    pq.write_table(images(2, 100), tmp_path / "warm.parquet")
    bomb = pa.table({"image": pa.array([{"bytes": bytes(100 * MB), "path": None}], IMAGE)})
    pq.write_table(bomb, tmp_path / "bomb.parquet", compression="zstd", use_dictionary=False, write_statistics=False)
    assert (tmp_path / "bomb.parquet").stat().st_size < MB
    options = {"path": str(tmp_path / "bomb.parquet"), "bounds": {"page_bytes": 10 * MB}}
    ((rows, peak, _),) = peaks(tmp_path / "warm.parquet", options)
    assert rows == 0
    assert peak < 40 * MB
    (shard,) = HubInput.model_validate({"image": "image", **options}).open().shards
    (lost,) = rejected(shard.read())
    assert lost.kind == "damaged"
    assert "1 rows from 0 on are lost (a page of column image.bytes has 1048576" in lost.reason
    assert "input.bounds.page_bytes allows 10485760" in lost.reason


def test_a_footer_over_the_bound_is_not_read(tmp_path: Path, parquet: Path) -> None:
    options = {"path": str(parquet / "part-0.parquet"), "bounds": {"footer_bytes": 100}}
    with pytest.raises(UserError, match=r"bytes; input\.bounds\.footer_bytes allows 100"):
        HubInput.model_validate(options).open()
    whole = (parquet / "part-0.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole)
    (tmp_path / "b.parquet").write_bytes(whole[:-8] + (1 << 28).to_bytes(4, "little") + b"PAR1")
    good, bad = HubInput(path=str(tmp_path)).open().shards
    assert len(samples(good)) == 5
    (lost,) = rejected(bad.read())
    assert lost.kind == "damaged"
    assert "its footer has 268435456 bytes; input.bounds.footer_bytes allows 67108864" in lost.reason


@pytest.mark.slow
def test_a_row_group_of_955_mb(tmp_path: Path) -> None:
    pq.write_table(images(2, 100), tmp_path / "warm.parquet")
    table = images(955, 1_000_000)
    pq.write_table(table, tmp_path / "pages.parquet", write_batch_size=8)
    pq.write_table(table, tmp_path / "page.parquet")
    del table
    pages, page = peaks(
        tmp_path / "warm.parquet", *({"path": str(tmp_path / f"{n}.parquet")} for n in ("pages", "page"))
    )
    assert pages[0] == page[0] == 955
    assert pages[1] < 100 * MB
    assert page[1] < 2200 * MB  # one page of 955 MB, compressed and not


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"sample_bytes": 4000}, "the row has 5"),
        ({"member_bytes": 4000}, r"column 'image' has 5\d* bytes; input\.bounds\.member_bytes allows 4000"),
    ],
)
def test_a_row_over_a_bound_is_one_rejected_row(tmp_path: Path, bounds: dict[str, int], reason: str) -> None:
    cells = [{"bytes": picture(i) + bytes(5000 * (i == 1)), "path": None} for i in range(3)]
    pq.write_table(pa.table({"image": pa.array(cells, IMAGE)}), tmp_path / "x.parquet")
    options = {"path": str(tmp_path / "x.parquet"), "image": "image", "bounds": bounds}
    items = list(HubInput.model_validate(options).open().shards[0].read())
    assert [type(item) for item in items] == [Sample, Rejected, Sample]
    (bad,) = rejected(items)
    assert (bad.key, bad.members) == ("x-000001", {})
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(bad.reason)


def arrow(path: Path, rows: int = 9, batch: int = 3, *, footer: bool = False) -> bytes:
    """An Arrow stream, or file, of three batches; also written to `path`."""
    table = made(rows).with_format("arrow")[:]
    open_new = pa.ipc.new_file if footer else pa.ipc.new_stream
    with open_new(path, table.schema) as out:
        out.write_table(table.combine_chunks(), max_chunksize=batch)
    return path.read_bytes()


def read(path: Path) -> list[Sample | Rejected]:
    (shard,) = HubInput(path=str(path)).open().shards
    return list(shard.read())


@pytest.mark.parametrize("footer", [False, True])
def test_both_kinds_of_arrow_files_are_read(tmp_path: Path, footer: bool) -> None:
    arrow(tmp_path / "x.arrow", footer=footer)
    made(9).to_parquet(tmp_path / "x.parquet")
    assert read(tmp_path / "x.arrow") == read(tmp_path / "x.parquet")


def test_an_arrow_stream_that_is_cut_off_or_goes_on_is_damaged(tmp_path: Path) -> None:
    whole = arrow(tmp_path / "whole.arrow")
    original = samples(HubInput(path=str(tmp_path / "whole.arrow")).open().shards[0])
    without_end = whole[:-8]
    for content in (without_end, whole[:-200], whole + b"rest", whole + whole):
        (tmp_path / "whole.arrow").write_bytes(content)
        *good, bad = read(tmp_path / "whole.arrow")
        assert good == original[: len(good)]
        assert len(good) in (6, 9)
        assert isinstance(bad, Rejected)
        assert bad.kind == "damaged"
        assert f"the file is damaged: the rows from {len(good)} on are lost" in bad.reason


def test_a_damaged_batch_of_arrow_rows_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    whole = bytearray(arrow(tmp_path / "x.arrow"))
    original = read(tmp_path / "x.arrow")
    at = whole.rindex("näme.4".encode())
    whole[at : at + 2] = b"\xff\xff"
    (tmp_path / "x.arrow").write_bytes(whole)
    items = read(tmp_path / "x.arrow")
    assert items[:3] == original[:3]
    assert items[4:] == original[6:]
    (lost,) = rejected(items)
    assert (lost.kind, lost.key) == ("damaged", "x-000003")
    assert "a batch is damaged: 3 rows from 3 on are lost" in lost.reason


def test_a_row_that_cannot_be_cast_is_one_rejected_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0)] * 2, "n": pa.array([1, 2], pa.int8())}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [picture(0)] * 2, "n": pa.array([1000, 2])}), tmp_path / "b.parquet")
    first, second = HubInput(path=str(tmp_path), image="image").open().shards
    assert len(samples(first)) == 2
    assert [type(item) for item in second.read()] == [Rejected, Sample]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("footer", [False, True])
def test_arrow_batches_that_grow_in_memory_are_refused_before_they_do(
    tmp_path: Path, compression: str, footer: bool
) -> None:
    rows = pa.table({"image": pa.array([{"bytes": bytes(MB), "path": None}] * 20, IMAGE)})
    small = pa.table({"image": pa.array([{"bytes": picture(0), "path": None}] * 2, IMAGE)})
    for name, table in (("bomb", rows), ("fine", small)):
        open_new = pa.ipc.new_file if footer else pa.ipc.new_stream
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with open_new(tmp_path / f"{name}.arrow", table.schema, options=options) as out:
            out.write_table(table)
    assert (tmp_path / "bomb.arrow").stat().st_size < MB
    bounds = {"page_bytes": 10 * MB}
    bomb, fine = HubInput.model_validate({"path": str(tmp_path), "image": "image", "bounds": bounds}).open().shards
    assert len(samples(fine)) == 2
    before = pa.total_allocated_bytes()
    (lost,) = rejected(bomb.read())
    assert "a batch has 2097" in lost.reason
    assert "input.bounds.page_bytes allows 10485760" in lost.reason
    assert pa.total_allocated_bytes() - before < MB


def remote(local: Path) -> FileShard:
    """The shard in a local file, as it is read from elsewhere."""
    fsspec.filesystem("memory").pipe(f"/set/{local.name}", local.read_bytes())
    (shard,) = HubInput(path=str(local)).open().shards
    assert isinstance(shard, FileShard)
    return replace(shard, url=f"memory://set/{local.name}", own=OwnFiles.of(["memory://set"]))


@pytest.mark.parametrize("at_once", [True, False])
def test_a_remote_file_reads_like_a_local_one(
    tmp_path: Path, parquet: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr(tables, "FETCH_BYTES", 10)
    arrow(tmp_path / "x.arrow")
    for local in (parquet / "part-0.parquet", tmp_path / "x.arrow"):
        assert list(remote(local).read()) == read(local)


@pytest.mark.parametrize("name", ["part-0.parquet", "x.arrow"])
def test_a_remote_file_that_is_damaged_is_told_and_one_that_cannot_be_reached_raises(
    tmp_path: Path, parquet: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "part-0.parquet").write_bytes((parquet / "part-0.parquet").read_bytes())
    arrow(tmp_path / "x.arrow")
    shard = remote(tmp_path / name)
    for size in (0, 100, (tmp_path / name).stat().st_size - 50):
        fsspec.filesystem("memory").pipe(f"/set/{name}", (tmp_path / name).read_bytes()[:size])
        assert [bad.kind for bad in rejected(shard.read())] == ["damaged"]
    shard = remote(tmp_path / name)
    real, reads = MemoryFile.read, iter(range(100))

    def broken(self: Any, size: int = -1) -> bytes:
        if next(reads) > 1:
            raise OSError("connection reset")
        return real(self, size)

    monkeypatch.setattr(MemoryFile, "read", broken)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(files, "READ_AHEAD", 100)
    with pytest.raises(Unreachable, match="cannot be read after 5 tries"):
        list(shard.read())


@given(data=st.data())
def test_bytes_that_changed_never_end_the_job_nor_move_a_row(
    parquet: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("m")
    suffix = data.draw(st.sampled_from([".parquet", ".arrow"]))
    good = folder / f"good{suffix}"
    whole = bytearray(arrow(good) if suffix == ".arrow" else (parquet / "part-0.parquet").read_bytes())
    good.write_bytes(whole)
    (shard,) = HubInput(path=str(good)).open().shards
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + data.draw(st.integers(1, 8))] = data.draw(st.binary(min_size=1, max_size=8))
    good.write_bytes(whole)
    items = list(shard.read())
    index = 0
    for item in items:
        assert item.key == f"good-{index:06d}"
        lost = re.search(r"(\d+) rows from \d+ on are lost", item.reason) if isinstance(item, Rejected) else None
        index += int(lost[1]) if lost else 1


class Header:
    """Stands for a `pyarrow.Message`."""

    def __init__(self, metadata: bytes, body: bytes) -> None:
        self.metadata, self.body = metadata, body


@given(head=st.binary(max_size=200) | st.lists(st.integers(0, 40)).map(bytes), body=st.binary(max_size=40))
def test_the_header_of_a_message_is_read_or_refused(head: bytes, body: bytes) -> None:
    with suppress(ValueError):
        assert isinstance(unpacked_bytes(Header(head, body)), int)


def test_the_unpacked_size_is_that_of_the_buffers() -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"x": pa.array(range(10_000), pa.int64()), "y": pa.array(["a"] * 10_000)})
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as out:
        out.write_table(table)
    schema, batch = pa.ipc.MessageReader.open_stream(pa.BufferReader(sink.getvalue()))
    assert unpacked_bytes(schema) == 0
    assert table.nbytes <= unpacked_bytes(batch) <= table.nbytes + 8  # the last offset
