"""Hooks for training loops: neighbours made on the spot, or read from what an offline job has stored."""

from pipeline.hooks.augment import GenerativeAugment
from pipeline.hooks.background import BackgroundAugmenter, LiveStore
from pipeline.hooks.dataset import AugmentedDataset, AugmentedStream
from pipeline.hooks.neighbours import Neighbours
from pipeline.hooks.source import InMemory
from pipeline.hooks.store import NeighbourStore, Store, read_weights

__all__ = [
    "AugmentedDataset",
    "AugmentedStream",
    "BackgroundAugmenter",
    "GenerativeAugment",
    "InMemory",
    "LiveStore",
    "NeighbourStore",
    "Neighbours",
    "Store",
    "read_weights",
]
