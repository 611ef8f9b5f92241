"""A corpus of oddities, each with its ground truth."""

from tests.corpus import damage_cases, tar_cases

CASES = (*tar_cases.CASES, *damage_cases.CASES)
"""All of them."""
