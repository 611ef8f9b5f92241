"""Provenance goes into JSON and comes back the same; what another version wrote is refused in one sentence."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.media.frame import Frame
from pipeline.media.output_keys import OutputKey
from pipeline.media.provenance import GateVerdict, Provenance

text = st.text(st.characters())
numbers = st.floats(allow_nan=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
details = st.dictionaries(text, values, max_size=3)
verdicts = st.builds(
    GateVerdict, attempt=st.integers(0, 9), verdict=st.sampled_from(["anonymous", "undecided"]), why=st.just("no face"),
    distances=st.lists(st.dictionaries(st.sampled_from(["Dlib", "lbph"]), numbers), max_size=3),
    others_within=st.dictionaries(st.sampled_from(["Dlib", "lbph"]), st.integers(0)),
)  # fmt: skip
frames = st.builds(
    Frame, mode=st.sampled_from(["L", "RGB"]), orientation=st.integers(1, 8),
    full=st.just((8, 9)), window=st.just((1, 2, 7, 8)), box=st.just((0, 1, 6, 7)), output=st.just((6, 6)),
)  # fmt: skip
records = st.builds(
    Provenance, key=st.builds(OutputKey, text, st.integers(0), st.sampled_from(["", "view-1"])),
    code=st.just("1+ab"), config=st.just("cd"), operator=st.none() | st.just("boomerang"),
    parameters=st.none() | details, level=st.none() | st.dictionaries(st.just("fraction"), st.none() | numbers),
    sigmas=st.lists(numbers, max_size=4), geometry=st.none() | frames, clip=st.none() | text,
    details=st.none() | details | st.lists(details, min_size=1, max_size=3).map(tuple),
    anonymity=st.none() | verdicts, before=st.none() | text.map(lambda t: t.encode(errors="replace").decode()),
)  # fmt: skip


@given(records)
def test_provenance_is_read_back_as_it_was_written(made: Provenance) -> None:
    written = made.to_json()
    assert written.isascii()
    assert Provenance.from_json(written, "a.tar") == made


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "a.tar is not valid JSON"),
        ("[" * 100_000, "a.tar is not valid JSON"),
        ("[]", "a.tar: a JSON object is expected, found list"),
        ('{"operator": "boomerang", "copy": 0}', "a.tar was written by an older version of doppel; this one reads"),
        ('{"version": 2}', "a.tar was written by another version of doppel, in schema 2; this one reads schema 1"),
        ('{"version": 1, "code": "", "config": ""}', "a.tar: key: Field required"),
    ],
)
def test_what_is_no_provenance_of_this_version(content: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        Provenance.from_json(content, "a.tar")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [{"colour": 1}, {"sigmas": [None]}, {"key": {"source": 7, "copy": 0, "name": ""}}])
def test_fields_that_no_provenance_has(change: dict[str, object]) -> None:
    content = json.loads(Provenance(key=OutputKey("a"), code="", config="").to_json())
    with pytest.raises(UserError, match=f"a.tar: .*{next(iter(change))}"):
        Provenance.from_json(json.dumps(content | change), "a.tar")
