"""Where a release is made: in the places of the recipe, or in private copies of those that lie in object stores."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from pipeline.errors import UserError
from pipeline.listing import real
from pipeline.release.config import ReleaseConfig
from pipeline.release.uploading import download, upload
from pipeline.streams.copying import copy_down, files_below
from pipeline.streams.job_records import FOLDERS
from pipeline.streams.ledger import JOB, MANIFEST, SHARDS
from pipeline.streams.places import is_remote, open_store
from pipeline.streams.private import make_private_folder
from pipeline.streams.store import Store

FINISHED = frozenset({JOB, MANIFEST, SHARDS, *FOLDERS})
"""What lies in the folder of a job of which a release is made, besides the faces; see `ledger`."""
FACES = "faces"
"""The folder of an audit with the faces that it found, by which the next one is faster."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Folders of this machine."""

    job: Path
    """The finished job."""
    release: Path
    """The public folder, links followed."""
    audit: Path
    """The private folder with the evidence."""
    config: ReleaseConfig
    """The section of the recipe, with these folders in the place of its own."""


@contextmanager
def places_of(config: ReleaseConfig, output_path: str) -> Iterator[Places]:
    """The places of a release. What lies in an object store is copied to this machine, and gone there afterwards.

    Messages name the places of the recipe. Raises `UserError` for an object whose name leads out of its folder.
    """
    with ExitStack() as stack:
        job = stack.enter_context(_at_hand(output_path, _finished))
        release = real(stack.enter_context(_at_hand(config.path, download)))
        audit = stack.enter_context(_at_hand(config.audit, _faces))
        here = config.model_copy(update={"path": str(release), "audit": str(audit)})
        yield Places(job=job, release=release, audit=audit, config=here)


def publish_release(places: Places, config: ReleaseConfig) -> None:
    """Moves what was sealed into the object store that `config` names; on a disk it is there."""
    if is_remote(config.path):
        upload(places.release, open_store(config.path))


def keep_audit(places: Places, config: ReleaseConfig) -> None:
    """Moves the evidence into the object store that `config` names; on a disk it is there."""
    if is_remote(config.audit):
        store = open_store(config.audit)
        for path in files_below(places.audit):
            store.put_file(places.audit / path, path)


@contextmanager
def _at_hand(place: str, copy: Callable[[Store, Path], None]) -> Iterator[Path]:
    if not is_remote(place):
        yield Path(place)
        return
    store = open_store(place)
    home = make_private_folder(real(store.parts) / uuid4().hex)
    folder = home / "copy"
    try:
        copy(store, folder)
        yield folder
    except UserError as error:
        raise UserError(str(error).replace(str(folder), store.shown)) from None
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _finished(store: Store, folder: Path) -> None:
    copy_down(store, folder, lambda path: path.partition("/")[0] in FINISHED)


def _faces(store: Store, folder: Path) -> None:
    copy_down(store, folder, lambda path: path.partition("/")[0] == FACES)
