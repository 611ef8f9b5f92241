"""`doppel audit` from end to end on pictures whose faces are the whole image: what must be caught is caught."""

from __future__ import annotations

import io
import json
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from pipeline.anonymity.attacks import attackers, inverter, tuned, utility
from pipeline.anonymity.attacks.inversion import laid, tiles_of
from pipeline.anonymity.faces.detect import Face
from pipeline.audit import Audit, AuditConfig, audit, examine, examining
from pipeline.audit.examining import write
from pipeline.audit.gathering import sources_of
from pipeline.audit.parroting import operator_of
from pipeline.audit.task import check
from pipeline.audit.verdict import lines
from pipeline.cli import main
from pipeline.errors import UserError
from pipeline.media.output_keys import Shape
from pipeline.operators import Boomerang
from pipeline.release.card import THREAT_MODELS
from pipeline.release.copies import NearCopyScan
from pipeline.release.evidence import PAIRING
from pipeline.release.manifest import CARD, ListedFile, ReleaseCounts, ReleaseManifest, Scans, authenticated
from pipeline.release.privacy import derive, release_key
from pipeline.release.sealing import MARK, seal, staging
from pipeline.report.audit_page import html_report
from pipeline.report.audit_plots import (
    AttackAtLevel,
    against_level,
    distance_histograms,
    intervals,
    match_curves,
    roc_curves,
)
from pipeline.report.audit_plots import png as image_of
from pipeline.streams.files import content_hash
from pipeline.streams.shards import WebDatasetInput
from tests import builders
from tests.anonymity.fakes import FakeRecogniser, WholeFinder

Pixels8 = NDArray[np.uint8]
SALT = b"the secret of these tests"
SIDE = 32
PEOPLE, EACH = 24, 3
ONE = Shape()
FACTS = {"gate": {"recognisers": [{"name": "another"}]}}


class Finder(WholeFinder):
    """A picture without contrast has no face; eyes are where they always are."""

    def _of(self, image: Pixels8) -> list[Face]:
        if image.std() < 5:
            return []
        eyes = ((20.0, 12.0), (12.0, 12.0))
        return [Face(box=(0, 0, SIDE, SIDE), eyes=eyes, confidence=1.0, crop=image)]


class Recogniser(FakeRecogniser):
    """A person is the picture, shrunk to 8 × 8."""

    def embed(self, crops: Sequence[Pixels8]) -> NDArray[np.float32]:
        small = [np.asarray(Image.fromarray(crop).resize((8, 8), Image.Resampling.BOX)) for crop in crops]
        vectors = np.array(small, dtype=np.float32).reshape(-1, 3 * 8**2)
        return vectors - vectors.mean(1, keepdims=True)


def smooth(*seed: int, strength: float = 1.0) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return strength * (np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(float) - 128)


def photo(person: int, number: int) -> Pixels8:
    """The person's own pattern, and over it one of the occasion."""
    return np.clip(128 + 0.7 * smooth(person) + smooth(person, number, 1, strength=0.6), 0, 255).astype(np.uint8)


def png(image: Pixels8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


Operator = Callable[[int, int], Pixels8]


def key_of(person: int, number: int) -> str:
    return f"Secretkey_{person:02d}_{number}"


def originals(folder: Path, *, first: int = 0, people: int = PEOPLE) -> Path:
    members = []
    for person in range(first, first + people):
        for number in range(EACH):
            name = key_of(person, number)
            members += [
                (f"{name}.png", png(photo(person, number))),
                (f"{name}.cls", str(person % 2).encode()),
                (f"{name}.json", json.dumps({"identity": f"Secretname {person}"}).encode()),
            ]
    return builders.tar(folder / f"in-{first}.tar", members)


def release(folder: Path, operator: Operator, *, people: int = PEOPLE, shape: Shape = ONE, stray: bool = False) -> Path:
    """A sealed release of all originals, in the order of their hashes; with `stray`, one image is of none of them."""
    secret, place = derive(SALT), folder / "release"
    made = {
        release_key(secret, output.format(shape)): (operator(person, number), person % 2)
        for person in range(people)
        for number in range(EACH)
        for output in shape.keys(f"in-0/{key_of(person, number)}")
    }
    if stray:
        made[release_key(secret, "stray")] = (photo(0, 0), 0)
    staged = staging(place)
    members = [(f"{name}.{ext}", content) for name in sorted(made)
               for ext, content in (("png", png(made[name][0])), ("cls", str(made[name][1]).encode()))]  # fmt: skip
    tar = builders.tar(staged / "data" / "release-00000.tar", members)
    (staged / CARD).write_text("card")
    (staged / MARK).touch()
    files = {
        name: ListedFile(sha256=content_hash(str(staged / name)), bytes=(staged / name).stat().st_size, images=images)
        for name, images in ((f"data/{tar.name}", len(made)), (CARD, 0))
    }
    counts = ReleaseCounts(
        read=12, released=12, quarantined={}, released_by_level={"0.5": 3, "none": 9}, released_by_verdict={},
        people=None, holders={},
    )  # fmt: skip
    scans = Scans(faces={}, near_copies=NearCopyScan(within_bits=4, released=12, originals=12, found=0, closest_bits=9))
    manifest = ReleaseManifest(
        job="", files=files, outputs=shape, counts=counts, members=(), labels=(0, 1), facts=FACTS, scans=scans,
        threat_models=THREAT_MODELS, code="",
    )  # fmt: skip
    seal(place, authenticated(manifest, secret))
    return place


def task(folder: Path, operator: Operator, **changes: Any) -> Audit:
    given: dict[str, Any] = {
        "originals": WebDatasetInput(urls=(str(originals(folder)),)), "release": release(folder, operator),
        "out": folder / "audit", "salt": SALT, "identity": "json:identity", "networks": False,
    }  # fmt: skip
    return Audit(**given | changes)


def config(one: Audit, **changes: Any) -> AuditConfig:
    given = {"originals": one.originals, "release": str(one.release), "output": str(one.out)}
    return AuditConfig.model_validate(given | changes)


def stranger(person: int, number: int) -> Pixels8:
    return photo(1000 + EACH * person + number, 0)


def examined(one: Audit, *, checked: bool = True) -> dict[str, Any]:
    if checked:
        check(one)
    done = examine(one, Finder(), [Recogniser()])  # type: ignore[arg-type]
    write(one.out, done)
    return done.results.model_dump(mode="json")


@pytest.fixture(scope="module", autouse=True)
def short_training() -> Iterator[None]:
    """What is learnt in full length is tested in test_attackers.py and test_utility.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attackers, "STEPS", 20)
        patch.setattr(utility, "STEPS", 10)
        yield


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take as long as all the rest; where they are looked at, they are drawn."""
    monkeypatch.setattr("pipeline.audit.examining.draw", lambda *_: {})


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("kept")
    others = WebDatasetInput(urls=(str(originals(folder, first=500)),))
    one = task(folder, photo, others=others)
    return one, examined(one)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> tuple[Audit, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("fresh")
    others = WebDatasetInput(urls=(str(originals(folder, first=500)),))
    one = task(folder, stranger, others=others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.audit.examining.draw", lambda *_: {})
        return one, examined(one)


def first(results: dict[str, Any], threat: str, recogniser: str, kind: str = "naive") -> dict[str, float]:
    return results[threat]["recognisers"][recogniser]["reidentification"][kind]["rank"]["1"]


def test_the_identity_is_caught_by_everybody(kept: tuple[Audit, dict[str, Any]]) -> None:
    _, results = kept
    for name in ("fake", "pixels", "phash", "colours"):
        assert first(results, "T2", name)["share"] == 1
    for kind in ("naive", "reverse", "parrot"):
        assert first(results, "T1", "fake", kind)["share"] > 0.8
    assert results["T2"]["near_copies"]["copies"] == PEOPLE * EACH
    assert results["T2"]["membership"]["pixels"]["auc"] == 1
    assert results["utility"]["psnr"] == {"pairs": 72, "mean": None, "unchanged": 72}
    over = {one["name"] for one in results["evidence"]["unmet"]}
    assert over >= {"T1 fake naive", "T1 fake reverse", "T1 fake parrot"}
    assert not {name for name in over if not name.startswith("T1 ")}
    beaten = {one["attacker"] for one in results["evidence"]["attacks"] if one["threat"] == "T2" and one["p"] < 0.001}
    assert beaten == {"fake", "pixels", "phash", "colours"}


def test_strangers_are_found_as_often_as_by_chance(fresh: tuple[Audit, dict[str, Any]]) -> None:
    _, results = fresh
    for threat in ("T1", "T2"):
        for name in ("fake", "pixels", "phash"):
            rank = first(results, threat, name)
            assert rank["low"] <= rank["chance"] < rank["high"]
    for one in results["T2"]["membership"].values():
        assert abs(one["auc"] - 0.5) < 0.2  # 24 people on either side
    assert results["T2"]["near_copies"]["copies"] == 0
    assert not [f for f in results["findings"] if f.startswith("utility")]
    assert results["utility"]["faces"]["with_face"] == 1
    assert results["utility"]["pose"]["eyes"]["mean"] == 0
    assert results["utility"]["psnr"]["mean"] < 15
    assert results["utility"]["task"]["trained_on"] + results["utility"]["task"]["tested_on"] == 72


def test_threat_models_have_no_figure_in_common(kept: tuple[Audit, dict[str, Any]]) -> None:
    _, results = kept
    assert set(results) >= {"T1", "T2"}
    assert "clean" not in results["T2"]["recognisers"]["fake"]["reidentification"]
    assert "near_copies" not in results["T1"]
    assert "membership" not in results["T1"]
    t1, t2 = (results[threat]["recognisers"]["fake"] for threat in ("T1", "T2"))
    assert t1["verification"]["genuine"] == PEOPLE * EACH * (EACH - 1)
    assert t2["verification"]["genuine"] == PEOPLE * EACH


def test_files(kept: tuple[Audit, dict[str, Any]]) -> None:
    one, results = kept
    assert json.loads((one.out / "audit.json").read_text()) == json.loads(json.dumps(results))
    page = (one.out / "report.html").read_text()
    assert "T1: the attacker holds other photographs" in page
    assert page.index("T1: the") < page.index("T2: the")
    assert not re.search(r"(src|href)='?\"?(https?:|/)", page)
    for name in ("attacks", "distances", "roc", "cmc", "before_after"):
        assert Image.open(one.out / f"{name}.png").width > 100
    assert {path.name for path in one.release.rglob("*")} == {"data", "release-00000.tar", "RELEASE.json", "README.md"}
    evidence = [one.out, *one.out.rglob("*")]
    assert {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in evidence if path.name != "faces"} == {
        (True, 0o700), (False, 0o600),
    }  # fmt: skip
    assert any(path.suffix == ".safetensors" for path in evidence)


@pytest.mark.usefixtures("no_pictures")
def test_flips_shuffles_and_blanks_are_caught(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(16)
    ways: dict[str, Operator] = {
        "flip": lambda p, n: np.ascontiguousarray(photo(p, n)[:, ::-1]),
        "shuffle": lambda p, n: laid(tiles_of(photo(p, n), 8)[order], SIDE, SIDE),
        "own_shuffle": lambda p, n: laid(
            tiles_of(photo(p, n), 8)[np.random.default_rng([p, n]).permutation(16)], SIDE, SIDE
        ),
        "blank": lambda p, n: np.full((SIDE, SIDE, 3), 90 + n, np.uint8),
    }
    results = {name: examined(task(tmp_path / name, operator)) for name, operator in ways.items()}
    for name in ("flip", "shuffle", "own_shuffle"):
        assert first(results[name], "T2", "colours")["share"] == 1
    undone = results["shuffle"]["T2"]["inversion"]["permutation of tiles"]
    assert undone["figures"]["tile"] == 8
    assert undone["reidentification"]["fake"]["rank"]["1"]["share"] == 1
    again = results["shuffle"]["T1"]["inversion"]["permutation of tiles"]["reidentification"]["fake"]
    assert again["rank"]["1"]["share"] > 0.8  # and a shuffle is not what T1 is protected by
    assert "T1 fake permutation of tiles" in [one["name"] for one in results["shuffle"]["evidence"]["unmet"]]
    assert results["own_shuffle"]["T2"]["inversion"]["permutation of tiles"]["reidentification"] is None
    assert any(finding.startswith("utility: a face is found in 0.0%") for finding in results["blank"]["findings"])
    assert results["blank"]["T1"]["recognisers"]["fake"]["reidentification"]["naive"] is None


@pytest.mark.usefixtures("no_pictures")
def test_without_a_salt_only_what_needs_no_pairs(tmp_path: Path) -> None:
    results = examined(task(tmp_path, photo, salt=None))
    for threat in ("T1", "T2"):
        assert results[threat]["recognisers"] is None
        assert "salt" in results[threat]["reason"]
    assert results["T2"]["near_copies"]["copies"] == PEOPLE * EACH
    assert any("near-copies" in finding for finding in results["findings"])
    other = task(tmp_path / "wrong", photo, salt=b"not the secret of these tests")
    with pytest.raises(UserError, match=r"RELEASE\.json is not authentic"):
        check(other)
    wrong = examined(other, checked=False)
    assert wrong["counts"]["paired_with_source"] == 0
    why = "72 of 72 released images are paired with no original: "
    said = [[(one["name"], one["why"]) for one in each["evidence"]["unmet"][:2]] for each in (wrong, results)]
    unmeasured = ("unmeasured", f"T1 was not measured: {results['T1']['reason']}")
    assert said[0] == [("pairing", f"{why}they go back to none of these originals by this salt"), unmeasured]
    assert said[1] == [("pairing", f"{why}no salt was given"), unmeasured]


@pytest.mark.usefixtures("no_pictures")
def test_without_identities_there_is_no_t1(tmp_path: Path) -> None:
    results = examined(task(tmp_path, photo, identity=None))
    assert results["T1"]["recognisers"] is None
    assert "identity" in results["T1"]["reason"]
    assert first(results, "T2", "fake")["share"] == 1
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "Not measured: who is in the originals is not known" in page


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("keys", "released", "salt", "source", "unpaired"),
    [
        (["a", "b"], ["b", "a", "c"], SALT, [1, 0, -1], {"they go back to none of these originals by this salt": 1}),
        (["a", "b", "a"], ["a", "b"], SALT, [-1, 1], {"several originals have one key": 1}),
        (["a"], ["a"], None, [-1], {"no salt was given": 1}),
        ([], [], SALT, [], {}),
    ],
)
def test_why_images_are_paired_with_no_original(
    keys: list[str], released: list[str], salt: bytes | None, source: list[int], unpaired: dict[str, int]
) -> None:
    names = [release_key(derive(SALT), key) for key in released]
    found, why = sources_of(names, keys, salt, Shape())
    assert (found.tolist(), why) == (source, unpaired)


@pytest.mark.usefixtures("no_pictures")
def test_one_image_of_no_original_fails_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made, source = release(tmp_path, photo, stray=True), originals(tmp_path)
    monkeypatch.setattr(examining, "FaceFinder", lambda *_, **__: nullcontext(Finder()))
    monkeypatch.setattr(examining, "load_recogniser", lambda *_, **__: Recogniser())
    monkeypatch.setenv("DOPPEL_SALT", SALT.decode())
    options = ["--recognisers", "fake", "--out", str(tmp_path / "audit"), "--set", "networks=false"]
    assert main(["audit", str(source), str(made), *options]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    why = "1 of 73 released images are paired with no original: they go back to none of these originals by this salt"
    assert f"doppel: not met: pairing: {why}" in said
    told = json.loads((tmp_path / "audit" / "audit.json").read_text())["evidence"]["unmet"]
    assert told[0] == {"name": "pairing", "why": why}
    assert f"<h2>Not met</h2>\n<ul><li>pairing: {why}" in (tmp_path / "audit" / "report.html").read_text()


@pytest.mark.parametrize("shape", [Shape(copies=7), Shape(copies=2, names=("view-1", "view-2", "image-2"))], ids=str)
@pytest.mark.usefixtures("no_pictures")
def test_all_that_a_job_made_of_a_sample_goes_back_to_it(tmp_path: Path, shape: Shape) -> None:
    made = release(tmp_path, photo, people=4, shape=shape)
    one = Audit(
        originals=WebDatasetInput(urls=(str(originals(tmp_path, people=4)),)), release=made, out=tmp_path / "audit",
        salt=SALT, identity="key:Secretkey_(..)_.",
    )  # fmt: skip
    results = examined(one)
    assert results["counts"]["paired_with_source"] == len(list(shape.keys(""))) * 4 * EACH
    assert "pairing" not in [one["name"] for one in results["evidence"]["unmet"]]
    assert first(results, "T2", "fake", "parrot")["share"] == 1


@pytest.mark.parametrize("change", ["altered", "deleted", "added"])
def test_a_changed_release_is_said_so_before_anything_else(tmp_path: Path, change: str) -> None:
    one = task(tmp_path, photo)
    tar = one.release / "data" / "release-00000.tar"
    if change == "altered":
        content = bytearray(tar.read_bytes())
        content[len(content) // 2] ^= 1
        tar.write_bytes(content)
    elif change == "deleted":
        tar.unlink()
    else:
        (one.release / "data" / "more.tar").touch()
    with pytest.raises(
        UserError, match=r"release: data/(release-00000|more)\.tar (was altered|is missing|is not listed)"
    ):
        audit(config(one))
    assert not one.out.exists()


@pytest.mark.parametrize("place", [".", "audit", "data"])
def test_the_audit_never_writes_into_the_release(tmp_path: Path, place: str) -> None:
    one = task(tmp_path, photo)
    with pytest.raises(UserError, match="must lie outside the release"):
        audit(config(one, output=str(one.release / place)))
    with pytest.raises(UserError, match="must lie outside the release"):
        audit(config(one, output=str(tmp_path)))


def test_the_salt_is_not_in_the_task_s_repr(tmp_path: Path) -> None:
    assert "secret" not in repr(task(tmp_path, photo))


def test_no_identity_and_no_key_gets_into_json_or_page(kept: tuple[Audit, dict[str, Any]]) -> None:
    one, results = kept
    assert results["T1"]["recognisers"]["fake"]["worst"] is not None
    text = (one.out / "audit.json").read_text() + (one.out / "report.html").read_text()
    text = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
    keys, names = key_of(0, 0).partition("_")[0], "Secretname"
    for secret in (keys, names, SALT.decode(), release_key(derive(SALT), key_of(0, 0))):
        assert secret not in text


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_attackers_train_networks_and_run_the_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuned, "STEPS", 2)
    monkeypatch.setattr(inverter, "STEPS", 2)
    operator = Boomerang(t_boom=0.5, steps=2).model_dump(mode="json")
    release(tmp_path, photo, people=16)
    one = Audit(
        originals=WebDatasetInput(urls=(str(originals(tmp_path, people=16)),)), release=tmp_path / "release",
        out=tmp_path / "audit", salt=SALT, identity="json:identity", size=(8, 8),
        model=str(builders.model_folder(tmp_path / "model", classes=None)),
    )  # fmt: skip
    told = one.manifest.model_copy(update={"facts": {"operator": operator}})
    small = Recogniser("small")
    results = examine(replace(one, unsealed=told), Finder(), [Recogniser(), small]).results.model_dump(mode="json")  # type: ignore[arg-type, list-item]
    for threat in ("T1", "T2"):
        for name in ("fake", "small", "pixels"):
            assert results[threat]["recognisers"][name]["trained"]["own_parrot"]["queries"] == 48
        learnt = results[threat]["recognisers"]["small"]["trained"]
        assert {"fine_tuned", "fine_tuned_parrot"} < set(learnt)
        assert learnt["fine_tuned"]["rank"]["1"]["low"] > 0.3  # the release is the originals
        back = results[threat]["inversion"]["trained inverter"]
        assert back["figures"] == {"images": 48}
        assert back["reidentification"]["pixels"]["rank"]["1"]["low"] > 0.5
    assert "fine_tuned" not in results["T1"]["recognisers"]["fake"]["trained"]
    assert not [why for why in results["not_measured"] if "operator" in why]


@pytest.mark.parametrize(
    ("facts", "model", "why"),
    [
        ({}, None, "the job's model was not given"),
        ({}, "m", "RELEASE.json names no operator of this version"),
        ({"operator": {"name": "boomerang"}, "faces_only": True}, "m", "the job changed faces only"),
        ({"operator": {"name": "inpaint"}}, "m", "operator inpaint needs mask beside the image"),
    ],
)
def test_why_an_attacker_cannot_run_the_operator(
    tmp_path: Path, facts: dict[str, Any], model: str | None, why: str
) -> None:
    one = task(tmp_path, photo, model=model)
    found = operator_of(replace(one, unsealed=one.manifest.model_copy(update={"facts": facts})))
    assert isinstance(found, str)
    assert why in found


@pytest.mark.usefixtures("no_pictures")
def test_the_ode_is_walked_back_with_the_job_s_model(tmp_path: Path) -> None:
    model = str(builders.model_folder(tmp_path / "model", classes=None))
    results = examined(task(tmp_path, photo, size=(8, 8), model=model))
    for threat in ("T1", "T2"):
        undone = results[threat]["inversion"]["inverse ODE"]
        assert undone["figures"] == {"level": 0.5, "images": 72}
        assert undone["reidentification"]["pixels"]["queries"] == 72
    with pytest.raises(UserError, match="works on 8 × 8 pixels, the release has 32 × 32"):
        examined(task(tmp_path / "large", photo, model=model))


def test_pictures_of_nothing_and_of_levels() -> None:
    none = np.zeros(0, np.float32)
    empty = [
        distance_histograms({"toy, T1": {"to the source": none}}, {}),
        roc_curves({"T1": {}}),
        match_curves({"T1": {}}, {}),
        intervals({"T1": []}),
        intervals({}),
        against_level({}),
    ]
    for figure in empty:
        assert Image.open(io.BytesIO(image_of(figure))).width > 100
    points = [
        AttackAtLevel(level=t, distance=t, distance_error=0.1, over=t**2, over_error=0.02) for t in (0.1, 0.5, 0.9)
    ]
    figure = against_level({"toy": points})
    drawn = [axis.containers[0].lines[0].get_xydata().tolist() for axis in figure.axes]  # type: ignore[attr-defined]
    assert drawn == [[[t, t] for t in (0.1, 0.5, 0.9)], [[t, t**2] for t in (0.1, 0.5, 0.9)]]


def test_the_page_escapes_what_it_shows(kept: tuple[Audit, dict[str, Any]]) -> None:
    """Every text of the results becomes a tag, and none of them stays one."""

    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: one if key == "threat" else spoilt(one) for key, one in value.items()}
        if isinstance(value, list):
            return [spoilt(one) for one in value]
        return f"<x>{value}" if isinstance(value, str) else value

    page = html_report(spoilt(kept[1]), ["<x>"], {"<x>": b"png"})
    assert "<x>" not in page
    assert page.count("&lt;x&gt;") > 90


def test_a_large_release_is_attacked_by_a_sample_of_people(tmp_path: Path, no_pictures: None) -> None:
    one = task(tmp_path, photo, sample=3 * EACH + 1)
    finder = Finder()
    results = examine(one, finder, [Recogniser()]).results  # type: ignore[arg-type]
    assert results.sample is not None
    assert (results.sample.people, results.sample.of_people) == (3, PEOPLE)
    assert (results.sample.originals, results.sample.of_originals) == (3 * EACH, PEOPLE * EACH)
    assert (results.sample.released, results.sample.of_released) == (3 * EACH, PEOPLE * EACH)
    assert results.counts.people_with_two_photographs == 3
    assert results.T1.recognisers is not None
    assert results.evidence.paired == PEOPLE * EACH
    assert "sample" in results.not_measured[0]
    assert lines(results)[1] == (
        f"Sampled: {3 * EACH} of {PEOPLE * EACH} originals and {3 * EACH} of {PEOPLE * EACH} released images, of 3 of "
        f"{PEOPLE} people."
    )
    whole = examined(replace(one, sample=PEOPLE * EACH, out=tmp_path / "whole"))
    assert whole["sample"] is None
    assert "sample" not in str(whole["not_measured"])


def test_a_sample_hides_no_image_without_an_original(tmp_path: Path, no_pictures: None) -> None:
    place = release(tmp_path, photo, stray=True)
    one = replace(task(tmp_path / "other", photo, sample=EACH + 1), release=place)
    results = examine(one, Finder(), [Recogniser()]).results  # type: ignore[arg-type]
    assert results.evidence.unmet[0].name == PAIRING
    assert f"1 of {PEOPLE * EACH + 1} released images" in results.evidence.unmet[0].why
