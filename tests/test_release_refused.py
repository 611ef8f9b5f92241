"""When nothing is published: before a job, after it, and for what is found in the last look."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.anonymity.faces.phash import closest
from pipeline.errors import UserError
from pipeline.identity import PUBLIC_SALT
from pipeline.media.records import Sample
from pipeline.release import Evidence, ReleaseConfig, check_release, publish
from tests.finished_job import (
    HASHES,
    PASSED,
    SALT,
    Source,
    evidence,
    finished_job,
    people,
    photo,
    refuse_seal,
    settings_of,
)


@pytest.mark.parametrize(("salt", "sentence"), [(PUBLIC_SALT, "secret salt"), (b"fifteen bytes !", "15 bytes")])
def test_a_salt_that_is_no_secret(tmp_path: Path, salt: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        check_release(settings_of(tmp_path), str(tmp_path / "job"), salt)
    job = finished_job(tmp_path / "job", [people(1)])
    with pytest.raises(UserError, match=sentence):
        publish(settings_of(tmp_path), job, salt=salt, evidence=evidence(people(1)), facts={})
    refuse_seal(tmp_path)


@pytest.mark.parametrize(
    ("release", "output", "audit", "fits"),
    [
        ("r", "o", "a", True),
        ("r", "o", "o/audit", True),
        ("r", "r", "a", False),
        ("r", "o", "r", False),
        ("r", "r/o", "a", False),
        ("r", "o", "r/a", False),
        ("o/r", "o", "a", False),
        ("a/b/r", "o", "a", False),
        ("r", "r.part", "a", False),
        ("r", "o", "r.part/a", False),
        ("r", "x/../r/o", "a", False),
        ("link/r", "r", "r/a", False),
        ("link", "real/o", "a", False),
        ("r", "o", "ra", True),
    ],
)
def test_private_folders_lie_outside(tmp_path: Path, release: str, output: str, audit: str, fits: bool) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path if release == "link/r" else tmp_path / "real")
    config = ReleaseConfig(path=str(tmp_path / release), audit=str(tmp_path / audit))
    if fits:
        check_release(config, str(tmp_path / output), SALT)
    else:
        with pytest.raises(UserError, match="lie in each other"):
            check_release(config, str(tmp_path / output), SALT)


@pytest.mark.parametrize("name", ["release", "release.part"])
def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    check_release(settings_of(tmp_path), str(tmp_path / "job"), SALT)
    (tmp_path / name / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty"):
        check_release(settings_of(tmp_path), str(tmp_path / "job"), SALT)
    job = finished_job(tmp_path / "job", [people(1)])
    with pytest.raises(UserError, match="not empty"):
        publish(settings_of(tmp_path), job, salt=SALT, evidence=evidence(people(1)), facts={})
    assert (tmp_path / name / "thesis.tex").read_text() == "years of work"
    refuse_seal(tmp_path)


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "release").write_text("")
    with pytest.raises(UserError, match="is a file"):
        check_release(settings_of(tmp_path), str(tmp_path / "job"), SALT)


def unfinished(job: Path) -> None:
    manifest = json.loads((job / "manifest.json").read_text())
    (job / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))


def kept_from_before(job: Path) -> None:
    record = json.loads((job / "shards" / "secret-shard-0.json").read_text())
    (job / "shards" / "secret-shard-0.json").write_text(json.dumps({**record, "hashes": {**HASHES, "config": "other"}}))


def of_the_previous_version(job: Path) -> None:
    content = json.loads((job / "job.json").read_text())
    del content["version"]
    (job / "job.json").write_text(json.dumps(content))


def altered(job: Path) -> None:
    with open(job / "data" / "secret-shard-0.tar", "r+b") as file:
        file.seek(600)
        file.write(b"\x01\x02\x03")


def removed(job: Path) -> None:
    (job / "data" / "secret-shard-0.tar").unlink()


def no_job(job: Path) -> None:
    shutil.rmtree(job)


def withdrawn(job: Path) -> None:
    rewrite(job / "manifest.json", gone=["secret-shard-0"])


def stale(job: Path) -> None:
    rewrite(job / "manifest.json", changed=["secret-shard-0"])


def rewrite(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (withdrawn, "the input of 1 finished shards is gone, and that of 0 has changed"),
        (stale, "the input of 0 finished shards is gone, and that of 1 has changed"),
        (unfinished, "finish the job first"),
        (kept_from_before, "kept from a job with other settings"),
        (altered, "not as the job wrote it"),
        (removed, "is missing"),
        (of_the_previous_version, "was written by an older version of doppel"),
        (no_job, "a release is made of a finished job"),
    ],
)
def test_a_job_that_is_not_what_it_was(tmp_path: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    job = finished_job(tmp_path / "job", [people(3)])
    spoil(job)
    with pytest.raises(UserError, match=sentence):
        publish(settings_of(tmp_path), job, salt=SALT, evidence=evidence(people(3)), facts={})
    refuse_seal(tmp_path)


def with_provenance(sample: Sample, **changes: Any) -> Sample:
    told = {**json.loads(sample.members["doppel.json"]), **changes}
    return replace(sample, members={**sample.members, "doppel.json": json.dumps(told).encode()})


def test_an_image_under_another_key_than_its_provenance_says(tmp_path: Path) -> None:
    made = [sample for source in people(3) for sample in source.samples()]
    job = finished_job(tmp_path / "job", [[*made[:2], replace(made[2], key="another")]])
    with pytest.raises(UserError, match="under another key"):
        publish(settings_of(tmp_path), job, salt=SALT, evidence=evidence(people(3)), facts={})
    refuse_seal(tmp_path)


@pytest.mark.parametrize("anonymity", [None, {**PASSED.model_dump(), "verdict": "recognisable"}])
def test_an_image_without_a_verdict(tmp_path: Path, anonymity: dict[str, object] | None) -> None:
    sources = people(3)
    made = [sample for source in sources for sample in source.samples()]
    job = finished_job(tmp_path / "job", [[*made[:2], with_provenance(made[2], anonymity=anonymity)]])
    with pytest.raises(UserError, match="may not be released"):
        publish(settings_of(tmp_path), job, salt=SALT, evidence=evidence(sources), facts={})
    refuse_seal(tmp_path)


def attempt(folder: Path, shards: Sequence[Sequence[Source | Sample]], given: Evidence, sentence: str) -> None:
    job = finished_job(folder / "job", shards)
    with pytest.raises(UserError, match=sentence):
        publish(settings_of(folder), job, salt=SALT, evidence=given, facts={})
    refuse_seal(folder)


def test_no_image_passed(tmp_path: Path) -> None:
    attempt(tmp_path, [[]], evidence(people(2)), "no image passed")


def test_a_key_in_two_shards(tmp_path: Path) -> None:
    attempt(tmp_path, [people(3), people(1)], evidence(people(3)), "1 images of the job have a key that another has")


def test_a_clip(tmp_path: Path) -> None:
    sources = people(2, ext="gif")
    attempt(tmp_path, [sources], evidence(sources), "clips cannot be verified")


def test_a_member_of_nobody(tmp_path: Path) -> None:
    sample = people(1)[0].samples()[0]
    stray = replace(sample, key="stray", members={})
    attempt(tmp_path, [[sample, stray]], evidence(people(1)), "belongs to no image")


def test_one_near_copy_of_any_original_ends_it(tmp_path: Path) -> None:
    sources = people(12)
    copied = np.asarray(
        Image.fromarray(sources[7].samples() and photo(10_070)).resize((61, 61))
    )  # larger, and another's
    given = evidence(sources, images=[*(photo(s.seed) for s in sources[:11]), copied])
    attempt(tmp_path, [sources], given, r"1 of 12 images to be released are near-copies of originals \(pHash within 4")


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_originals_are_looked_at_in_chunks(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.anonymity.faces.phash.COLUMNS", chunk)
    hashes = np.random.default_rng(0).integers(0, 2**64, 12, dtype=np.uint64)
    expected = [min((int(a) ^ int(b)).bit_count() for b in hashes[5:]) for a in hashes[:5]]
    assert closest(hashes[:5], hashes[5:]).tolist() == expected
    assert closest(hashes[:5], hashes[:0]).tolist() == [64] * 5


@pytest.mark.parametrize(("distance", "refused"), [(0.019, True), (0.021, False)])
def test_one_face_of_any_original_ends_it(tmp_path: Path, distance: float, refused: bool) -> None:
    sources, given = people(5), evidence(people(5))
    own, other = given.outputs.embeddings["Dlib"][1], given.originals.embeddings["Dlib"].copy()
    aside = other[3] - (other[3] @ own) * own
    cosine = 1 - distance
    other[3] = cosine * own + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)
    near = replace(given, originals=replace(given.originals, embeddings={"Dlib": other}))
    if refused:
        attempt(tmp_path, [sources], near, "1 of 5 faces to be released are as near to an original's")
    else:
        job = finished_job(tmp_path / "job", [sources])
        manifest = publish(settings_of(tmp_path), job, salt=SALT, evidence=near, facts={})
        assert manifest.scans.faces["Dlib"].closest == pytest.approx(0.021, abs=1e-3)


@pytest.mark.parametrize(
    "facts",
    [
        {"model": {"/home/me/models/faces": {"name": "mit"}}},
        {"model": ["~/models"]},
        {"worst": {"who": "Person Number 001"}},
        {"Person_Number_001_0000": 3},
    ],
)
def test_facts_that_name_a_place_or_a_person(tmp_path: Path, facts: dict[str, Any]) -> None:
    job = finished_job(tmp_path / "job", [people(3)])
    with pytest.raises(UserError, match="holds a path of this machine, or a key or name") as refused:
        publish(settings_of(tmp_path), job, salt=SALT, evidence=evidence(people(3)), facts=facts)
    assert "Person" not in str(refused.value)
    refuse_seal(tmp_path)


def test_an_image_that_nobody_looked_at(tmp_path: Path) -> None:
    attempt(tmp_path, [people(4)], evidence(people(3)), "1 of 4 images to be released were not scanned")


def test_no_recogniser_at_all(tmp_path: Path) -> None:
    job = finished_job(tmp_path / "job", [people(3)])
    with pytest.raises(ValueError, match="no recogniser"):
        publish(
            settings_of(tmp_path), job, salt=SALT, evidence=replace(evidence(people(3)), copy_distance={}), facts={}
        )
    refuse_seal(tmp_path)


@pytest.mark.parametrize(
    ("place", "mode", "sentence"),
    [
        ("salt", 0o600, None),
        ("job/salt", 0o400, None),
        ("salt", 0o644, "is open to everybody, and must be its owner's alone: chmod 600"),
        ("salt", 0o640, "is open to your group"),
        ("release/salt", 0o600, "the salt lies in .*release, which is published"),
        ("release.part/data/salt", 0o600, "the salt lies in .*release, which is published"),
        ("link/salt", 0o600, "the salt lies in .*release, which is published"),
    ],
)
def test_the_salt_s_file_is_its_owner_s_alone(tmp_path: Path, place: str, mode: int, sentence: str | None) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "release" / "deep")
    file = tmp_path / place
    (tmp_path / "release" / "deep").mkdir(parents=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(SALT)
    file.chmod(mode)
    with nullcontext() if sentence is None else pytest.raises(UserError, match=sentence):
        if sentence is None:
            shutil.rmtree(tmp_path / "release")
        check_release(settings_of(tmp_path), str(tmp_path / "job"), SALT, str(file))
