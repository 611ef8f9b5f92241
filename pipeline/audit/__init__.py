"""`doppel audit`: is the release as it was sealed, and how far does every attack get?

Everything it writes is private.
"""

from pipeline.audit.config import AuditConfig
from pipeline.audit.examining import audit, examine
from pipeline.audit.task import Audit

__all__ = ["Audit", "AuditConfig", "audit", "examine"]
