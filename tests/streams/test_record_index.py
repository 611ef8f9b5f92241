"""Records are fetched once, and an index is believed only where the mark of a record is still the same."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.streams.job_records import Counts, ShardRecord
from pipeline.streams.record_index import INDEX, RecordIndex
from pipeline.streams.store import DiskStore, Entry


class Bucket(DiskStore):
    """A folder that passes for an object store, and counts what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root.parent / "parts")
        self.fetched: list[str] = []

    @property
    def local(self) -> Path | None:
        return None

    def read(self, path: str) -> bytes | None:
        self.fetched.append(path)
        return super().read(path)

    def list(self, folder: str) -> Iterator[Entry]:
        return iter(sorted(super().list(folder), key=lambda entry: entry.path, reverse=True))


def record(name: str, seconds: float = 1.0) -> ShardRecord:
    return ShardRecord(
        shard=name, fingerprint="f", input_hash="h", code="c", hashes={}, counts=Counts(), files={}, seconds=seconds,
    )  # fmt: skip


def index_of(store: DiskStore) -> RecordIndex:
    def parse(path: str, content: bytes) -> ShardRecord:
        return ShardRecord.from_json(content, path)

    def fetch(path: str) -> ShardRecord | None:
        content = store.read(path)
        return None if content is None else parse(path, content)

    return RecordIndex(store, "shards", fetch, parse)


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    store = Bucket(tmp_path / "bucket")
    for i in range(20):
        store.put(f"shards/{i:02d}.json", record(f"{i:02d}").to_json().encode())
    return store


def names(index: RecordIndex) -> list[str]:
    return [found.shard for found in index.records()]


def test_a_second_look_fetches_nothing_and_another_process_the_index_alone(bucket: Bucket) -> None:
    first = index_of(bucket)
    assert names(first) == names(first) == [f"{i:02d}" for i in range(20)]
    assert len(bucket.fetched) == 21
    first.save()
    bucket.fetched.clear()
    second = index_of(bucket)
    assert second.records() == first.records()
    assert bucket.fetched == [INDEX]
    second.save()
    assert bucket.fetched == [INDEX]


def test_only_what_was_put_again_is_fetched_and_what_is_gone_is_gone(bucket: Bucket) -> None:
    index_of(bucket).records()
    first = index_of(bucket)
    first.records()
    first.save()
    bucket.put("shards/03.json", record("03", seconds=9).to_json().encode())
    bucket.put("shards/20.json", record("20").to_json().encode())
    bucket.delete("shards/05.json")
    bucket.fetched.clear()
    found = {one.shard: one for one in index_of(bucket).records()}
    assert sorted(bucket.fetched) == [INDEX, "shards/03.json", "shards/20.json"]
    assert found["03"].seconds == 9
    assert "05" not in found
    assert "20" in found
    bucket.fetched.clear()
    assert {one.shard: one for one in first.records()} == found  # who has seen them before, too
    assert sorted(bucket.fetched) == ["shards/03.json", "shards/20.json"]


@pytest.mark.parametrize(
    "content", [b"", b"no gzip", b"\x1f\x8b\x08\x00cut", gzip.compress(b'["shards/00.json"]\n'), None]
)
def test_a_damaged_index_costs_time_alone(bucket: Bucket, content: bytes | None) -> None:
    first = index_of(bucket)
    first.records()
    first.save()
    if content is None:
        whole = bucket.read(INDEX)
        assert whole
        content = whole[: len(whole) // 2]
    bucket.put(INDEX, content)
    again = index_of(bucket)
    assert len(names(again)) == 20
    again.save()
    bucket.fetched.clear()
    assert len(names(index_of(bucket))) == 20
    assert bucket.fetched == [INDEX]


def test_a_disk_has_no_index(tmp_path: Path) -> None:
    store = DiskStore(tmp_path / "job", tmp_path / "parts")
    store.put("shards/a.json", record("a").to_json().encode())
    index = index_of(store)
    assert names(index) == ["a"]
    index.save()
    assert not (tmp_path / "job" / INDEX).exists()


def test_a_mark_that_is_a_mere_size_is_not_believed(bucket: Bucket) -> None:
    listed = [Entry(path=one.path, bytes=one.bytes, mark=str(one.bytes)) for one in bucket.list("shards")]
    bucket.list = lambda folder: iter(listed)  # type: ignore[method-assign, assignment]
    index = index_of(bucket)
    assert index.records() == index.records()
    assert len(bucket.fetched) == 41


def test_a_record_that_vanishes_while_it_is_fetched_is_none(bucket: Bucket) -> None:
    listed = list(bucket.list("shards"))
    bucket.delete("shards/07.json")
    bucket.list = lambda folder: iter(listed)  # type: ignore[method-assign, assignment]
    assert "07" not in names(index_of(bucket))
