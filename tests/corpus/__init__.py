"""A corpus of oddities, each with its ground truth."""

from tests.corpus import (
    damage_cases,
    folder_cases,
    image_cases,
    key_cases,
    label_cases,
    member_cases,
    row_cases,
    shard_cases,
    tar_cases,
)

CASES = (
    *tar_cases.CASES,
    *damage_cases.CASES,
    *key_cases.CASES,
    *member_cases.CASES,
    *label_cases.CASES,
    *image_cases.CASES,
    *shard_cases.CASES,
    *row_cases.CASES,
    *folder_cases.CASES,
)
"""All of them."""
