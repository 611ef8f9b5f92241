"""Reasons of the quarantine, summed up: what differs in names and numbers only is one, and nobody's name is kept."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.streams.reasons import commonest, gist, tally


def test_reasons_that_differ_in_names_and_numbers_count_as_one() -> None:
    beyond, infinite = "label {} is out of range: the model knows 0 to 3", "the model's output isn't finite"
    reasons = ["duplicate key 'a'", beyond.format(7), 'duplicate key "b\'s"', beyond.format(12), infinite]
    counts = tally((gist(reason, secret=False), 1) for reason in [*reasons, "duplicate key 'c'"])
    assert counts == {"duplicate key …": 3, beyond.format(7): 2, infinite: 1}
    assert commonest(counts) == "; 3 of these 6: duplicate key …"
    assert commonest({}) == ""


@given(key=st.text(min_size=1))
def test_no_name_is_left_where_it_would_tell_who_is_shown(key: str) -> None:
    for reason in (f"key {key!r} is taken", f"it cannot be read ({key})", f"column 'x': {key}"):
        assert gist(reason, secret=True) in ("key", "it cannot be read", "column")


def test_what_the_gate_says_names_nobody_and_stays_whole() -> None:
    for reason in ("recognisable at every level: Dlib recognises the person", "undecided: a face is too small"):
        assert gist(reason, secret=True) == gist(reason, secret=False) == reason


@given(st.lists(st.tuples(st.text(max_size=5), st.integers(1, 9)), max_size=15))
def test_no_sample_is_lost_in_the_sum(reasons: list[tuple[str, int]]) -> None:
    assert sum(tally(reasons).values()) == sum(count for _, count in reasons)
