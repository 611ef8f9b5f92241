"""What attacks and measurements find, as records of plain numbers. No name, key or picture gets into them."""

from __future__ import annotations

from pipeline.section import Section


class Share(Section):
    """A fraction in [0, 1], with its 95 % interval."""

    share: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end of the interval."""


class RankShare(Share):
    """The fraction of queries that found their person by some rank."""

    chance: float
    """The fraction that guessing at random would find."""
    by_guessing: float
    """The probability that guessing finds so many; see `by_guessing`. It is not corrected for other attacks."""


class SearchFigures(Section):
    """The outcome of a search."""

    queries: int
    """How many queries have a mate in the gallery."""
    people: int
    """How many people they show."""
    gallery: float
    """Mean number of candidates of a query."""
    rank: dict[str, RankShare]
    """Results by rank: `1`, `5`, `10`."""


Searches = dict[str, SearchFigures | None]
"""Results by kind of search, or by recogniser. None stands for what has no pairs, or too few people."""


class WorstIdentity(Section):
    """The person who is most often found first, by their number."""

    person: int
    queries: int
    share: float
    """The fraction of their queries, in [0, 1], that found them first."""
    people: int
    """How many people had queries enough to be the worst."""
    by_guessing: float
    """The probability that guessing would find one of them as often, were the queries of a person independent."""


class VerificationFigures(Section):
    """How well pairs of one person are told from pairs of two."""

    genuine: int
    """How many pairs show one person."""
    impostor: int
    """How many pairs show two people."""
    eer: float
    """Equal error rate, in [0, 1]."""
    tar: dict[str, Share]
    """True acceptance rate, by the name of the false acceptance rate."""


class LinkabilityFigures(Section):
    """How well releases of one person can be linked."""

    d_sys: float
    """D_sys in [0, 1] (see `linkability`)."""
    chance: float
    """The value of D_sys where the "mated" pairs are drawn from strangers."""
    mated: int
    """How many pairs of releases show one person."""


class OverThreshold(Share):
    """The fraction of released images farther than a threshold from everything that the attacker may hold."""

    threshold: float
    """The threshold of the cosine distance."""


class ProtectionFigures(Section):
    """How far released images are from everything that the attacker may hold."""

    images: int
    """How many released images were compared."""
    mean_distance: float
    """Mean cosine distance to the nearest such image."""
    over: dict[str, OverThreshold]
    """Fractions by the name of the threshold."""


class RecogniserFigures(Section):
    """All attacks with one recogniser, or layout, under one threat model."""

    reidentification: Searches
    clean_verification: VerificationFigures | None
    """Clean originals against each other: what the recogniser can do; None under T2."""
    verification: VerificationFigures | None
    linkability: LinkabilityFigures | None
    protection: ProtectionFigures | None
    worst: WorstIdentity | None
    trained: Searches
    """Searches by attackers that learn, by the name of the attacker."""


class MembershipFigures(Section):
    """Whether the distance to the nearest release tells originals of the input from images that were not in it."""

    inside: int
    """How many originals were in the input."""
    outside: int
    """How many images were not."""
    auc: float
    """The probability that an original of the input is nearer to some release than an image outside it; .5 by
    chance."""
    low: float
    """Lower end of the 95 % interval of `auc`."""
    high: float
    """Upper end of that interval."""
    found: Share | None = None
    """The fraction of the input's originals that are found where 1 of 100 other images is taken for one; None for
    fewer than 100 others. An average hides a few who can be told with certainty (2112.03570)."""
    chance: float = 0.5


class NearCopies(Section):
    """Released images whose perceptual hash is near some original's."""

    released: int
    bits: int
    """An image counts as a copy where it differs in at most so many of 64 bits."""
    copies: int
    nearest: int
    """The smallest difference of all pairs, in bits."""


class PermutationFigures(Section):
    """Mean correlations of released images with their sources, before and after a permutation of tiles."""

    pairs: int
    """How many known pairs the permutation was found on."""
    before: float | None = None
    after: float | None = None
    tile: int | None = None
    """Side of a tile in pixels; None where no permutation helps."""
    moved: float = 0.0
    """The fraction of the tiles, in [0, 1], that do not lie where they were."""
    reason: str | None = None
    """Why there are no figures."""


class OdeFigures(Section):
    """The way back along the ODE of the model."""

    level: float
    """The level that the images went back to, as a fraction of T."""
    images: int
    """How many images went back."""


class InverterFigures(Section):
    """Networks from released images to originals."""

    images: int
    """How many images they inverted, each by a network that never saw its person; 0 where too few people are known."""


class UndoingFigures(Section):
    """An attempt to undo the operator, and what is recognised in what it made."""

    figures: PermutationFigures | InverterFigures | OdeFigures
    reidentification: Searches | None
    """Naive searches with the images that it made, by recogniser."""


class RecallFigures(Section):
    """Fractions of released images in which a face is found. A fraction of nothing is None."""

    images: int
    """How many images there are."""
    with_face: float | None
    """The fraction of all images that have a face."""
    with_face_if_source_has: float | None
    """The fraction that have a face, of those whose source has one."""
    same_count: float | None
    """The fraction that have as many faces as their source, of those whose source has one."""


class Middle(Section):
    """The mean and the median of some values."""

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


class LandmarkFigures(Section):
    """How far the landmarks of faces have moved, and how far their heads have turned, from source to release."""

    faces: int
    """How many pairs of faces have landmarks: the largest of a released image, and of its source."""
    error: Middle
    """Mean distance of the five landmarks from where they were, in distances between the eyes of the source."""
    yaw: Middle
    """Difference in degrees; turning to the side."""
    pitch: Middle
    """Difference in degrees; nodding."""
    roll: Middle
    """Difference in degrees; tilting."""


class TaskFigures(Section):
    """A small classifier, trained on released images and tested on real ones."""

    labels: int
    """How many labels there are."""
    trained_on: int
    """How many released images it was trained on."""
    tested_on: int
    """How many real images it was tested on."""
    accuracy: float | None
    """The fraction of the test images that get their label."""
    majority: float | None
    """The fraction for always answering the commonest label of the release."""


class AgreementFigures(Section):
    """How often an attribute model agrees on pairs of face crops."""

    faces: int
    share: float | None = None
    """The fraction of the pairs with equal answers; None for age."""
    mean_difference: float | None = None
    """The mean difference in years, for age; else None."""
    chance: float | None = None
    """The same figure for a source and another source drawn at random; None where it was not computed."""


Agreements = dict[str, AgreementFigures | str]
"""Figures by attribute. A sentence stands for an attribute that was not measured."""


class ThreatFigures(Section):
    """All attacks under one threat model."""

    statement: str
    """The threat model in words."""
    recognisers: dict[str, RecogniserFigures] | None
    """Attacks by recogniser or layout; None where the threat model has no pairs."""
    reason: str | None = None
    """Why there are none; else None."""
    inversion: dict[str, UndoingFigures]
    """Attempts to undo the operator, by the way that was tried."""


class SourceThreatFigures(ThreatFigures):
    """All attacks of an attacker who holds the very photograph, T2."""

    near_copies: NearCopies | None
    """Copies of originals among the released images; None where either set is empty."""
    membership: dict[str, MembershipFigures | None]
    """Results by recogniser or layout; None where a set is empty."""
