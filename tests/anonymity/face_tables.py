"""Face tables of known geometry: people as directions, photographs as points around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.anonymity.attacks.photos import Pairing
from pipeline.anonymity.faces.table import FaceTable


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def table(
    embeddings: Mapping[str, np.ndarray],
    identities: Sequence[str | None],
    *,
    prefix: str = "key",
    image: np.ndarray | None = None,
    phash: np.ndarray | None = None,
    eyes: np.ndarray | None = None,
) -> FaceTable:
    """One face for each of N images, unless `image [F]` says otherwise; hashes that are far from each other."""
    count = len(identities)
    image = np.arange(count) if image is None else image
    rng = np.random.default_rng(count)
    return FaceTable(
        keys=tuple(f"{prefix}-{i}" for i in range(count)),
        identities=tuple(identities),
        image=image.astype(np.int64),
        box=np.tile(np.float32([10, 10, 40, 40]), (len(image), 1)),
        eyes=np.full((len(image), 2, 2), np.nan, np.float32) if eyes is None else eyes,
        embeddings=embeddings,
        phash=rng.integers(0, 2**63, count, dtype=np.uint64) if phash is None else phash,
    )


def people(
    count: int, each: int, *, dimensions: int = 32, spread: float = 0.3, seed: int = 0
) -> tuple[np.ndarray, list]:
    """`each` photographs of each of `count` people, `[count·each, D]` unit vectors, and who is in them."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(count, dimensions)))
    points = np.repeat(centres, each, axis=0) + spread / dimensions**0.5 * rng.normal(size=(count * each, dimensions))
    return unit(points), [f"Secret Name {i // each}" for i in range(count * each)]


def pairing(clean: np.ndarray, made: np.ndarray, identities: Sequence[str | None], **changes: object) -> Pairing:
    """Row i of `made` is the release of row i of `clean`; recogniser `toy`."""
    originals = table({"toy": clean}, identities)
    released = table({"toy": made}, [None] * len(made), prefix="release")
    return Pairing(**{"originals": originals, "released": released, "source": np.arange(len(made))} | changes)  # type: ignore[arg-type]
