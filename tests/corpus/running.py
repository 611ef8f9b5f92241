"""Runs the real job on a case, and holds it to its ground truth: nothing lost, nothing twice, nothing outside."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import validate
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from pipeline.media.provenance import PROVENANCE, Provenance
from pipeline.streams.job_records import Manifest
from pipeline.streams.names import escape_dots, text_of
from pipeline.streams.quarantine import read_quarantine
from tests.corpus.case import Bad, Case, Good

OURS = {
    "data",
    "shards",
    "quarantine",
    "provenance",
    ".parts",
    "job.json",
    "manifest.json",
    "events.jsonl",
    "input.json",
}
"""What a job may leave in its folder."""
Read = tuple[str, bytes, Mapping[str, bytes], int | None]
"""Key, image, other members and label of a sample that was written; None where the format tells no label."""


def run(case: Case, format: str, root: Path, plan: Plan) -> Callable[[], Manifest]:
    """Runs the job and checks everything. `plan` is that of any pass-through job. Returns what runs it again."""
    beside = root / "beside"
    beside.mkdir()
    (beside / "thesis.tex").write_text("years of work")
    (root / "in").mkdir()
    section = case.lay(root / "in")
    before = seen(root)
    content = {"kind": "job", "input": section, "output": {"path": str(root / "out"), "format": format}}
    manifest, refused = None, ""

    def job() -> Manifest:
        config = validate(JobConfig, {**content, "run": {"devices": ["cpu"]}}, "test")
        return run_job(replace(plan, config=config))

    try:
        manifest = job()
    except UserError as error:
        refused = str(error)
    after = {path: mark for path, mark in seen(root).items() if path.split("/")[0] != "out"}
    assert after == before, "the job changed what is not its own"
    assert bool(refused) == bool(case.error), refused or "the job was not refused"
    assert [word for word in case.error if word not in refused] == [], refused
    assert "\n" not in refused
    if manifest is not None:
        check(case, format, root / "out", manifest)
    return job


def check(case: Case, format: str, out: Path, manifest: Manifest) -> None:
    """Compares what a job left with the truth of its case."""
    written, refused, counts = case.written(format), case.refused(format), manifest.counts
    assert {path.name for path in out.iterdir()} <= OURS
    assert [path.name for path in (out / ".parts").iterdir()] == ["lock"]
    found, kept = list(READERS[format](out, written)), in_quarantine(out)
    assert Counter(key for key, *_ in found) == Counter(written.keys())
    told = [(key, kind) for key, kind, *_ in kept if kind != "damaged"]
    assert sorted(told) == sorted((bad.key, bad.kind) for bad in refused)
    for bad in refused:
        assert any(matches(bad, entry) for entry in kept), (bad, kept)
    assert sum(kind == "damaged" for _, kind, *_ in kept) == case.damaged
    assert (counts.written, counts.damaged) == (len(written), case.damaged)
    assert counts.read == counts.written + counts.in_quarantine == len(written) + len(refused)
    for key, image, members, label in found:
        good = written[key]
        assert pixels(image) == pixels(good.shown or good.image), f"{key}: other pixels"
        assert members == good.members, key
        assert label is None or label == good.label, key


def matches(bad: Bad, entry: tuple[str, str, str, Mapping[str, bytes]]) -> bool:
    """Whether a sample in quarantine is the one that is meant."""
    key, kind, reason, members = entry
    named = (key, kind) == (bad.key, bad.kind) and bad.word in reason
    return named and (bad.members is None or sorted(members.values()) == sorted(bad.members.values()))


def in_quarantine(out: Path) -> list[tuple[str, str, str, Mapping[str, bytes]]]:
    """Key, kind, reason and members of everything in the quarantine."""
    return [
        (why.key, why.kind, why.reason, members)
        for tar in sorted((out / "quarantine").glob("*"))
        for why, members in read_quarantine(tar)
    ]


def read_tars(out: Path, written: Mapping[str, Good]) -> list[Read]:
    """What `tarfile` finds, by the names that the samples must have."""
    content: dict[str, bytes] = {}
    for path in sorted((out / "data").glob("*")):
        assert path.suffix == ".tar"
        with tarfile.open(path, errors="surrogateescape") as archive:
            for info in archive:
                assert info.isfile()
                assert info.name not in content, f"{info.name} is there twice"
                content[info.name] = archive.extractfile(info).read()  # type: ignore[union-attr]
    found = list[Read]()
    for key, good in written.items():
        stem = key if f"{key}.{PROVENANCE}" in content else escape_dots(key)
        assert source(content.pop(f"{stem}.{PROVENANCE}")) == key
        members = {name: content.pop(f"{stem}.{name}") for name in good.members}
        (image,) = (name for name in content if name.startswith(f"{stem}.") and "/" not in name[len(stem) :])
        found.append((key, content.pop(image), members, None))
    assert content == {}
    return found


def read_parquet(out: Path, written: Mapping[str, Good]) -> list[Read]:
    """What `pyarrow` finds in the layout for samples, or, where the input had columns, in these."""
    found = list[Read]()
    for path in sorted((out / "data").glob("*")):
        assert path.suffix == ".parquet"
        for row in pq.read_table(path).to_pylist():
            key = source((row.get("doppel_provenance") or row["provenance"]).encode())
            if "members" not in row:
                (image,) = (value["bytes"] for name, value in row.items() if name in ("image", "img"))
                members = written[key].members
                texts = {name: value for name, value in row.items() if f"{name}.txt" in members}
                assert texts == {name: members[f"{name}.txt"].decode() for name in texts}
                found.append((key, image, members, row.get("label")))
                continue
            members = {name: row[name].encode() for name in ("txt", "json") if row[name] is not None}
            members |= {item["name"]: item["content"] for item in row["members"]}
            if "cls" in written[key].members and "cls" not in members:
                members["cls"] = b"%d" % row["label"]
            assert row["key"] == key
            found.append((key, row["image"]["bytes"], members, row["label"]))
    return found


def read_folder(out: Path, written: Mapping[str, Good]) -> list[Read]:
    """What the lists of provenance name; nothing else may lie in the data folder."""
    found, named = list[Read](), Counter[str]()
    for path in sorted((out / "provenance").glob("*")):
        for line in map(json.loads, path.read_text().splitlines()):
            key = source(json.dumps(line["provenance"]).encode())
            stem = line["file"].removesuffix(f".{written[key].extension}")
            named.update([line["file"], *line["sidecars"]])
            members = {text_of(name[len(stem) + 1 :]): (out / "data" / name).read_bytes() for name in line["sidecars"]}
            if "cls" in written[key].members and "cls" not in members:
                members["cls"] = b"%d" % written[key].label  # the folder of the class says it
            found.append((key, (out / "data" / line["file"]).read_bytes(), members, None))
    there = [path for path in (out / "data").rglob("*") if not path.is_dir()]
    assert Counter(path.relative_to(out / "data").as_posix() for path in there) == named
    return found


READERS: dict[str, Callable[[Path, Mapping[str, Good]], list[Read]]] = {
    "webdataset": read_tars,
    "parquet": read_parquet,
    "folder": read_folder,
}
"""Readers that share no code with ours, by format."""


def source(provenance: bytes) -> str:
    """The key of the sample that an output was made of."""
    return Provenance.from_json(provenance, "provenance").key.source


def pixels(image: bytes) -> tuple[tuple[int, int], bytes]:
    """Size and RGB bytes of the image in a file, as Pillow reads them."""
    with Image.open(io.BytesIO(image)) as opened:
        return opened.size, opened.convert("RGB").tobytes()


def seen(root: Path) -> dict[str, Any]:
    """A mark of everything below a folder: kind, mode, content. Links are not followed."""
    marks: dict[str, Any] = {}
    for folder, subfolders, files in os.walk(os.fsencode(root)):
        for name in subfolders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            mark: Any = os.readlink(path) if stat.S_ISLNK(info.st_mode) else info.st_mode
            if stat.S_ISREG(info.st_mode):
                mark = info.st_mode, hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            marks[os.fsdecode(os.path.relpath(path, os.fsencode(root)))] = mark
    return marks
