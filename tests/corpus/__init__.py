"""A corpus of oddities, each with its ground truth."""

from tests.corpus import damage_cases, key_cases, member_cases, shard_cases, tar_cases

CASES = (*tar_cases.CASES, *damage_cases.CASES, *key_cases.CASES, *member_cases.CASES, *shard_cases.CASES)
"""All of them."""
