"""What attacks and measurements find, as records of plain numbers. No name, key or picture gets into them."""

from __future__ import annotations

from pipeline.section import Section


class Share(Section):
    """A fraction in [0, 1], with its 95 % interval."""

    share: float
    low: float
    high: float


class RankShare(Share):
    """The fraction of queries that found their person by some rank."""

    chance: float
    """What guessing at random would find."""


class SearchFigures(Section):
    """The outcome of a search."""

    queries: int
    people: int
    gallery: float
    """Mean number of candidates of a query."""
    rank: dict[str, RankShare]
    """By rank: `1`, `5`, `10`."""


Searches = dict[str, SearchFigures | None]
"""By kind of search, or by recogniser; None stands for what has no pairs, or too few people."""


class WorstIdentity(Section):
    """The person who is most often found first, by their number."""

    person: int
    queries: int
    share: float


class VerificationFigures(Section):
    """How well pairs of one person are told from pairs of two."""

    genuine: int
    impostor: int
    """Pairs."""
    eer: float
    """Equal error rate."""
    tar: dict[str, Share]
    """True acceptance rate, by false acceptance rate."""


class LinkabilityFigures(Section):
    """How well releases of one person can be linked."""

    d_sys: float
    chance: float
    """D_sys where the "mated" pairs are drawn from strangers."""
    mated: int
    """Pairs."""


class OverThreshold(Share):
    """The fraction of released images farther than a threshold from everything that the attacker may hold."""

    threshold: float


class ProtectionFigures(Section):
    """How far released images are from everything that the attacker may hold."""

    images: int
    mean_distance: float
    over: dict[str, OverThreshold]
    """By the name of the threshold."""


class RecogniserFigures(Section):
    """All attacks with one recogniser, or layout, under one threat model."""

    reidentification: Searches
    verification: VerificationFigures | None
    linkability: LinkabilityFigures | None
    protection: ProtectionFigures | None
    worst: WorstIdentity | None
    trained: Searches
    """By attacker that learns."""


class MembershipFigures(Section):
    """Whether the distance to the nearest release tells originals of the input from images that were not in it."""

    inside: int
    outside: int
    auc: float
    low: float
    high: float
    """95 % interval of `auc`, which is .5 by chance."""
    chance: float = 0.5


class NearCopies(Section):
    """Released images whose perceptual hash is near some original's."""

    released: int
    bits: int
    """So near, of 64, or nearer."""
    copies: int
    nearest: int
    """The smallest difference of all pairs, in bits."""


class PermutationFigures(Section):
    """How near a permutation of tiles brings released images to their sources: mean correlations."""

    pairs: int
    """That it was found on."""
    before: float | None = None
    after: float | None = None
    tile: int | None = None
    """Side in pixels; None where no permutation helps."""
    moved: float = 0.0
    """Fraction of the tiles."""
    reason: str | None = None
    """Why there are no figures."""


class OdeFigures(Section):
    """The way back along the ODE of the model."""

    level: float
    """Fraction of T."""
    images: int


class UndoingFigures(Section):
    """An attempt to undo the operator, and what is recognised in what it made."""

    figures: PermutationFigures | OdeFigures
    reidentification: Searches | None
    """By recogniser."""


class RecallFigures(Section):
    """Fractions of released images in which a face is found; a fraction of nothing is None."""

    images: int
    with_face: float | None
    """Of all."""
    with_face_if_source_has: float | None
    """Of those whose source has a face, as the next."""
    same_count: float | None
    """As many faces as their source has."""


class Middle(Section):
    """Of some values."""

    mean: float
    median: float


class PoseFigures(Section):
    """How far the largest face has moved from source to release."""

    faces: int
    eyes: Middle
    """Distance of both eyes from where they were, in inter-ocular distances of the source."""
    roll: Middle
    """Angle between the eye lines, in degrees."""
    scale: Middle
    """|ln| of the ratio of the inter-ocular distances."""


class TaskFigures(Section):
    """A small classifier, trained on released images and tested on real ones."""

    labels: int
    trained_on: int
    tested_on: int
    accuracy: float | None
    """Fraction of the test images that get their label."""
    majority: float | None
    """The same for always answering the commonest label of the release."""


class AgreementFigures(Section):
    """On how many pairs of face crops an attribute model agrees."""

    faces: int
    share: float | None = None
    """Fraction of the pairs with equal answers."""
    mean_difference: float | None = None
    """Of age, in years."""


Agreements = dict[str, AgreementFigures | str]
"""By attribute; a sentence stands for what was not measured."""


class ThreatFigures(Section):
    """All attacks under one threat model."""

    statement: str
    recognisers: dict[str, RecogniserFigures] | None
    """By name, layouts among them; None where the threat model has no pairs."""
    reason: str | None = None
    """Why there are none."""
    inversion: dict[str, UndoingFigures]
    """By the way that was tried."""


class SourceThreatFigures(ThreatFigures):
    """Those of an attacker who holds the very photograph, T2."""

    near_copies: NearCopies | None
    membership: dict[str, MembershipFigures | None]
    """By recogniser or layout."""
