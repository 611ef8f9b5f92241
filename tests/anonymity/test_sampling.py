"""The sample of an audit: whole people, in an order that only the salt tells, within its size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from pipeline.anonymity.attacks.photos import UNKNOWN
from pipeline.audit.sampling import Drawn, draw

KEYS = [f"a/{i:03d}" for i in range(60)]
WHO = [None if i % 10 == 9 else f"person {i // 3}" for i in range(60)]
COPIES = 2
RELEASED = [f"release-0/{i:03d}" for i in range(COPIES * 60 + 4)]
SOURCE = np.array([*np.repeat(np.arange(60), COPIES), *[UNKNOWN] * 4])


def drawn(most: int, key: bytes = b"salt") -> Drawn:
    return draw(KEYS, WHO, RELEASED, SOURCE, most, key)


@pytest.mark.parametrize("most", [1, 7, 30, 41, 1000])
def test_people_are_drawn_with_all_that_is_theirs(most: int) -> None:
    found, figures = drawn(most), drawn(most).figures
    people = {WHO[KEYS.index(key)] for key in found.originals}
    for key, who in zip(KEYS, WHO, strict=True):
        if who is not None:
            assert (key in found.originals) == (who in people)
    for name, source in zip(RELEASED, SOURCE, strict=True):
        if source != UNKNOWN:
            assert (name in found.released) == (KEYS[source] in found.originals)
    assert (figures.originals, figures.released) == (len(found.originals), len(found.released))
    assert (figures.of_originals, figures.of_released) == (len(KEYS), len(RELEASED))
    one = max(Counter(WHO[i] for i in range(60) if WHO[i]).values())
    assert figures.originals <= max(most, one)
    assert figures.released <= max(most, COPIES * one)
    if most == 1000:
        assert (figures.people, figures.originals, figures.released) == (figures.of_people, 60, len(RELEASED))
    elif most > COPIES * one:
        assert figures.released > most - COPIES * one - 1


def test_the_order_is_the_salts_and_a_smaller_sample_lies_in_a_larger_one() -> None:
    assert drawn(30) == drawn(30)
    assert drawn(30).originals != drawn(30, b"other").originals
    assert drawn(20).originals < drawn(60).originals


def test_nobody_is_drawn_more_often_for_the_place_in_the_input() -> None:
    often = Counter(key for seed in range(300) for key in drawn(40, bytes([seed % 256, seed // 256])).originals)
    expected = sum(often.values()) / len(KEYS)
    assert all(abs(often[key] - expected) < 5 * expected**0.5 for key in KEYS)
