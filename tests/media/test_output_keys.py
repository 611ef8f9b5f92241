"""Keys of outputs: written and read back exactly, never two outputs under one key, and plain where they can be."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.job.outputs import shape_of
from pipeline.media.output_keys import OutputKey, Shape
from pipeline.operators import Anagram, Interpolate, Operator, TileMorph

ENDINGS = ("-0", "-19", "-00", "-image-2", "-view-0", "-view-1", "-view-10", "-low", "-", "--", ".png", "-٣", "/0")
SHAPES = [
    Shape(copies=copies, names=names)
    for copies in (1, 2, 20)
    for names in ((), ("view-0",), ("view-1", "view-10"), ("image-2", "image-3"), ("low", "middle", "high"))
]
shapes = st.sampled_from(SHAPES)
sources = st.builds(
    lambda text, endings: text + "".join(endings),
    st.text(st.characters(), max_size=8) | st.from_regex(r"([\w.%-]+/)*[\w.%-]+", fullmatch=True),
    st.lists(st.sampled_from(ENDINGS), max_size=4),
)


@given(shapes, sources)
@example(Shape(names=("view-1",)), "a-view-1")
@example(Shape(copies=2, names=("view-1",)), "a-view")
@example(Shape(copies=2), "a\udc80-0\n")
def test_a_key_that_was_written_is_read_back(shape: Shape, source: str) -> None:
    for key in shape.keys(source):
        assert OutputKey.parse(key.format(shape), shape) == key


@given(shapes, sources)
def test_a_key_that_can_be_read_is_written_the_same(shape: Shape, text: str) -> None:
    try:
        key = OutputKey.parse(text, shape)
    except ValueError:
        return
    assert key.format(shape) == text


@given(shapes, st.lists(sources, min_size=2, max_size=2, unique=True))
@example(Shape(names=("view-1",)), ["a", "a-view-1"])
@example(Shape(copies=2, names=("view-1",)), ["a", "a-0-view"])
def test_no_two_outputs_of_a_job_share_a_key(shape: Shape, both: list[str]) -> None:
    keys = [key.format(shape) for source in both for key in shape.keys(source)]
    assert len(set(keys)) == len(keys)


@given(sources)
def test_one_output_has_the_key_of_its_sample_and_copies_are_numbered(source: str) -> None:
    assert [key.format(Shape()) for key in Shape().keys(source)] == [source]
    assert [key.format(Shape(copies=3)) for key in Shape(copies=3).keys(source)] == [f"{source}-{i}" for i in range(3)]


def test_keys_are_plain_but_for_samples_that_are_called_like_a_further_image() -> None:
    shape = Shape(copies=2, names=("view-1", "view-2"))
    assert [key.format(shape) for key in shape.keys("0007")] == [
        "0007-0", "0007-0-view-1", "0007-0-view-2", "0007-1", "0007-1-view-1", "0007-1-view-2",
    ]  # fmt: skip
    one = Shape(names=("image-2",))
    assert [OutputKey(source).format(one) for source in ("a", "a-", "a-image-2", "a-image-2-", "a-image-20")] == [
        "a", "a-", "a-image-2-", "a-image-2--", "a-image-20",
    ]  # fmt: skip
    assert OutputKey("a-image-2", 0, "image-2").format(one) == "a-image-2-image-2"


@pytest.mark.parametrize(
    ("text", "shape"),
    [("a", Shape(copies=2)), ("a-2", Shape(copies=2)), ("a-00", Shape(copies=2)), ("a-٣", Shape(copies=9))],
)
def test_other_keys_are_none_of_the_job(text: str, shape: Shape) -> None:
    with pytest.raises(ValueError, match="is not a key of a job"):
        OutputKey.parse(text, shape)


@pytest.mark.parametrize("key", [OutputKey("a", 2), OutputKey("a", -1), OutputKey("a", 0, "view-2")])
def test_what_a_job_does_not_make_has_no_key(key: OutputKey) -> None:
    with pytest.raises(ValueError, match="makes no"):
        key.format(Shape(copies=2, names=("view-1",)))


@pytest.mark.parametrize("names", [("1",), ("view-",), ("", "a"), ("a", "b-a"), ("a", "a"), ("a b",), ("ä",)])
def test_names_that_cannot_be_told_apart_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError):
        Shape(names=names)


@pytest.mark.parametrize(
    "operator",
    [
        Anagram(views=({"name": "negate"},) * 12, conditions=("none",) * 12),
        TileMorph(tiles=4, conditions=("none",) * 12),
        Interpolate(path=12),
    ],
    ids=lambda operator: operator.name,
)
def test_further_images_of_operators_can_be_told_apart(operator: Operator) -> None:
    assert shape_of(operator).names == operator.further_images != ()
