"""doppel: stream image data sets through diffusion operators.

The names in `__all__` are what Python users need; each is imported when it is first asked for, so that importing
`pipeline` costs nothing. All else has its room, for instance `pipeline.operators`, `pipeline.models`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.commands.preview import preview
    from pipeline.commands.run import run
    from pipeline.errors import UserError
    from pipeline.hooks.augment import GenerativeAugment
    from pipeline.hooks.dataset import AugmentedDataset, AugmentedStream
    from pipeline.hooks.live.background import BackgroundAugmenter
    from pipeline.hooks.store import NeighbourStore, read_weights
    from pipeline.models.families import load_model
    from pipeline.operators import OPERATORS

__version__ = "0.1.0"
__all__ = [
    "OPERATORS",
    "AugmentedDataset",
    "AugmentedStream",
    "BackgroundAugmenter",
    "GenerativeAugment",
    "NeighbourStore",
    "UserError",
    "__version__",
    "load_model",
    "preview",
    "read_weights",
    "run",
]

if not TYPE_CHECKING:  # else every misspelt name would have a type
    HOMES = {
        "OPERATORS": "pipeline.operators",
        "AugmentedDataset": "pipeline.hooks.dataset",
        "AugmentedStream": "pipeline.hooks.dataset",
        "BackgroundAugmenter": "pipeline.hooks.live.background",
        "GenerativeAugment": "pipeline.hooks.augment",
        "NeighbourStore": "pipeline.hooks.store",
        "UserError": "pipeline.errors",
        "load_model": "pipeline.models.families",
        "preview": "pipeline.commands.preview",
        "read_weights": "pipeline.hooks.store",
        "run": "pipeline.commands.run",
    }

    def __getattr__(name):
        if name not in HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(HOMES[name]), name)

    def __dir__():
        return sorted({*globals(), *__all__})
