"""Records of a job go into JSON and come back the same; the quarantine too, whatever its samples are called."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.media.output_keys import Shape
from pipeline.media.records import Rejected
from pipeline.streams.files import Stored
from pipeline.streams.job_records import (
    FOLDERS,
    Counts,
    Finished,
    FlickerMeans,
    GateTotals,
    Job,
    Manifest,
    ShardRecord,
    StatedLicence,
)
from pipeline.streams.quarantine import Quarantined, read_quarantine
from pipeline.streams.store import DiskStore
from tests import builders
from tests.streams.made import write_quarantine

text = st.text(st.characters(), max_size=12)
number = st.integers(0, 1 << 60)
hashes = st.dictionaries(st.sampled_from(["config", "model", "code"]), st.text("0123456789abcdef"))
paths = st.tuples(st.sampled_from(FOLDERS), text.filter(lambda t: "/" not in t and t not in ("", ".", "..")))
files = st.dictionaries(
    paths.map("/".join).filter(lambda path: "\0" not in path),
    st.builds(Stored, sha256=st.text("0123456789abcdef"), bytes=number), max_size=3,
)  # fmt: skip
counts = st.builds(Counts, read=number, written=number, images=number, quarantined=number, undecodable=number)
seconds = st.floats(0, 1e9)
totals = st.builds(
    GateTotals, attempts=st.dictionaries(st.integers(0, 9), number),
    others_within=st.dictionaries(st.just("Dlib"), number), faces=number,
)  # fmt: skip
jobs = {
    "config": st.dictionaries(text, st.none() | st.integers() | text | st.lists(text), max_size=3),
    "hashes": hashes,
    "outputs": st.just(Shape(copies=20, names=("view-1", "view-2"))),
    "licences": st.dictionaries(
        text, st.builds(StatedLicence, name=st.just("mit"), link=st.none(), noncommercial=st.booleans()), max_size=2
    ),
}
records = st.one_of(
    st.builds(Job, **jobs),
    st.builds(
        Manifest, **jobs, complete=st.booleans(), shards=st.builds(Finished, finished=number, total=number),
        counts=counts, seconds=seconds, files=files,
    ),
    st.builds(
        ShardRecord, shard=text, fingerprint=text, input_hash=text, code=st.just("1"), hashes=hashes, counts=counts,
        files=files, seconds=seconds, flicker=st.none() | st.builds(FlickerMeans, inputs=seconds, outputs=seconds),
        anonymity=st.none() | totals,
    ),
    st.builds(Quarantined, key=text, reason=text, kind=st.sampled_from(["refused", "undecodable"]), origin=text),
)  # fmt: skip


@given(records)
def test_a_record_is_read_back_as_it_was_written(record: Job | Manifest | ShardRecord | Quarantined) -> None:
    assert type(record).from_json(record.to_json(), "file") == record


@pytest.mark.parametrize(
    "path", ["", "data", "data/", "../x", "/etc/passwd", "data/../../x", "data//x", "data/./x", "job.json", "data/a\0"]
)
def test_a_record_names_only_files_of_its_job(path: str) -> None:
    record = ShardRecord(
        shard="a", fingerprint="", input_hash="", code="", hashes={}, counts=Counts(), files={}, seconds=0
    ).model_dump()
    with pytest.raises(UserError, match=r"^file: files\..*is no file of a job"):
        ShardRecord.from_json(json.dumps({**record, "files": {path: {"sha256": "", "bytes": 0}}}), "file")


@pytest.mark.parametrize("kind", [Job, Manifest, ShardRecord, Quarantined])
def test_what_older_code_wrote_is_refused(kind: type[Job | ShardRecord | Quarantined]) -> None:
    with pytest.raises(UserError, match=r"^file was written by an older version of doppel; this one reads schema \d"):
        kind.from_json('{"hashes": {}, "counts": {}}', "file")


@given(counts, counts)
def test_counts_add_up(one: Counts, other: Counts) -> None:
    both = one + other
    assert all(getattr(both, name) == count + getattr(other, name) for name, count in one)


bad = st.builds(
    Rejected, key=text, reason=text, kind=st.sampled_from(["refused", "undecodable"]), origin=text,
    members=st.dictionaries(st.sampled_from(["png", "seg.png", "reason.json", "a/../b", "ü"]), st.binary(max_size=9)),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(bad, min_size=1, max_size=4))
def test_the_quarantine_is_read_back_as_it_was_written(tmp_path: Path, rejected: list[Rejected]) -> None:
    (tmp_path / "parts").mkdir(exist_ok=True)
    (tmp_path / "quarantine").mkdir(exist_ok=True)
    write_quarantine(rejected, store=DiskStore(tmp_path, tmp_path / "parts"), parts=tmp_path / "parts", name="in")
    found = list(read_quarantine(tmp_path / "quarantine" / "in.tar"))
    assert [(why.key, why.reason, why.kind, why.origin) for why, _ in found] == [
        (one.key, one.reason, one.kind, one.origin) for one in rejected
    ]
    assert [list(members.values()) for _, members in found] == [list(one.members.values()) for one in rejected]


def test_a_quarantine_of_older_code_is_refused(tmp_path: Path) -> None:
    why = {"key": "a", "reason": "no", "kind": "refused", "origin": "in.tar:a"}
    file = builders.tar(tmp_path / "in.tar", [("000000.reason.json", json.dumps(why).encode())])
    with pytest.raises(UserError, match=r"in\.tar: 000000\.reason\.json was written by an older version of doppel"):
        list(read_quarantine(file))


def test_a_damaged_quarantine_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "quarantine").mkdir()
    one = Rejected(key="a", reason="no", kind="refused", origin="in.tar:a", members={"png": bytes(2000)})
    write_quarantine([one, one], store=DiskStore(tmp_path, tmp_path / "parts"), parts=tmp_path / "parts", name="in")
    file = tmp_path / "quarantine" / "in.tar"
    whole = file.read_bytes()
    for content in (b"", b"no tar", whole[:3000], whole.replace(b"reason.json", b"reason.yaml")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"in\.tar is damaged: "):
            list(read_quarantine(file))
