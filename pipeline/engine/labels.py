"""Labels that cannot be read end a job: those of its first samples before any work, others as soon as they are met."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, islice
from typing import TYPE_CHECKING

from pipeline.engine.reading import Reader
from pipeline.errors import UserError
from pipeline.job.classes import Classes, listed
from pipeline.media.records import Sample, Unread
from pipeline.streams.captions import CaptionsInput
from pipeline.streams.probing import check_depth

if TYPE_CHECKING:
    from pipeline.job.plan import Plan
    from pipeline.streams.contract import InputShard

PROBED = 64
"""Samples that are looked at before a job begins."""
OPENED = 4
"""Images that are opened before a job begins."""
EXAMPLES = 12
"""Different labels that a message shows, at most."""


class Tolerance:
    """Counts labels that are there and cannot be read; see `LabelsConfig`."""

    def __init__(self, plan: Plan, classes: Classes, before: int = 0) -> None:
        """Begins with what finished shards had `before`. Raises `UserError` where that is too much."""
        self._plan, self._classes, self._count, self._met = plan, classes, before, Counter[Unread]()
        self.add(())

    def add(self, more: Iterable[Unread]) -> None:
        """Raises `UserError` with the first of them where there are more than the recipe tolerates."""
        self._met.update(more)
        count, allowed = self._count + self._met.total(), self._plan.config.labels.tolerate
        if count > allowed:
            examples = "" if self._plan.config.anonymity is not None or not self._met else f" ({self._examples()})"
            raise UserError(
                f"{count} label{'s' * (count != 1)} cannot be read so far{examples}, labels.tolerate allows {allowed}: "
                f"{self._advice()}"
            )

    def take_back(self, some: Iterable[Unread]) -> None:
        """Counts some no longer: they will be met again."""
        self._met.subtract(some)

    def _examples(self) -> str:
        return "such as " + ", ".join(repr(unread.text[:40]) for unread, _ in self._met.most_common(3))

    def _advice(self) -> str:
        names = sorted({unread.text for unread in self._met if unread.kind == "name"})
        secret, classes, model = self._plan.config.anonymity is not None, self._classes, self._plan.outline
        if any(unread.kind == "number" for unread in self._met):
            both = "" if secret else f" ({listed(classes.names)})"
            only = "names are mapped" if isinstance(self._plan.config.classes, dict) else "the model names its classes"
            return (
                f"they are numbers, and only {only}{both}; give input.label_names, or "
                "classes: numbers where the model's own numbers are meant"
            )
        if names and not secret:
            shown = ", ".join(names[:EXAMPLES]) + ", …" * (len(names) > EXAMPLES)
            declared = None if classes.by_name or classes.option else classes.names
            asks = model is not None and classes.shown is not None
            theirs = f"the model has {listed(model.class_names, model.classes or 0)}" if model and asks else ""
            if declared:
                both = f"{listed(declared)}{', ' * asks}{theirs}"
                return (
                    f"the data set names {both}; complete input.label_names by {shown}, at the places of their numbers"
                )
            if asks:
                return f"{theirs}; map them by hand, as in classes: {{{names[0]}: CLASS, …}}"
            return f"say input.label_names: [{shown}], each at the place of its number"
        return "a whole number, a name of input.label_names, or a list is expected"


def check_first(plan: Plan, shards: Sequence[InputShard], classes: Classes) -> None:
    """Looks at the labels of the first samples, and at how deep their first images are.

    Raises `UserError` where no sample has the label that the recipe names, where too many cannot be read, and where the
    model needs a class and none of the samples has one that it knows; and as `check_depth` does.
    """
    found = islice(chain.from_iterable(shard.read() for shard in shards), min(PROBED, plan.config.limit or PROBED))
    usable = (item for item in found if isinstance(item, Sample))
    opened = list(islice(usable, OPENED))
    if not opened:
        return
    check_depth(opened, plan.rules)
    read = [replace(sample, image=b"") for sample in chain(opened, usable)]  # many images would fill the memory
    source = plan.config.input
    label = None if isinstance(source, CaptionsInput) or "label" not in source.model_fields_set else source.label
    if label is not None and not any(map(has_label, read)):
        if plan.config.anonymity is not None:  # names of fields may be names of people
            raise UserError(f"input.label: none of the first {len(read)} samples has {label!r}")
        found_instead = ", ".join(dict.fromkeys(chain.from_iterable(map(labels_like(label), read))))
        raise UserError(
            f"input.label: none of the first {len(read)} samples has {label!r}; there are "
            f"{found_instead[:200] or 'no members beside images'}"
        )
    samples = [classes.read(sample) for sample in read]
    Tolerance(plan, classes).add(
        sample.unread for sample in samples if sample.unread is not None and sample.unread.kind != "several"
    )
    with ThreadPoolExecutor(1) as pool:
        problems = Counter(map(Reader(plan, classes, pool).label_problem, samples))
    if None not in problems:
        why, count = problems.most_common(1)[0]
        raise UserError(
            f"none of the first {len(samples)} samples has a label that can be used: {why} ({count} of them)"
        )


def has_label(sample: Sample) -> bool:
    """Whether anything stands in the place of a label."""
    return sample.label is not None or sample.unread is not None


def labels_like(where: str) -> Callable[[Sample], Iterable[str]]:
    """What `input.label` could have named in a sample: members, or fields of a JSON member."""
    member, _, field = where.partition(":")

    def names(sample: Sample) -> Iterable[str]:
        try:
            content = json.loads(sample.members[member]) if field else None
        except (LookupError, ValueError, RecursionError):
            content = None
        return [f"{member}:{name}" for name in content] if isinstance(content, dict) else sample.members

    return names
