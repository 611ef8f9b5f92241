"""Captions → edits, by each of the three ways."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.instructions import Edit, Edits, to_line, write_edits
from pipeline.config import validate
from pipeline.errors import UserError
from pipeline.streams.captions import CaptionsInput
from tests.streams.made import everything

CAPTIONS = [("7", "A Cat on the grass, a cat's dream"), ("8", "a bobcat among cattle"), ("9", "a red car")]
RULES = [{"find": "cat", "replace": ["dog", "fox"]}, {"find": "red car", "replace": "bus", "instruction": "{replace}!"}]


def edits(content: dict[str, Any], captions: Iterable[tuple[str, str]] = CAPTIONS) -> list[Edit]:
    return list(write_edits(validate(Edits, content, "test"), captions))


def shout(caption: str) -> Iterator[Edit]:
    """A writer."""
    for mark in "!?"[: caption.count("cat")]:
        yield Edit(caption=caption, edited=caption + mark, instruction=f"add {mark}")


def mumble(caption: str) -> list[str]:
    """No writer."""
    return [caption]


def test_rules_exchange_whole_words_in_any_case_everywhere() -> None:
    found = edits({"rules": RULES})
    assert [(e.id, e.edited, e.instruction) for e in found] == [
        ("7-0-0", "A dog on the grass, a dog's dream", "turn the cat into a dog"),
        ("7-0-1", "A fox on the grass, a fox's dream", "turn the cat into a fox"),
        ("9-1-0", "a bus", "bus!"),
    ]
    assert found[0].caption == CAPTIONS[0][1]


def test_words_are_taken_literally() -> None:
    (edit,) = edits({"rules": [{"find": "c++ (old)", "replace": r"\1 {find}"}]}, [("a", "a c++ (old) book")])
    assert edit.edited == r"a \1 {find} book"
    assert edits({"rules": [{"find": "c.t", "replace": "x"}]}) == []


def test_edits_come_one_at_a_time() -> None:
    endless = ((str(i), "a cat") for i in count())
    found = list(islice(write_edits(validate(Edits, {"rules": RULES}, "test"), endless), 4))
    assert [e.id for e in found] == ["0-0-0", "0-0-1", "1-0-0", "1-0-1"]


def test_a_rule_behind_changes_no_edit_before() -> None:
    assert edits({"rules": RULES[:1]}) == [e for e in edits({"rules": RULES}) if "-0-" in e.id]


def test_a_writer_is_asked_for_every_caption() -> None:
    found = edits({"writer": f"{__name__}:shout"}, [("a", "cat cat"), ("b", "dog"), ("c", "cat")])
    assert [(e.id, e.edited) for e in found] == [("a-0", "cat cat!"), ("a-1", "cat cat?"), ("c-0", "cat!")]


def test_a_file_comes_back_as_it_was_written_and_captions_read_it(tmp_path: Path) -> None:
    made = [*edits({"rules": RULES}), Edit(id="ü", caption="a\u2028b \n", edited='"', instruction="Größer")]
    file = tmp_path / "made.jsonl"
    file.write_bytes(b"".join(map(to_line, made)))
    assert edits({"file": str(file)}, []) == made
    read = everything(CaptionsInput(urls=(str(file),)).open())
    assert [(s.key, s.members["txt"].decode()) for s in read] == [(e.id, e.caption) for e in made]
    assert [json.loads(s.members["json"])["edited"] for s in read] == [e.edited for e in made]


def test_other_fields_and_numbers_for_ids_are_fine(tmp_path: Path) -> None:
    line = {"id": 3, "caption": "a", "edited": "b", "instruction": "c", "score": 1.0}
    (tmp_path / "e.jsonl").write_text(json.dumps(line) + "\n\n")
    assert edits({"file": f"{tmp_path}/e.jsonl"}) == [Edit(id="3", caption="a", edited="b", instruction="c")]


GOOD = {"id": "1", "caption": "a", "edited": "b", "instruction": "c"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[1]", "JSON object is expected"),
        (json.dumps(GOOD).encode(), "id is '1'; text is expected that no line before has"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "id"}).encode(), "id is ''"),
        (json.dumps({**GOOD, "id": True}).encode(), "id:"),
        (json.dumps({**GOOD, "edited": "a", "id": "2"}).encode(), "same as 'caption'"),
        (json.dumps({**GOOD, "caption": 5, "id": "2"}).encode(), "caption:"),
        (json.dumps({**GOOD, "instruction": " ", "id": "2"}).encode(), "instruction:"),
        (b'{"id": "2", "caption": "a", "instruction": "c"}', "edited is missing"),
    ],
)
def test_a_bad_line_of_a_file_is_one_sentence(tmp_path: Path, line: bytes, sentence: str) -> None:
    file = tmp_path / "e.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(UserError, match="line 2: .*" + sentence.replace("'", ".")):
        edits({"file": str(file)})


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "exactly one of rules, file, writer"),
        ({"rules": RULES, "file": "x"}, "exactly one of rules, file, writer"),
        ({"rule": RULES}, "did you mean 'rules'"),
        ({"rules": []}, "at least 1"),
        ({"rules": [{"find": "cat", "replace": []}]}, "at least 1"),
        ({"rules": [{"find": "", "replace": "x"}]}, "find"),
        ({"rules": [{"find": " cat", "replace": "x"}]}, "find"),
        ({"rules": [{"find": "cat", "replace": ["dog", "Cat"]}]}, "'cat' would be replaced by itself"),
        ({"rules": [{"find": "cat", "replace": "x", "instruction": "{found}"}]}, "no other braces"),
        ({"rules": [{"find": "cat", "replace": "x", "instruction": "{find.__class__}"}]}, "no other braces"),
        ({"rules": [{"find": "cat", "replace": "x", "instruction": "{find!r:>9}"}]}, "no other braces"),
        ({"rules": [{"find": "cat", "replace": "x", "instruction": "{find"}]}, "no other braces"),
        ({"rules": [{"find": "cat", "replace": "x", "instruction": " "}]}, "text is expected"),
        ({"rules": [{"find": "cat", "replace": "x", "instruct": "y"}]}, "did you mean 'instruction'"),
        ({"file": "nowhere.jsonl"}, "file: 'nowhere.jsonl' does not exist"),
        ({"writer": "nothing"}, "package.module:function is expected"),
        ({"writer": ".relative:f"}, "package.module:function is expected"),
        ({"writer": "no_such_module:f"}, "'no_such_module' cannot be imported"),
        ({"writer": f"{__name__}:no_such"}, "has no function 'no_such'"),
        ({"writer": f"{__name__}:GOOD"}, "has no function 'GOOD'"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_before_any_caption_is_read(content: dict[str, Any], sentence: str) -> None:
    def captions() -> Iterator[tuple[str, str]]:
        pytest.fail("a caption was read")
        yield "", ""

    with pytest.raises(UserError, match=sentence):
        write_edits(validate(Edits, content, "test"), captions())


def test_a_writer_that_gives_no_edits_is_named() -> None:
    with pytest.raises(UserError, match=f"{__name__}:mumble gave .A Cat.*an Edit is expected"):
        edits({"writer": f"{__name__}:mumble"})
