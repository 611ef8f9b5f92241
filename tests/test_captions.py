"""Prompts out of samples: templates over members, fields and lists of texts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.job.captions import CaptionConfig, NoCaption, read_captions
from pipeline.media.records import Sample, Unread

TEXTS = st.lists(st.text("abc ", min_size=1).filter(str.strip), min_size=1, max_size=7)


def sample(**members: Any) -> Sample:
    named = {name.replace("_", "."): value for name, value in members.items()}
    content = {name: v if isinstance(v, bytes) else json.dumps(v).encode() for name, v in named.items()}
    return Sample(key="k", image=b"", image_ext="png", members=content)


def config(template: str, pick: str | None = None) -> CaptionConfig:
    return CaptionConfig.model_validate({"template": template, **({"pick": pick} if pick else {})})


@given(texts=TEXTS, draws=st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_a_list_gives_one_of_its_texts_to_each_copy(texts: list[str], draws: list[float]) -> None:
    for template, given_so in (("{json:c}", sample(json={"c": texts})), ("{c.json}", sample(c_json=texts))):
        plain = [text.strip() for text in texts]
        assert read_captions(config(template, "first"), given_so, None, draws).texts == (plain[0],) * len(draws)
        each = read_captions(config(template, "each"), given_so, None, draws).texts
        assert each == tuple(plain[copy % len(plain)] for copy in range(len(draws)))
        drawn = read_captions(config(template, "random"), given_so, None, draws).texts
        assert all(
            plain[min(int(d * len(plain)), len(plain) - 1)] == text for d, text in zip(draws, drawn, strict=True)
        )


def test_random_texts_are_drawn_alike() -> None:
    draws = [i / 900 for i in range(900)]
    drawn = read_captions(config("a {json:c}", "random"), sample(json={"c": ["x", "y", "z"]}), None, draws).texts
    assert Counter(drawn) == {"a x": 300, "a y": 300, "a z": 300}


def test_two_lists_are_read_at_the_same_place() -> None:
    both = sample(json={"c": ["a cat", "a dog"], "s": ["oil", "ink"]})
    made = read_captions(config("{json:c} in {json:s}", "random"), both, None, [0.1, 0.9]).texts
    assert made == ("a cat in oil", "a dog in ink")


def test_what_is_to_be_said() -> None:
    three = sample(json={"c": ["a", "b", "c"]})
    assert "the first is taken" in read_captions(config("{json:c}"), three, None).notes[0]
    assert read_captions(config("{json:c}", "first"), three, None).notes == ()
    assert "more texts than there are copies" in read_captions(config("{json:c}", "each"), three, None, [0, 0]).notes[0]
    assert read_captions(config("{json:c}", "each"), three, None, [0, 0, 0]).notes == ()
    assert read_captions(config("{json:c}"), sample(json={"c": ["a"]}), None).notes == ()


@pytest.mark.parametrize(
    "value", [[], [""], ["a", " "], ["a", None], [["a"]], [{"caption": "a"}], {"a": "b"}, None, "", 0.5]
)
def test_what_is_no_text_is_no_caption_and_never_json(value: Any) -> None:
    for template, given_so in (("{json:c}", sample(json={"c": value})), ("{c.json}", sample(c_json=value))):
        with pytest.raises(NoCaption):
            read_captions(config(template), given_so, None)


@given(texts=TEXTS)
def test_a_list_in_a_text_is_that_list(texts: list[str]) -> None:
    """It was the prompt itself, with brackets and quotes: a text member, a column, a field."""
    written = f" {json.dumps(texts)}\n"
    for template, given_so in (("{txt}", sample(txt=written.encode())), ("{json:c}", sample(json={"c": written}))):
        made = read_captions(config(template, "each"), given_so, None, [0.0] * len(texts)).texts
        assert made == tuple(text.strip() for text in texts)


@pytest.mark.parametrize("text", ['{"caption": "a cat"}', '[["a cat"]]', "[]", '["a", null]', '[{"caption": "a"}]'])
def test_json_in_a_text_that_is_no_list_of_texts_is_no_caption(text: str) -> None:
    with pytest.raises(NoCaption, match="no text and no list of texts"):
        read_captions(config("{txt}"), sample(txt=text.encode()), None)


@pytest.mark.parametrize("text", ["[oil] a cat", "{a} cat", '"a cat", he said'])
def test_brackets_alone_make_no_list(text: str) -> None:
    assert read_captions(config("{txt}"), sample(txt=text.encode()), None).texts == (text,)


def test_a_field_may_lie_in_a_field() -> None:
    content = {"a": {"caption": "inner", "list": ["x"]}, "a.b": "literal", "s": "text"}
    for key, expected in (("a.caption", "inner"), ("a.list", "x"), ("a.b", "literal")):
        assert read_captions(config(f"{{json:{key}}}"), sample(json=content), None).texts == (expected,)
    for key in ("a.none", "s.t", "s.e.x", "none.caption"):
        with pytest.raises(NoCaption, match="is missing"):
            read_captions(config(f"{{json:{key}}}"), sample(json=content), None)


def test_why_a_label_is_no_name() -> None:
    several = replace(sample(), unread=Unread("several", "[1, 2]"))
    with pytest.raises(NoCaption, match=r"holds several classes or weights, and \{label\} is the name of one class"):
        read_captions(config("a {label}"), several, ["cat", "dog", "owl"])
    with pytest.raises(NoCaption, match=r"declares no names: give input\.label_names"):
        read_captions(config("a {label}"), replace(sample(), label=1), None)
    with pytest.raises(NoCaption, match="the sample has no label"):
        read_captions(config("a {label}"), sample(), ["cat"])
    assert read_captions(config("a {label}"), replace(sample(), label=0), ["cat"]).texts == ("a cat",)


def test_a_text_is_read_as_before() -> None:
    assert read_captions(config("{txt}!"), sample(txt=b" a cat\n"), None).texts == ("a cat!",)
    assert read_captions(config("{json:n}"), sample(json={"n": 3}), None).texts == ("3",)
    assert read_captions(config("{c.json}"), sample(c_json="a cat"), None).texts == ("a cat",)
    with pytest.raises(NoCaption, match="json:c is missing"):
        read_captions(config("{json:c}"), sample(json={}), None)
    with pytest.raises(NoCaption, match="cannot be read"):
        read_captions(config("{json:c}"), sample(json=b"["), None)
