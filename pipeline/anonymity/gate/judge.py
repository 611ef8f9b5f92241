"""Who may judge: a recogniser together with the certificate that allows it, and the distances that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.anonymity.faces.deepface_recognisers import Recogniser
from pipeline.anonymity.gate.calibration import Certificate
from pipeline.errors import UserError

CHANCE = 0.05
"""The declared error: the fraction of images that chance alone may reject, at most, for being nearest to their own
person, or, by one recogniser, for a face too much like a stranger's."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A recogniser that has shown that it can tell people apart, and the cosine distance at which it does."""

    recogniser: Recogniser
    certificate: Certificate
    threshold: float

    @classmethod
    def of(cls, recogniser: Recogniser, certificate: Certificate, threshold: str) -> Judge:
        """Makes a judge; `threshold` is `deepface`, or the name of one of the certificate's thresholds.

        Where deepface has no threshold for the recogniser, it is the certificate's at FAR 1e-3. Raises `UserError`
        where the recogniser may not certify anything.
        """
        if not certificate.certifies:
            raise UserError(
                f"anonymity.recognisers: {recogniser.name} may certify nothing: its TAR at FAR 1e-2 is "
                f"{certificate.tar['1e-2']:.3f} on {certificate.data}, and {certificate.floor:g} is the least"
            )
        own = recogniser.threshold if threshold == "deepface" else None
        far = "1e-3" if threshold == "deepface" else threshold
        distance = certificate.thresholds[far] if own is None else own
        return cls(recogniser=recogniser, certificate=certificate, threshold=distance)

    @property
    def far(self) -> float:
        """The fraction of pairs of two people at or below the threshold, on the certificate's data."""
        return max((far for far, _, distance in self.certificate.roc if distance <= self.threshold), default=0.0)

    def copy_distance(self, gallery: int) -> float:
        """Nearer than this cosine distance to one of `gallery` faces, an output is too like that face to publish.

        By the certificate's FAR, at most one image in twenty (`CHANCE`) comes so near to any stranger by accident. For
        a large gallery it is the smallest distance that two people of the certificate's data ever had. It is never
        above the threshold.
        """
        return min(max(self.certificate.closest_impostor, self.rare_distance(gallery, CHANCE)), self.threshold)

    def rare_distance(self, faces: int, error: float) -> float:
        """The largest cosine distance to the nearest of `faces` faces of other people that one has, by the
        certificate's FAR, in at most the fraction `error` of images; 0 where the certificate is too coarse to say.
        """
        return max((distance for far, _, distance in self.certificate.roc if far * faces <= error), default=0.0)
