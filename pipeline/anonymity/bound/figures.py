"""The bound as a record of plain numbers, for audit and manifest, and the sentences that people read."""

from __future__ import annotations

from pipeline.section import Section


class Found(Section):
    """How often the best attacker finds the source first, in [0, 1]."""

    share: float
    low: float
    """Lower end of the 95 % interval (Clopper–Pearson) of the Monte Carlo."""
    high: float
    """Upper end of that interval."""


class BoundFigures(Section):
    """What the best attacker reaches who holds all originals and sees every noised latent."""

    originals: int
    """How many originals there are."""
    candidates: int
    """Among how many of them the source was searched: all, or a random part, among which it is easier to find."""
    trials: int
    """How many times an original was noised anew and searched for."""
    least_noise: float
    """The smallest σ that an original was hidden under; several looks at it count as one at a smaller σ."""
    rank_1: Found
    """How often the source was the most likely original, over all originals, each noised as often and as much as it
    was in the job, failed attempts included."""
    chance: float
    """What guessing reaches."""
    with_gate: float
    """The largest share of the released images that any attacker can expect to find, who also uses that the gate let
    these through and withheld others."""
    most_isolated: Found
    """The same as `rank_1` for the original that is farthest from its nearest other, through the least noise that any
    has: about the worst case."""
    of_two: float
    """How often an attacker is right who has only two originals left to choose from, for the two farthest apart."""
    epsilon: float | None
    """The ε of differential privacy for exchanging any original for any other, with `delta`; None where there is no
    noise."""
    delta: float
    asked: float | None
    """The bound that the recipe asked for; None where it asked for a level."""


class TrainingCheck(Section):
    """Whether the weights were trained on the originals."""

    images: int | None
    """How many training images the model's folder tells of; None where nothing is known."""
    seen: int | None
    """How many originals, of those that were searched, are near-copies of some of them."""


class SourceBound(Section):
    """A bound on every attacker who holds the originals (T2), or why there is none."""

    reason: str | None
    """Why there is none, as a sentence; None where there is one."""
    figures: BoundFigures | None
    weights: TrainingCheck | None
    said: tuple[str, ...]
    """All of it in sentences, the figures first and then what they rest on."""

    @classmethod
    def of(cls, reason: str | None, figures: BoundFigures | None, weights: TrainingCheck | None) -> SourceBound:
        """The record with its sentences; either `reason` or `figures` is given."""
        said: tuple[str, ...] = (f"There is no bound on attackers who hold the source: {reason}.",)
        if figures is not None:
            said = (*_said(figures), *ASSUMED, _of_weights(weights))
        return cls(reason=reason, figures=figures, weights=weights, said=said)


ASSUMED = (
    "It holds for each image by itself, with all originals as likely before: whoever knows more, or matches all images "
    "at once, may do better.",
    "It rests on noise that nobody can compute: whoever has the salt, or tells the generator's numbers (a Mersenne "
    "Twister behind a keyed seed of 63 bits) from chance, has no noise left to look through.",
    "It counts one release: a second one of the same originals is a further look, and with the same salt it cancels "
    "the noise.",
)
"""What the bound rests on, beside the weights."""


def _said(found: BoundFigures) -> tuple[str, ...]:
    asked = "" if found.asked is None else f" (asked for: at most {found.asked:.2%})"
    rank, worst = found.rank_1, found.most_isolated
    strength = "Nothing about T2 is provable at these levels" if rank.high > 0.5 else "A bound on every attacker"
    epsilon = "∞" if found.epsilon is None else f"{found.epsilon:.3g}"
    return (
        f"{strength}{asked}: whoever holds the {found.originals} originals and sees all that the operator leaves of "
        f"one, its noised latent, finds it first in {rank.share:.2%} of the cases (95 % interval {rank.low:.2%} to "
        f"{rank.high:.2%}; chance {found.chance:.2%}; {found.trials} trials among {found.candidates}).",
        "With what the gate's decisions tell on top, no attacker can expect to find more than "
        f"{found.with_gate:.2%} of the released images.",
        f"The most isolated original is found in {worst.share:.2%} ({worst.low:.2%} to {worst.high:.2%}); whoever has "
        f"two originals left to choose from is right in up to {found.of_two:.1%}; as differential privacy it is "
        f"ε = {epsilon} at δ = {found.delta:g} for exchanging an original.",
    )


def _of_weights(weights: TrainingCheck | None) -> str:
    if weights is None or weights.images is None:
        return "It holds only if the model's weights did not see the originals, which nobody has checked."
    if weights.seen:
        return (
            f"It does NOT hold for {weights.seen} originals: the model was trained on near-copies of them, and may "
            "know them by heart."
        )
    return (
        f"The weights did not see the originals, as far as is known: none is a near-copy of any of the "
        f"{weights.images} training images that the model's folder tells of."
    )
