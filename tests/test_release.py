"""What is published tells nothing of its sources, and is the same however they were ordered."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.media.output_keys import Shape
from pipeline.media.records import Rejected
from pipeline.release import ReleaseConfig, publish, verify
from pipeline.release.finished_job import Made, grouped, read
from pipeline.release.privacy import derive, metadata_of, release_key
from pipeline.streams.names import unescape_dots
from tests import builders
from tests.finished_job import (
    CANARIES,
    FACTS,
    SALT,
    Source,
    everything,
    evidence,
    finished_job,
    people,
    photo,
    refuse_seal,
    released,
    samples,
    settings_of,
    telling,
)


def test_a_release_is_what_it_says(tmp_path: Path) -> None:
    sources = people(10)
    release = released(tmp_path, [sources[:6], sources[6:]])
    assert verify(release) == []
    assert sorted(p.name for p in release.iterdir()) == ["ASSESSMENT.md", "README.md", "RELEASE.json", "data"]
    assert [p.name for p in sorted((release / "data").iterdir())] == [f"release-{i:05d}.tar" for i in range(3)]
    manifest = json.loads((release / "RELEASE.json").read_text())
    assert manifest["counts"]["released"] == sum(file["images"] for file in manifest["files"].values()) == 10
    assert manifest["scans"]["near_copies"]["found"] == manifest["scans"]["faces"]["Dlib"]["found"] == 0
    assert manifest["facts"] == FACTS
    assert "not solved" in manifest["threat_models"]["T2"].lower()
    found = {sample.key: sample for sample in samples(release)}
    secret = derive(SALT)
    for source in sources:
        pixels = np.asarray(Image.open(io.BytesIO(found[release_key(secret, source.key)].image)))
        assert (pixels == photo(10_000 + 10 * source.seed)).all()
    assert not (tmp_path / "release.part").exists()


NAMES = st.from_regex(r"[G-Z][g-z]{5,9}", fullmatch=True)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(NAMES, NAMES, st.sampled_from(["png", "jpg"])), min_size=1, max_size=5, unique_by=lambda n: n[0])
)
def test_no_byte_of_it_names_a_source(names: list[tuple[str, str, str]]) -> None:
    unknown = b"Canary-Member of nobody's format"
    sources = [
        Source(
            key=f"{key}_0001",
            who=f"{who} {key}",
            ext=ext,
            seed=i,
            label=3,
            members={"secret.bin": unknown, "7": unknown},
        )
        for i, (key, who, ext) in enumerate(names)
    ]
    bad = [
        Rejected(key=f"{key}_0002", reason=f"duplicate key {key}_0002", kind="refused", origin=key) for key, *_ in names
    ]
    with tempfile.TemporaryDirectory() as folder:
        release = released(Path(folder), [sources], rejected=bad)
        public = everything(release)
        for sample in samples(release):
            assert metadata_of(sample.image) == []
            assert list(sample.members) == []
        with tarfile.open(release / "data" / "release-00000.tar") as tar:
            assert {(info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) for info in tar} == {
                (0, 0, 0, "", "", 0o644)
            }
    forbidden = [part for name in names for part in name[:2]] + [*CANARIES, "Canary-Member", "secret-shard", folder]
    for word in forbidden:
        for coded in (word.encode(), word.encode("utf-16-le"), word.encode().hex().encode()):
            assert coded.lower() not in public.lower(), word
    assert SALT not in public


def test_the_canaries_sing_in_the_job(tmp_path: Path) -> None:
    """What the test above looks for is there to be found."""
    job = everything(finished_job(tmp_path / "job", [[Source(key="Key_1", who="Name", ext="jpg"), *people(1)]]))
    assert all(canary.encode() in job for canary in (*CANARIES, "Key_1", "Person_Number"))
    assert {"comment", "exif", "icc_profile"} <= set(metadata_of(telling(photo(0), "JPEG")))


def test_order_and_files_tell_nothing_of_the_source(tmp_path: Path) -> None:
    sources = people(40)
    secret = derive(SALT)
    release = released(tmp_path / "a", [sources[:20], sources[20:]], shard_size=10)
    order = [sample.key for sample in samples(release)]
    expected = [release_key(secret, source.key) for source in sources]
    assert sorted(order) == sorted(expected)
    assert order != expected
    ranks = np.array([order.index(key) for key in expected])
    assert abs(np.corrcoef(ranks, np.arange(40))[0, 1]) < 0.5  # 3 standard deviations
    assert {rank // 10 for rank in ranks[:20]} == {0, 1, 2, 3}
    mixed = [sources[i] for i in np.random.default_rng(0).permutation(40)]
    other = released(tmp_path / "b", [mixed[:7], mixed[7:15], mixed[15:]], shard_size=10)
    assert builders.tree(other, "data") == builders.tree(release, "data")


def test_two_runs_are_identical_and_another_salt_shares_no_name(tmp_path: Path) -> None:
    sources = people(6)
    first, second = (released(tmp_path / name, [sources]) for name in ("first", "second"))
    assert everything(first) == everything(second)
    other = released(tmp_path / "other", [sources], salt=b"another secret of the tests")
    assert not {s.key for s in samples(first)} & {s.key for s in samples(other)}
    assert json.loads((first / "RELEASE.json").read_text())["job"] not in (other / "RELEASE.json").read_text()


def test_each_copy_has_a_name_of_its_own(tmp_path: Path) -> None:
    sources = people(2, shape=Shape(copies=3))
    keys = {sample.key for sample in samples(released(tmp_path, [sources]))}
    assert keys == {release_key(derive(SALT), f"{source.key}-{copy}") for source in sources for copy in range(3)}


def test_grey_stays_grey_and_jpeg_stays_jpeg(tmp_path: Path) -> None:
    sources = people(2)
    made = [source.samples()[0] for source in sources]
    made = [replace(made[0], image=telling(photo(77), "PNG", "L")), replace(made[1], image_ext="seg.jpeg")]
    job = finished_job(tmp_path / "job", [made])
    config = settings_of(tmp_path)
    publish(config, job, salt=SALT, evidence=evidence(sources), facts={})
    found = {s.key: s for s in samples(tmp_path / "release.part")}
    grey, jpeg = (found[release_key(derive(SALT), sample.key)] for sample in made)
    assert Image.open(io.BytesIO(grey.image)).mode == "L"
    assert (jpeg.image_ext, Image.open(io.BytesIO(jpeg.image)).format) == ("jpg", "JPEG")


def test_members_and_labels_are_published_by_name_only(tmp_path: Path) -> None:
    extra = {"age.json": b'{"age": 44}', "pose": b"\x00\x01"}
    sources = [Source(key=f"Somebody_{i:02d}", who=f"Who{i}", label=i % 2, seed=i, members=extra) for i in range(10)]
    release = released(tmp_path, [sources], members=("age.json", "pose"), labels=(1,))
    found = samples(release)
    assert {tuple(s.members) for s in found} == {("cls", "age.json", "pose"), ("age.json", "pose")}
    assert sorted(s.label for s in found if s.label is not None) == [1] * 5
    assert all(s.members["pose"] == b"\x00\x01" for s in found)


@pytest.mark.parametrize("member", ["json", "txt"])
def test_a_member_that_names_its_source_is_refused(tmp_path: Path, member: str) -> None:
    with pytest.raises(UserError, match=rf"release\.members: a member {member} holds the key"):
        released(tmp_path, [people(5)], members=(member,))
    refuse_seal(tmp_path)


def test_a_label_of_one_person_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    sources = [replace(source, label=i // 6) for i, source in enumerate(people(4, per_person=6))]
    with pytest.raises(UserError, match=r"release\.labels: label 0 tells who is in an image: 1 people") as refused:
        released(tmp_path, [sources], labels=(0, 1, 2, 3))
    assert "Person" not in str(refused.value)
    assert not (tmp_path / "release.part").exists()


def test_where_nobody_is_known_a_label_of_few_images_is_refused(tmp_path: Path) -> None:
    sources = [Source(key=f"Somebody_{i:02d}", label=int(i < 4), seed=i) for i in range(12)]
    with pytest.raises(UserError, match="label 1 tells who is in an image: 4 images"):
        released(tmp_path / "few", [sources], labels=(0, 1))
    assert verify(released(tmp_path / "more", [sources], labels=(0,))) == []


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"members": ["png"]}, "png would be an image"),
        ({"members": ["source.JPG"]}, "source.JPG would be an image"),
        ({"members": ["mp4"]}, "mp4 would be an image"),
        ({"members": ["doppel.json"]}, "doppel.json stays private"),
        ({"members": ["cls"]}, r"release.labels"),
        ({"members": ["../x"]}, "an extension"),
        ({"shard_size": 0}, "shard_size"),
        ({"memebrs": ["txt"]}, "did you mean 'members'"),
    ],
)
def test_bad_settings(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(ReleaseConfig, {"path": "a", "audit": "b", **changes}, "test")


@pytest.mark.parametrize("split", ["auto", "first", "last"])
def test_samples_of_a_real_job_are_told_apart(tmp_path: Path, split: str) -> None:
    names = {"auto": ["a", "IMG.2020.01", "in/side.7"], "first": ["a", "in.side/b"], "last": ["a", "a.b", "IMG.2020"]}
    members = [(f"{key}.{e}", builders.picture(i)) for i, key in enumerate(names[split]) for e in ("png", "txt")]
    builders.tar(tmp_path / "in.tar", members)
    read = real_job(tmp_path, {"format": "webdataset", "urls": str(tmp_path / "in.tar"), "split": split})
    assert read == {key: ("png", ["png", "txt", "doppel.json"]) for key in names[split]}


def test_keys_of_a_folder_are_those_that_its_scan_finds(tmp_path: Path) -> None:
    for key in ("cat/a.1", "dog/b%2E"):
        (tmp_path / "in" / key).parent.mkdir(parents=True)
        (tmp_path / "in" / f"{key}.png").write_bytes(builders.picture(0))
    source = {"format": "folder", "path": str(tmp_path / "in")}
    stream = validate(JobConfig, builders.recipe("", tmp_path, None) | {"input": source}, "test").input.open()
    keys = {sample.key for shard in stream.shards for sample in shard.read()}
    assert set(real_job(tmp_path, source)) == keys == {"cat/a.1", "dog/b%2E"}


def real_job(folder: Path, source: dict[str, Any]) -> dict[str, tuple[str, list[str]]]:
    """Extension of the image, and all members, of each sample of a job that passes images through."""
    recipe = builders.recipe("", folder / "job", None) | {"input": source}
    run_job(make_plan(validate(JobConfig, recipe, "test")))
    made, found = Made.by(folder / "job"), {}
    for tar in made.tars:
        for key, spans in grouped(tar):
            with open(tar, "rb") as file:
                Image.open(io.BytesIO(read(file, next(iter(spans.values())))))
            found[key if made.verbatim else unescape_dots(key)] = (next(iter(spans)), list(spans))
    return found


def test_withheld_photographs_are_counted_by_reasons_without_names(tmp_path: Path) -> None:
    reasons = ["recognisable: Dlib recognises the person", "undecided: no face was found in the output"]
    bad = [
        Rejected(key="Anna_Ohne", reason=reason, kind="refused", origin="Anna") for reason in (*reasons, *reasons[:1])
    ]
    bad.append(Rejected(key="Anna_Mit", reason="duplicate key 'Anna_Mit'", kind="refused", origin="Anna"))
    bad.append(Rejected(key="Anna_Auf", reason="damaged image Anna_Auf", kind="undecodable", origin="Anna"))
    release = released(tmp_path, [people(6)], rejected=bad)
    counts = json.loads((release / "RELEASE.json").read_text())["counts"]
    assert counts["quarantined"] == {reasons[0]: 2, reasons[1]: 1, "refused": 1, "undecodable": 1}
    assert counts["read"] == 11
    assert counts["released_by_level"] == {"0.5": 6}
    assert counts["released_by_verdict"] == {"anonymous": 6}
    card = (release / "README.md").read_text()
    assert "5 were withheld" in card
    assert "Anna" not in card
