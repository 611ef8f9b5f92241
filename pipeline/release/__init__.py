"""Making a public folder of a verified job: what may be published, in what order it appears, and its seal."""

from pipeline.release.config import ReleaseConfig, check_release
from pipeline.release.documents import document
from pipeline.release.publishing import Evidence, publish
from pipeline.release.sealing import seal, verify

__all__ = ["Evidence", "ReleaseConfig", "check_release", "document", "publish", "seal", "verify"]
