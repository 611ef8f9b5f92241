"""The script that sets Boomerang beside blur, pixelation and black boxes: its searches, intervals and disguises."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

SCRIPT = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "evidence_utility.py"))


def test_the_nearest_counts_and_an_image_without_a_face_finds_nobody() -> None:
    gallery = np.eye(4, dtype=np.float32)
    query = gallery[[0, 2, 2, 3]].copy()
    query[3] = np.nan
    assert SCRIPT["rank_1"](query, gallery).tolist() == [True, False, True, False]
    gallery[0] = np.nan
    assert SCRIPT["rank_1"](query, gallery).tolist() == [False, False, True, False]


@pytest.mark.parametrize("hits", [0, 3, 40])
def test_intervals_are_clopper_and_pearson_s(hits: int) -> None:
    found = np.arange(40) < hits
    wanted = binomtest(hits, 40).proportion_ci(method="exact")
    made = SCRIPT["share"](found)
    assert (made["low"], made["high"]) == pytest.approx((wanted.low, wanted.high))


def test_tiles_are_means_and_a_larger_radius_leaves_less() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    (tiles,) = SCRIPT["pixelated"](16)([image], ["a"])
    assert np.abs(tiles[:16, :16].astype(float) - image[:16, :16].mean((0, 1))).max() <= 1
    assert len(np.unique(tiles.reshape(-1, 3), axis=0)) == 16
    spread = [SCRIPT["blurred"](radius)([image], ["a"])[0].std() for radius in SCRIPT["BLURS"]]
    assert spread == sorted(spread, reverse=True)
