"""Which files the rows of a data set may name: those in its own folder or below its own URL, and no others."""

from __future__ import annotations

import errno
import lzma
import os
import stat
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from pipeline.streams.files import open_url

ARCHIVE = "zip://"
"""What a name begins with that lies in an archive: `zip://a.png::IMAGES.zip`."""


class Outside(Exception):
    """A row names what it may not; the message says why, for the reason of a `Rejected`."""


@dataclass(frozen=True)
class OwnFiles:
    """The places whose files belong to a data set."""

    bases: tuple[str, ...]
    """Folders of this machine as real paths, and URLs that end with `/`. A relative name without a file beside it is
    looked up in the first."""

    @classmethod
    def of(cls, bases: Iterable[str]) -> OwnFiles:
        """`bases` as people write them: folders, also by `file://`, and URLs."""
        return cls(tuple(dict.fromkeys(map(_base, bases))))

    def locate(self, path: str, beside: str | None = None) -> str:
        """The real path or URL that `path` means in the file `beside`.

        Links are followed before the check. Raises `Outside` for what lies outside of `bases`.
        """
        *inside, place = path.split("::")
        if len(inside) > 1 or not all(part.startswith(ARCHIVE) for part in inside):
            raise Outside(f"{path!r} is no file of the data set")
        folder = self.bases[0] if beside is None else folder_of(beside)
        place = _local(place)
        if "://" not in place and not os.path.isabs(place):
            place = folder + place if "://" in folder else os.path.join(folder, place)
        if not self.holds(place):
            raise Outside(f"{path!r} lies outside the data set ({', '.join(self.bases)})")
        return "::".join([*inside, place if "://" in place else os.path.realpath(place)])

    def holds(self, place: str) -> bool:
        """Whether a file, by its path or URL, lies in one of the bases, once links are followed."""
        place = _local(place.split("::")[-1])
        if "\0" in place:
            return False
        if "://" not in place:
            real = Path(os.path.realpath(place))
            return any(real.is_relative_to(base) for base in self.bases if "://" not in base)
        return any(
            place.startswith(base) and not {".", ".."} & set(unquote(place[len(base) :]).replace("\\", "/").split("/"))
            for base in self.bases
            if "://" in base
        )

    def read(self, path: str, beside: str | None, limit: int) -> bytes:
        """The bytes of a file.

        Raises `Outside` where it is none of the data set's, `OSError` where it cannot be read, is no regular file, or
        has more than `limit` bytes, and of these `Unreachable` where that may pass.
        """
        *inside, place = self.locate(path, beside).split("::")
        if "://" not in place and not stat.S_ISREG(os.stat(place).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        with open_url(place) as file:
            content = _unpacked(file, inside[0], limit) if inside else file.read(limit + 1)
        if len(content) > limit:
            raise OSError(errno.EFBIG, f"it has more than the {limit} bytes that are allowed")
        return content


def _unpacked(file: BinaryIO, inside: str, limit: int) -> bytes:
    try:
        with zipfile.ZipFile(file) as archive, archive.open(inside.removeprefix(ARCHIVE)) as member:
            return member.read(limit + 1)
    except KeyError:
        raise FileNotFoundError(errno.ENOENT, "the archive does not hold it") from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:  # or it is encrypted
        raise OSError(errno.EBADMSG, f"its archive is damaged: {error}") from None


def folder_of(file: str) -> str:
    """The folder of a file or archive member: a path, or a URL that ends with `/`."""
    place = _local(file.split("::")[-1])
    if "://" in place:
        return place.split("?")[0].rpartition("/")[0] + "/"
    return os.path.dirname(os.path.abspath(place))


def _base(place: str) -> str:
    place = _local(place)
    return place.rstrip("/") + "/" if "://" in place else os.path.realpath(os.path.expanduser(place))


def _local(place: str) -> str:
    for scheme in ("file://", "local://"):
        if place.lower().startswith(scheme):
            return place[len(scheme) :]
    return place
