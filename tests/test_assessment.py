"""What only a person can say: it is published as it was said, and what nobody has said is "not stated"."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.cli import build_parser
from pipeline.config import validate
from pipeline.errors import UserError
from pipeline.release import ReleaseConfig
from pipeline.release.assessment import Assessment
from pipeline.release.assessment_page import COMMANDS, assessment_page
from pipeline.release.card import card
from pipeline.release.evidence import Attacker, AttackRate, Finding, ReleaseEvidence, Require, WorstPerson
from pipeline.release.evidence_page import statements
from pipeline.release.manifest import ReleaseManifest
from pipeline.release.markdown import plain
from tests.finished_job import Source, people, refuse_seal, released

TEXTS = sorted(
    set(Assessment.model_fields)
    - {"access", "safeguards", "mitigation", "tests", "review_by", "expires", "sign_off"}
)  # fmt: skip
WHOLE: dict[str, Any] = {
    **{name: f"the words on {name}" for name in TEXTS}, "access": "agreement",
    "safeguards": ["locked rooms", "no copies"], "mitigation": ["small images"],
    "tests": [{"by": "two students", "hours": 12.5, "tools": ["search by image"], "result": "nobody was found"}],
    "review_by": "2998-01-01", "expires": "2999-01-01",
    "sign_off": {"name": "A. Person", "role": "officer", "day": "2020-02-29"},
}  # fmt: skip
HEADINGS = (
    "6 Context", "6.2 Threats", "6.3 Transparency", "7 Data", "7.2 Features", "7.3 Attacks", "8 Identifiability",
    "8.2 Quantified identifiability", "8.2.3 Adversarial testing", "8.3 Mitigation", "9 Governance",
)  # fmt: skip
"""Clauses of ISO/IEC 27559:2022."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> ReleaseManifest:
    sources = [Source(key=f"Key_{i:02d}", who=f"Who {i // 2}", label=int(i > 11), seed=i) for i in range(24)]
    release = released(tmp_path_factory.mktemp("release"), [sources], labels=(0, 1), assessment=WHOLE)
    return ReleaseManifest.from_json((release / "RELEASE.json").read_bytes(), "")


def page(manifest: ReleaseManifest, **said: Any) -> str:
    return assessment_page(manifest.model_copy(update={"assessment": Assessment.model_validate(said)}))


def test_all_that_was_said_is_filed_as_the_publisher_s_own(manifest: ReleaseManifest) -> None:
    text = assessment_page(manifest)
    assert [heading for heading in HEADINGS if heading not in text] == []
    for name in TEXTS:
        (line,) = (line for line in text.splitlines() if plain(f"the words on {name}") in line)
        assert line.startswith("- **P** ")
    assert "| two students | 12.5 | search by image | nobody was found |" in text
    assert "**P** Signed off by: A. Person, officer, on 2020-02-29." in text
    assert "locked rooms; no copies" in text
    assert "not stated" not in text.partition("## 6 Context")[2]
    content = json.loads(manifest.model_dump_json())["assessment"]
    assert content == {**WHOLE, "sign_off": WHOLE["sign_off"]}


def test_what_nobody_has_said_is_not_stated(manifest: ReleaseManifest) -> None:
    for text in (page(manifest), assessment_page(manifest.model_copy(update={"assessment": None}))):
        asked = [line for line in text.splitlines() if line.startswith("- **P**")]
        assert len(asked) >= len(Assessment.model_fields)
        assert [line for line in asked if "not stated" not in line] == []
        assert "Nobody has taken responsibility for this release by name." in text


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_each_answer_fills_its_own_line(manifest: ReleaseManifest, name: str) -> None:
    empty, said = page(manifest).splitlines(), page(manifest, **{name: WHOLE[name]}).splitlines()
    assert 1 <= len(set(said) - set(empty)) <= 3
    assert 1 <= len(set(empty) - set(said)) <= 3


def test_every_figure_names_a_command_that_exists(manifest: ReleaseManifest) -> None:
    (subcommands,) = (action.choices for action in build_parser()._actions if isinstance(action.choices, dict))
    for command in COMMANDS.values():
        assert re.findall(r"`doppel ([a-z-]+) ", command)[0] in subcommands
    table = assessment_page(manifest).partition("| figure | value | made again by |")[2].partition("\n\n")[0]
    lines = table.strip().splitlines()[1:]
    assert len(lines) >= 7
    assert all(line.split("|")[3].strip() in COMMANDS.values() for line in lines)


def test_people_and_groups_are_counted(manifest: ReleaseManifest, tmp_path: Path) -> None:
    """24 images of 12 people: 6 hold each label."""
    assert (manifest.counts.people, manifest.counts.holders) == (12, {"0": 6, "1": 6})
    text = assessment_page(manifest)
    assert "photographs of 12 known people" in text
    assert "smallest group that shares a published label is of 6 people" in text
    nobody = [Source(key=f"Key_{i:02d}", label=int(i > 6), seed=i) for i in range(12)]
    release = released(tmp_path, [nobody], labels=(0, 1))
    unknown = ReleaseManifest.from_json((release / "RELEASE.json").read_bytes(), "")
    assert (unknown.counts.people, unknown.counts.holders) == (None, {"0": 7, "1": 5})
    card = (release / "README.md").read_text()
    assert "How many people are in the release is not known" in card
    assert "smallest group that shares a published label is of 5 images" in card


PLAIN_INLINE = {"text", "softbreak", "code_inline", "strong_open", "strong_close", "em_open", "em_close"}


def texts(document: str) -> list[str]:
    """The text of each paragraph, item and cell, as a reader of Markdown sees it; HTML is an error."""
    found = list[str]()
    for token in MarkdownIt("commonmark").enable("table").parse(document):
        assert token.type != "html_block"
        for child in token.children or []:
            assert child.type in PLAIN_INLINE
        if token.type == "inline":
            found.append("".join(child.content for child in token.children or []))
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=80).filter(str.strip))
@example("&lt;b&gt; <script>alert(1)</script> | a | [x](y) `code` **b** \\| \\")
def test_no_text_breaks_the_document(manifest: ReleaseManifest, text: str) -> None:
    """Read by an independent parser, it is there as it was said, and all else stays as it is with other words."""
    said, other = (
        texts(page(manifest, purpose=t, tests=[{"by": t, "hours": 1, "tools": [t], "result": t}])) for t in (text, "x")
    )
    shown = " ".join(text.split())
    assert said == [{"P Purpose: x": f"P Purpose: {shown}", "x": shown}.get(line, line) for line in other]


def rate(threat: Literal["T1", "T2"], attacker: str, attack: str, found: float) -> AttackRate:
    return AttackRate(
        threat=threat, attacker=attacker, attack=attack, queries=20, people=10, share=found, low=found / 2,
        high=2 * found, chance=0.0625, limit=0.125 if threat == "T1" else None, p=0.5,
    )  # fmt: skip


def proven() -> ReleaseEvidence:
    worst = rate("T1", "a|b", "naive", 0.31)
    return ReleaseEvidence(
        required=Require(), paired=24, attackers=(
            Attacker(name="a|b", family="<f>", in_gate=False, clean_tar=0.75),
            Attacker(name="Dlib", family="dlib", in_gate=True, clean_tar=None),
        ),
        attacks=(rate("T1", "Dlib", "naive", 0.01), worst, rate("T2", "a|b", "reverse", 0.44)),
        worst_people=(WorstPerson(threat="T1", attacker="a|b", queries=5, share=0.6, people=9, by_guessing=0.07),),
        leave_one_out=(), not_measured=("nothing of *that*",), accepted=(Finding(name=worst.name, why=worst.told),),
    )  # fmt: skip


def test_what_the_audit_found_stands_in_both_documents(manifest: ReleaseManifest) -> None:
    """The worst first; the average beside the worst person; what was accepted; and the tools."""
    found = manifest.model_copy(update={"evidence": proven()})
    for document in (assessment_page(found), card(found)):
        said = texts(document)
        for words in ("31.0% (15.5%–62.0%)", "60% of 5 images", "7%", "nothing of *that*", "a|b", "75.0%"):
            assert words in said
        assert "T1 a|b naive: a|b, naive: 31.0% found first (15.5% to 62.0%), chance 6.25%, allowed 12.5%" in said
        assert "That does not hold." in document
    assert "3 attacks (naive, reverse) by 2 recognisers and layouts (Dlib, a|b)" in "".join(
        texts(assessment_page(found))
    )
    nobody = found.model_copy(update={"evidence": proven().model_copy(update={"worst_people": ()})})
    assert "nobody is known to have images enough to be called the worst" in assessment_page(nobody)
    lines = statements(found)
    assert lines[0].startswith("T1, the attack that reaches farthest: a|b, naive: 31.0%")
    assert lines[1].startswith("T2, the attack that reaches farthest: a|b, reverse: 44.0%")
    assert lines[2].startswith("accepted unproven: T1 a|b naive")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"purpse": "x"}, "did you mean 'purpose'"),
        ({"purpose": " "}, "assessment.purpose: String should have at least 1 character"),
        ({"purpose": "x" * 4001}, "at most 4000"),
        ({"purpose": "a\x1b[2Jb"}, "without control characters"),
        ({"access": "anybody"}, "'public', 'agreement' or 'enclave'"),
        ({"tests": [{"by": "x", "hours": 0, "tools": ["x"], "result": "x"}]}, "greater than 0"),
        ({"tests": [{"by": "x", "hours": 1, "tools": [], "result": "x"}]}, "at least 1 item"),
        ({"tests": [{"by": "x", "hours": 1, "tools": ["x"]}]}, "result is missing"),
        ({"sign_off": {"name": "x", "role": "y"}}, "day is missing"),
        ({"sign_off": "A. Person"}, "assessment.sign_off"),
        ({"review_by": "soon"}, "assessment.review_by"),
        ({"review_by": "2999-01-02", "expires": "2999-01-01"}, "review_by lies after expires"),
        ({"expires": "2020-01-01", "sign_off": WHOLE["sign_off"]}, "day lies after review_by or expires"),
    ],
)
def test_bad_assessments(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as refused:
        validate(ReleaseConfig, {"path": "a", "audit": "b", "assessment": changes}, "test")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("purpose", "Person Number 001"), ("recipients", "relatives of person number 002, of all"),
        ("custodian", "see /home/me/originals"), ("motives", "Person_Number_001_0000"), ("policies", "~/policy.txt"),
        ("safeguards", ["none", "file:/etc"]), ("sign_off", {**WHOLE["sign_off"], "name": "Person Number 000"}),
    ],
)  # fmt: skip
def test_an_assessment_that_names_a_person_of_the_source_or_a_place(field: str, said: Any, tmp_path: Path) -> None:
    sentence = rf"^release\.assessment\.{field} holds a path, or the key or the name of somebody in the source"
    with pytest.raises(UserError, match=sentence) as refused:
        released(tmp_path, [people(3)], assessment={field: said})
    assert "Number" not in str(refused.value)
    refuse_seal(tmp_path)


def test_a_number_of_a_person_in_a_date_is_no_name(tmp_path: Path) -> None:
    sources = [Source(key=f"k{i}", who=str(2998 + i), seed=i) for i in range(3)]
    assert released(tmp_path, [sources], assessment={"review_by": "2998-01-01", "purpose": "either/or, 1/2, ~5"})
