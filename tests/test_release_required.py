"""A release is sealed only if its audit finds what it requires, or its recipe accepts by name what it does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.anonymity.attacks.figures import RankShare, SearchFigures, ThreatFigures
from pipeline.anonymity.attacks.identification import share
from pipeline.audit import examining, proving
from pipeline.audit.verdict import headline, remedy
from pipeline.release.evidence import Attacker, AttackRate, Finding, ReleaseEvidence, Require
from tests import builders
from tests.test_release_jobs import World

MEASURED = ThreatFigures(statement="", recognisers={}, inversion={})
OTHER = Attacker(name="lbph", family="lbph", in_gate=False, clean_tar=0.1)


def attack(low: float, chance: float, name: str = "lbph", kind: str = "naive") -> AttackRate:
    rank = RankShare(share=low + 0.01, low=low, high=low + 0.05, chance=chance, by_guessing=0.5)
    figures = SearchFigures(queries=100, people=50, gallery=99, rank={"1": rank, "10": rank})
    return proving.rated("T1", name, kind, figures, 0.5, Require())


@pytest.mark.parametrize(
    ("low", "chance", "too_often"),
    [
        (0.0201, 0.005, True),  # above 2 %, and above twice chance
        (0.02, 0.005, False),  # not above it
        (0.0199, 0.001, False),  # twenty times chance, and under 2 %
        (0.11, 0.06, False),  # chance is large: a small gallery
        (0.121, 0.06, True),
        (0.0, 0.0, False),
    ],
)
def test_the_whole_interval_must_lie_above_the_larger_limit(low: float, chance: float, too_often: bool) -> None:
    one = attack(low, chance)
    assert one.too_often is too_often
    assert one.limit == pytest.approx(max(2 * chance, 0.02))
    found = proving.findings_of({}, 9, MEASURED, [OTHER], [one])
    assert [finding.name for finding in found] == ["T1 lbph naive"] * too_often


def test_t2_is_measured_and_not_required() -> None:
    rank = RankShare(share=1, low=0.99, high=1, chance=0.01, by_guessing=0)
    figures = SearchFigures(queries=9, people=9, gallery=9, rank={"1": rank, "10": rank})
    one = proving.rated("T2", "pixels", "naive", figures, 0, Require())
    assert (one.limit, one.too_often) == (None, False)


def test_what_else_is_required() -> None:
    gate = [Attacker(name=name, family="dlib", in_gate=name == "Dlib", clean_tar=0.9) for name in ("Dlib", "dlib-chip")]
    unmeasured = ThreatFigures(statement="", recognisers=None, reason="no identity was given", inversion={})
    found = proving.findings_of({"no salt was given": 3}, 9, unmeasured, gate, [])
    assert [one.name for one in found] == ["pairing", "unmeasured", "unused_family"]
    assert found[0].why == "3 of 9 released images are paired with no original: no salt was given"
    assert "of a family of the gate, or of its guidance (dlib)" in found[2].why
    guided = OTHER.model_copy(update={"guides": True})
    assert [one.name for one in proving.findings_of({}, 9, MEASURED, [*gate, guided], [])] == ["unused_family"]
    assert proving.findings_of({}, 9, MEASURED, [*gate, OTHER], []) == ()


def test_what_is_accepted_by_name_stands_and_no_more() -> None:
    found = [Finding(name=name, why="") for name in ("pairing", "unused_family", "T1 lbph naive", "T1 small naive")]
    empty = ReleaseEvidence(
        required=Require(), paired=1, attackers=(), attacks=(), leave_one_out=(), not_measured=()
    )  # fmt: skip
    done = proving.judged(empty, found, ("pairing", "unused_family", "T1 lbph naive", "T1 dlib naive"))
    assert [one.name for one in done.unmet] == ["pairing", "T1 small naive"]  # what has no original is never accepted
    assert [one.name for one in done.accepted] == ["unused_family", "T1 lbph naive"]
    assert headline(done).startswith("Verdict: not proven. 2 of what is required is not met: pairing; T1 small naive")
    assert headline(proving.judged(empty, found[1:2], ("unused_family",))).endswith("by name: unused_family.")
    assert headline(proving.judged(empty, (), ())).startswith("Verdict: what is required holds: 0 attacks")
    for one in found:
        assert len(remedy(one.name)) > 40


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def one_finding(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As if the audit found what has that name."""
    of_audit = examining.findings_of

    def found(*given: Any) -> tuple[Finding, ...]:
        return (*of_audit(*given), Finding(name=name, why="31.8% found first (20.0% to 40.0%), chance 5.90%"))

    monkeypatch.setattr(examining, "findings_of", found)


def test_what_is_not_met_is_printed_and_nothing_is_sealed(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_finding(monkeypatch, "T1 lbph naive")
    assert world.run() == 1
    said = capsys.readouterr()
    assert "doppel: not met: T1 lbph naive: 31.8% found first" in said.err
    assert "Verdict: not proven" in said.out
    assert "what to do: T1 lbph naive: raise operator.t_boom" in said.out
    assert "RELEASE.json lists every file" not in said.out
    assert not list(world.folder.rglob("RELEASE.json"))
    told = json.loads((world.folder / "audit" / "audit.json").read_text())
    assert (told["release"], [one["name"] for one in told["evidence"]["unmet"]]) == (None, ["T1 lbph naive"])
    page = (world.folder / "audit" / "report.html").read_text()
    assert page.index("Verdict: not proven") < page.index("<table>")


def test_what_the_recipe_accepts_stands_in_the_public_card(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one_finding(monkeypatch, "T1 lbph naive")
    world.content["release"]["accept"] = ["T1 lbph naive"]
    assert world.run() == 0
    assert "but for what was accepted by name: T1 lbph naive" in capsys.readouterr().out
    evidence = json.loads((world.release / "RELEASE.json").read_text())["evidence"]
    assert [one["name"] for one in evidence["accepted"]] == ["T1 lbph naive"]
    assert evidence["unmet"] == []
    card = (world.release / "README.md").read_text()
    assert "**That does not hold.** The publisher has accepted by name:" in card
    assert "31.8% found first (20.0% to 40.0%), chance 5.90%" in card


def test_an_image_without_an_original_cannot_be_accepted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.content["release"]["accept"] = ["pairing"]
    assert world.run() == 2
    assert "release.accept.0: it is no finding; allowed are unmeasured, unused_family and T1" in capsys.readouterr().err


def test_the_card_always_has_the_figures_of_t2(world: World) -> None:
    assert world.run() == 0
    manifest = json.loads((world.release / "RELEASE.json").read_text())
    evidence, card = manifest["evidence"], (world.release / "README.md").read_text()
    assert evidence["accepted"] == []
    worst = max(
        (one for one in evidence["attacks"] if one["threat"] == "T2"), key=lambda one: (one["low"], one["share"])
    )
    table = card[card.index("T2 is not solved") :]
    assert f"| {worst['share']:.1%} ({worst['low']:.1%}–{worst['high']:.1%}) |" in table
    assert "It was required" in card
    assert "**That does not hold.**" not in card


def test_an_audit_of_the_gate_s_own_family_proves_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.commands import release as exporting

    monkeypatch.setattr(exporting, "usable", lambda detector: [])
    assert world.run() == 1
    assert (
        "not met: unused_family: every recogniser of the audit is of a family of the gate, or of its guidance (fake)"
        in (capsys.readouterr().err)
    )


def test_a_recogniser_left_out_of_the_gate_attacks_what_the_others_let_pass(world: World) -> None:
    """Of a gate with two families, each is left out once; those beyond it attack the release as it is."""
    from tests.anonymity import fakes

    class Half(fakes.PixelRecogniser):
        """Sees the left half of each picture only."""

        def embed(self, crops: Any) -> Any:
            return super().embed([crop[:, : crop.shape[1] // 2] for crop in crops])

    class Lenient(fakes.PixelRecogniser):
        """Knows nobody but in the same picture: what `half` alone refuses at the first level would pass without it."""

        threshold = 1e-3

    kinds = {"half": Half, "fake": Lenient}
    world.recogniser(lambda name: kinds.get(name, fakes.PixelRecogniser)(name))
    world.content["operator"]["t_boom"] = 0.4
    other = fakes.certificate(size=(builders.SIDE, builders.SIDE), recogniser="half")
    (world.folder / "other.json").write_text(other.model_dump_json())
    world.content["anonymity"] |= {
        "recognisers": ["fake", "half"],
        "certificates": [str(world.folder / name) for name in ("certificate.json", "other.json")],
    }
    assert world.run() == 0
    evidence = json.loads((world.release / "RELEASE.json").read_text())["evidence"]
    rows = {one["attacker"]: one for one in evidence["leave_one_out"]}
    assert {name: one["gate"] for name, one in rows.items()} == {
        "fake": ["half"], "half": ["fake"], "lbph": ["fake", "half"], "small": ["fake", "half"],
    }  # fmt: skip
    released = json.loads((world.folder / "audit" / "audit.json").read_text())["counts"]["released"]
    assert rows["lbph"]["images"] == released
    assert all(rows[name]["images"] >= released for name in ("fake", "half"))
    assert rows["half"]["earlier"] > 0
    assert rows["fake"]["earlier"] == 0  # what `half` refuses does not pass without `fake`
    kept = list((world.folder / "job" / "faces" / "attempts").glob("*.safetensors"))
    assert len(kept) == 1
    assert kept[0].stat().st_mode & 0o777 == 0o600
    assert "fake" in (world.release / "README.md").read_text()


def test_the_verdict_comes_before_all_else(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.run() == 0
    said = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(said) if line.startswith("Verdict"))
    assert said[first + 1].startswith("Worst attack under T1")
    assert any("beat guessing after correction for their number (Holm" in line for line in said)
    assert any(line.startswith("T2 (the source photograph itself) is not solved.") for line in said)


@pytest.mark.parametrize(
    ("people", "chance", "rate", "least", "most"),
    [
        (20, 0.05, 0.05, 0, 0.01),  # accident seldom reaches the limit, whatever the size
        (50, 0.01, 0.01, 0, 0.01),
        (300, 0.004, 0.004, 0, 0.01),
        (20, 0.05, 0.3, 0.3, 0.6),  # with few people, much is not seen: docs/release.md says so
        (50, 0.01, 0.12, 0.4, 0.75),
        (300, 0.004, 0.06, 0.85, 1),
    ],
)
def test_how_often_an_attack_is_said_to_go_too_far(
    people: int, chance: float, rate: float, least: float, most: float
) -> None:
    """Attacks that find both photographs of a person, or none, by the rate at which they find people."""
    rng = np.random.default_rng(0)
    person, limit = np.repeat(np.arange(people), 2), Require().limit(chance)
    found = [np.repeat(rng.random(people) < rate, 2) for _ in range(200)]
    assert least <= np.mean([share(hits, person).low > limit for hits in found]) <= most
