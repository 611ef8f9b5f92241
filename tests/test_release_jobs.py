"""Whole jobs that end in a release, from the command line; and all that must never end in one.

The gate is real, its eyes are not: every image is one face, and its pixels are the person.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import yaml

from pipeline.anonymity.attacks import attackers, utility
from pipeline.anonymity.faces import recognise
from pipeline.anonymity.faces.detect import Face
from pipeline.anonymity.gate import judges
from pipeline.anonymity.gate.undoings import UNDOINGS
from pipeline.audit import examining
from pipeline.cli import main
from pipeline.commands import bounding as bounding_of_job
from pipeline.commands import release as exporting
from pipeline.engine import bounding, planning, running
from pipeline.engine import gate as verifying
from pipeline.errors import UserError
from pipeline.media.output_keys import Shape
from pipeline.media.pixels import read_picture
from pipeline.release import publish
from pipeline.release.manifest import ReleaseManifest
from pipeline.streams.places import open_store
from tests import builders
from tests.anonymity import fakes

SIDE = builders.SIDE


class Blind(fakes.LoadedFinder):
    def _of(self, image: Any) -> list[Face]:
        return []


class Crowded(fakes.LoadedFinder):
    """Thirty faces in every image, small ones."""

    def _of(self, image: Any) -> list[Face]:
        return [face for face in super()._of(image) for _ in range(30)]


class Tiny(fakes.LoadedFinder):
    def _of(self, image: Any) -> list[Face]:
        return [Face(box=(0, 0, 3, 3), eyes=None, confidence=1.0, crop=image)]


class World:
    """A folder with a recipe that works; each test spoils one thing of it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.patch = folder, patch
        patch.setenv("DOPPEL_SALT", "a secret of these tests")
        patch.setattr(running, "scan_apart", lambda *_: None)  # the gate scans for itself: other processes see no fakes
        patch.setattr(attackers, "STEPS", 20)  # in full length in test_attackers.py and test_utility.py
        patch.setattr(utility, "STEPS", 10)
        patch.setattr(examining, "draw", lambda *_: {})  # the report's pictures take as long as all the rest
        self.eyes(fakes.LoadedFinder)
        self.recogniser(lambda name: fakes.PixelRecogniser(name))
        source = builders.shard(folder / "in" / "a.tar", 11)
        model = builders.model_folder(folder / "model", classes=None)
        (folder / "certificate.json").write_text(fakes.certificate(size=(SIDE, SIDE)).model_dump_json())
        self.content = builders.recipe(source, folder / "job", model, **{
            "operator.t_boom": 0.9,
            "anonymity": {
                "detector": "dlib", "recognisers": ["fake"], "certificates": [str(folder / "certificate.json")],
                "ladder": [1.0], "identity": "key:([0-9]{3})[0-9]", "smallest_face": 4, "near_copy": 2, "workers": 1,
            },
            "release": {"path": str(folder / "release"), "audit": str(folder / "audit"), "near_copy": 0},
        })  # fmt: skip

    def eyes(self, finder: type[fakes.LoadedFinder]) -> None:
        for module in (planning, verifying, exporting):
            self.patch.setattr(module, "FaceFinder", finder)

    def recogniser(self, make: Any) -> None:
        for module in (judges, exporting):
            self.patch.setattr(module, "load_recogniser", lambda name, **_: make(name))
        self.patch.setattr(exporting, "usable", lambda detector: ["lbph", "small"])

    def run(self) -> int:
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(self.content))
        return main(["run", str(recipe)])

    @property
    def release(self) -> Path:
        return self.folder / "release"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a job that ended in a release, and what the command said; read only."""
    folder, said = tmp_path_factory.mktemp("finished"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        draw = examining.draw
        world = World(folder, patch)
        patch.setattr(examining, "draw", draw)
        assert world.run() == 0
    return folder, said.getvalue()


def test_what_shows_people_is_its_owner_s_alone(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    for private in ("job", "audit"):
        modes = {(path.is_dir(), path.stat().st_mode & 0o077) for path in (folder / private).rglob("*")}
        assert modes == {(True, 0), (False, 0)}, private
        assert (folder / private).stat().st_mode & 0o777 == 0o700


def test_a_job_ends_in_a_release_and_its_private_audit(finished: tuple[Path, str]) -> None:
    folder, said = finished
    release = folder / "release"
    manifest = json.loads((release / "RELEASE.json").read_text())
    audit = json.loads((folder / "audit" / "audit.json").read_text())
    counts = manifest["counts"]
    assert counts["released"] > 0
    assert counts["read"] == 11 == counts["released"] + sum(counts["quarantined"].values())
    assert f"{counts['released']} images released" in said
    assert audit["counts"]["paired_with_source"] == counts["released"]
    assert set(audit["T1"]["recognisers"]) >= {"fake", "lbph", "small"}
    assert (folder / "audit" / "report.html").stat().st_size > 1000
    assert manifest["facts"]["gate"]["recognisers"][0]["name"] == "fake"
    assert manifest["facts"]["gate"]["undoings"] == list(UNDOINGS)
    assert manifest["facts"]["gate"]["families"] == ["fake"]
    text = (release / "README.md").read_text()
    assert "- All recognisers of the gate are of one family (fake): what fools one fools the others" in text
    assert "- What would pass was judged again undone: negative, quarter turn, half turn" in text
    assert "- For 11 of 11 originals rank proves nothing" in text
    assert sum(manifest["facts"]["images_by_attempt"].values()) == counts["released"]
    public = b"".join(path.read_bytes() for path in release.rglob("*") if path.is_file())
    for secret in (b"a secret of these tests", b"caption", str(folder).encode()):
        assert secret not in public


def test_the_bound_stands_in_manifest_card_and_audit(finished: tuple[Path, str]) -> None:
    """Of 11 originals behind the noise of level .9 with random weights; a further round of pure noise tells nothing."""
    folder, _ = finished
    release = folder / "release"
    manifest = json.loads((release / "RELEASE.json").read_text())
    bound = manifest["bound"]
    figures = bound["figures"]
    assert (figures["originals"], figures["asked"], bound["weights"]["images"]) == (11, None, None)
    assert figures["chance"] < figures["rank_1"]["low"] <= figures["rank_1"]["high"] <= figures["with_gate"] <= 1
    assert figures["least_noise"] == pytest.approx(6.31, rel=0.02)  # cos²: the σ of .9 on T = 1000
    assert json.loads((folder / "audit" / "audit.json").read_text())["bound"] == bound
    for public in ((release / name).read_text() for name in ("README.md", "ASSESSMENT.md")):
        assert all(sentence in " ".join(public.split()) for sentence in bound["said"])
    assert "first in" in (folder / "audit" / "report.html").read_text()


def test_a_bound_that_is_asked_for_is_kept_or_nothing_is_released(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.content["operator"]["t_boom"] = {"bound": 0.3}
    world.content["anonymity"]["ladder"] = []
    assert world.run() == 0
    figures = json.loads((world.release / "RELEASE.json").read_text())["bound"]["figures"]
    assert figures["asked"] == 0.3 >= figures["rank_1"]["high"] > 0.25
    shutil.rmtree(world.release)
    with_less = bounding.hiding
    monkeypatch.setattr(bounding_of_job, "hiding", lambda plan: [one / 3 for one in with_less(plan)])
    monkeypatch.setattr(bounding_of_job, "looks", lambda made, keys, rounds: (np.full(len(keys), rounds[0]), [1]))
    capsys.readouterr()
    assert world.run() == 2
    assert re.search(r"operator\.t_boom: a bound of 0\.3 was asked for, and now the best", capsys.readouterr().err)
    assert not list(world.folder.rglob("RELEASE.json"))


def test_no_hash_of_an_original_is_kept(finished: tuple[Path, str]) -> None:
    """It would tell a photograph to whoever has it."""
    folder, _ = finished
    kept = b"".join(
        file.read_bytes()
        for name in ("job", "audit", "release")
        for file in (folder / name).rglob("*")
        if file.is_file()
    )
    assert b"doppel.json" in kept
    for i in range(11):
        content = read_picture(builders.picture(i)).content
        assert content is not None
        assert content[:12].encode() not in kept


OF_SEVERAL_IMAGES: dict[str, tuple[dict[str, Any], int]] = {
    "8 copies": ({"name": "anagram", "views": ["identity"], "conditions": ["none"], "copies": 8}, 8),
    "anagram": (
        {"name": "anagram", "views": ["identity", "flip_vertical", "negate"], "conditions": ["none"] * 3, "copies": 2},
        6,
    ),
    "two-image morph": ({"name": "tile_morph", "tiles": 2, "conditions": ["none"] * 2}, 2),
}


@pytest.mark.parametrize("name", OF_SEVERAL_IMAGES)
def test_every_image_of_a_sample_is_paired_with_it(world: World, name: str) -> None:
    operator, each = OF_SEVERAL_IMAGES[name]
    world.content["operator"] = {"steps": 2, "guidance": 1, **operator}
    world.content["anonymity"] |= {"ladder": [], "identity": "key:(.*)"}
    world.content["release"]["accept"] = ["unmeasured"]  # nobody has a second photograph
    builders.shard(world.folder / "in" / "a.tar", 14)  # few enough are nearest to their own source
    assert world.run() == 0
    counts = json.loads((world.folder / "audit" / "audit.json").read_text())["counts"]
    assert counts["paired_with_source"] == counts["released"] > 0
    assert counts["released"] % each == 0


def test_a_release_that_cannot_be_paired_is_not_sealed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if it did not say how many copies there are of each."""

    def silent(*given: Any, **named: Any) -> ReleaseManifest:
        return publish(*given, **named).model_copy(update={"outputs": Shape()})

    monkeypatch.setattr(exporting, "publish", silent)
    world.content["operator"]["copies"] = 2
    assert world.run() == 1
    said = capsys.readouterr().err
    assert re.search(r"not met: pairing: (\d+) of \1 released images are paired with no original", said)
    assert (world.folder / "audit" / "audit.json").exists()
    assert not list(world.folder.rglob("RELEASE.json"))


def test_without_the_package_for_its_plots_no_job_starts(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert world.run() == 2
    assert "the audit of a release needs the package matplotlib" in capsys.readouterr().err
    assert not (world.folder / "job").exists()


def test_each_recogniser_is_loaded_once_a_process(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the plan, the gate, the release and its audit alike."""
    built: list[str] = []

    def maker(name: str) -> Callable[[str, int], fakes.PixelRecogniser]:
        return lambda device, workers: built.append(name) or fakes.PixelRecogniser(name)  # type: ignore[func-returns-value]

    recognise.loaded.cache_clear()
    monkeypatch.setattr(recognise, "OWN", {name: maker(name) for name in ("fake", "lbph", "small")})
    monkeypatch.setattr(recognise, "FAMILIES", {name: name for name in ("fake", "lbph", "small")})
    for module in (judges, exporting):
        monkeypatch.setattr(module, "load_recogniser", recognise.load_recogniser)
    assert world.run() == 0
    recognise.loaded.cache_clear()
    assert sorted(built) == ["fake", "lbph", "small"]


def test_of_several_certificates_the_one_for_the_size_counts(world: World) -> None:
    (world.folder / "other.json").write_text(fakes.certificate(size=(64, 64)).model_dump_json())
    world.content["anonymity"]["certificates"].insert(0, str(world.folder / "other.json"))
    assert world.run() == 0


def test_the_same_job_again_changes_nothing(finished: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished
    before = builders.tree(folder, "release")
    assert World(folder, monkeypatch).run() == 0
    assert builders.tree(folder, "release") == before


def test_a_signed_job_is_verified_by_its_public_key(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new-key", str(world.folder / "key")]) == 0
    world.content["release"] |= {"sign": str(world.folder / "key"), "assessment": {"purpose": "these tests"}}
    assert world.run() == 0
    assert main(["verify", str(world.release), "--key", str(world.folder / "key.pub")]) == 0
    assert "these tests" in (world.release / "ASSESSMENT.md").read_text()
    assert main(["new-key", str(world.folder / "other")]) == 0
    capsys.readouterr()
    assert main(["verify", str(world.release), "--key", str(world.folder / "other.pub")]) == 1
    assert "names another key as its signer" in capsys.readouterr().out


def test_a_job_and_its_release_in_a_store_are_those_on_a_disk(
    finished: tuple[Path, str], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"memory://{uuid4().hex}"
    world.content["output"] = {**world.content["output"], "path": f"{place}/job"}
    world.content["release"] |= {"path": f"{place}/release", "audit": f"{place}/audit"}
    assert world.run() == 0
    said, store = capsys.readouterr(), open_store(place)
    assert f"{place}/audit/report.html: the private audit" in said.out
    assert f"{place}/audit will hold originals and faces" in said.err
    made = {entry.path: entry.mark for entry in store.list("")}
    on_disk = builders.tree(finished[0], "release")
    assert {path: store.read(path) for path in made if path.startswith("release/")} == on_disk
    audit = {path for path in made if path.startswith("audit/")}
    assert {"audit/audit.json", "audit/report.html", "audit/before_after.png"} < audit
    assert any(path.startswith("job/faces/made/") for path in made)
    assert world.run() == 0
    again = {entry.path: entry.mark for entry in store.list("release")}
    assert again == {path: mark for path, mark in made.items() if path.startswith("release/")}


@pytest.mark.parametrize("spoil", ["alter", "delete", "add"])
def test_an_audit_says_what_was_altered(
    spoil: str, finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = finished
    release = shutil.copytree(folder / "release", tmp_path / "release")
    shard = next((release / "data").glob("*.tar"))
    if spoil == "alter":
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 1
        shard.write_bytes(content)
    elif spoil == "delete":
        shard.unlink()
    else:
        (release / "data" / "more.tar").write_bytes(b"")
    arguments = [str(folder / "in" / "a.tar"), str(release), "--out", str(tmp_path / "second")]
    assert main(["audit", *arguments]) == 2
    said = capsys.readouterr().err
    assert {"alter": "was altered", "delete": "is missing", "add": "is not listed"}[spoil] in said
    assert len(said.strip().splitlines()) == 1


def grey(world: World) -> None:
    builders.shard(world.folder / "in" / "a.tar", 11, mode="L")


def test_grey_images_are_released_like_others(world: World) -> None:
    grey(world)
    assert world.run() == 0
    assert (world.release / "RELEASE.json").exists()


def no_faces(world: World) -> None:
    world.eyes(Blind)


def a_crowd_that_changes(world: World) -> None:
    class Changing(Crowded):
        """As many faces as the image is bright: outputs have other counts."""

        def _of(self, image: Any) -> list[Face]:
            return super()._of(image)[: 1 + int(np.asarray(image).sum()) % 29]

    world.eyes(Changing)


def tiny_faces(world: World) -> None:
    world.eyes(Tiny)


def missing_weights(world: World) -> None:
    def refuse(name: str) -> Any:
        raise UserError(f"recogniser {name}: put FILE, sha256 abc, into FOLDER")

    world.recogniser(refuse)


def another_detector(world: World) -> None:
    other = fakes.certificate(size=(SIDE, SIDE), detector="retinaface")
    (world.folder / "certificate.json").write_text(other.model_dump_json())


def another_size(world: World) -> None:
    (world.folder / "certificate.json").write_text(fakes.certificate(size=(64, 64)).model_dump_json())


def poor_recogniser(world: World) -> None:
    poor = fakes.certificate(size=(SIDE, SIDE), tar={"1e-2": 0.5, "1e-3": 0.4, "1e-4": 0.1})
    (world.folder / "certificate.json").write_text(poor.model_dump_json())


def other_weights(world: World) -> None:
    other = fakes.certificate(size=(SIDE, SIDE), weights="of another training")
    (world.folder / "certificate.json").write_text(other.model_dump_json())


def too_low_for_one_family(world: World) -> None:
    world.content["operator"]["t_boom"] = 0.5


def nobody_named(world: World) -> None:
    world.content["anonymity"]["identity"] = "json:name"


def no_salt(world: World) -> None:
    world.patch.delenv("DOPPEL_SALT")


def short_salt(world: World) -> None:
    world.patch.setenv("DOPPEL_SALT", "too short")


def occupied(world: World) -> None:
    world.release.mkdir()
    (world.release / "mine.txt").write_text("keep")


def breaks_in_the_middle(world: World) -> None:
    world.recogniser(lambda name: fakes.PixelRecogniser(name, raises_at=3))


def audit_inside_release(world: World) -> None:
    world.content["release"]["audit"] = str(world.release / "audit")


def a_public_key(world: World) -> None:
    main(["new-key", str(world.folder / "key")])
    world.content["release"]["sign"] = str(world.folder / "key.pub")


def no_key(world: World) -> None:
    world.content["release"]["sign"] = str(world.folder / "key")


def out_of_date(world: World) -> None:
    world.content["release"]["assessment"] = {"review_by": "2020-01-01"}


def no_gate(world: World) -> None:
    del world.content["anonymity"]


BAD: dict[Any, str] = {
    no_faces: "finds no face in any of 11 originals",
    a_crowd_that_changes: "no image",
    tiny_faces: "no image",
    missing_weights: "put FILE, sha256 abc, into FOLDER",
    another_detector: "holds for detector 'retinaface' only",
    another_size: "holds for image size '64 × 64' only",
    poor_recogniser: "may certify nothing",
    other_weights: "holds for recogniser's weights 'of another training' only, found 'fake-weights'",
    too_low_for_one_family: "operator.t_boom: all recognisers of the gate are of one family (fake)",
    nobody_named: "names nobody in any of 11 originals",
    no_salt: "secret salt of at least 16 bytes",
    short_salt: "holds 9 bytes; at least 16",
    occupied: "is not empty",
    audit_inside_release: "lie in each other",
    a_public_key: "release.sign: an Ed25519 private key in PEM (PKCS #8) is expected",
    no_key: "release.sign: cannot read",
    out_of_date: "release.assessment.review_by is 2020-01-01, and today is",
    no_gate: "release needs a section anonymity",
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__)
def test_bad_input_never_ends_in_a_release(spoil: Any, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(world)
    assert world.run() != 0
    said = capsys.readouterr().err
    assert BAD[spoil] in said
    assert "Traceback" not in said
    assert not list(world.folder.rglob("RELEASE.json"))
    assert "a secret of these tests" not in said
    if spoil is occupied:
        assert (world.release / "mine.txt").read_text() == "keep"


def test_a_recogniser_that_breaks_ends_the_job_and_the_next_run_goes_on(world: World) -> None:
    breaks_in_the_middle(world)
    with pytest.raises(RuntimeError, match="the recogniser broke"):
        world.run()
    assert not list(world.folder.rglob("RELEASE.json"))
    world.recogniser(lambda name: fakes.PixelRecogniser(name))
    assert world.run() == 0


def test_faces_that_are_too_small_are_named_as_the_reason(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_faces(world)
    assert world.run() != 0
    assert "a face is too small to be judged" in capsys.readouterr().out


@pytest.mark.parametrize("step", ["publish", "examine", "seal"])
def test_a_step_that_fails_leaves_no_release(step: str, world: World) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(f"{step} failed")

    with world.patch.context() as patch:
        patch.setattr(exporting, step, fail)
        with pytest.raises(RuntimeError, match=f"{step} failed"):
            world.run()
    assert not list(world.folder.rglob("RELEASE.json"))
    assert world.run() == 0
    assert (world.release / "RELEASE.json").exists()
