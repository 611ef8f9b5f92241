"""A folder of images as output, `data/{class}/{key}.{ext}`, as `load_dataset("imagefolder")` reads it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError
from pipeline.media.provenance import PROVENANCE
from pipeline.media.records import Sample
from pipeline.streams.columns import LABEL_MEMBER
from pipeline.streams.contract import InputStream, Unwritable
from pipeline.streams.files import Stored, sync_file
from pipeline.streams.job_records import FolderLine
from pipeline.streams.names import safe_component, unescape_dots
from pipeline.streams.shards import IMAGE_EXTENSIONS
from pipeline.streams.store import Store

MOST_FOLDERS = 100
"""Folders that a file may lie in below data/, at most: they are made and removed one inside the other."""
LONGEST_NAME = 255
"""Bytes of the name of a file, at most."""
LONGEST_PATH = 4095
"""Bytes of a path, at most."""
LONGEST_OBJECT = 1024
"""Bytes of the URL of an object, at most: S3 takes keys of so many."""
MISREAD = ("zip", *IMAGE_EXTENSIONS)
"""Extensions that make a sidecar a sample of its own for whoever loads the folder."""


class FolderWriter:
    """Stages a shard in `parts/{name}.folder/`, then moves its files into `data/` one by one.

    The folder of a class has its name, or its number where it has no name. `imagefolder` takes the innermost folder for
    the class. So the rest of a labelled key becomes one file name (its `/` becomes `%2F`), and a key that already
    begins with the class loses that part. Without a label (−1 stands for none, too) the key's folders are kept. Where
    other shards may have samples of the same keys, the name of the shard comes before the key.

    `data/../provenance/{name}.provenance.jsonl` gets one line for each sample: {file, sidecars, provenance}. It is
    published before the first image: after a crash it tells the ledger which files in `data/` are leftovers of this
    shard, and they must be removed before the shard is written again.
    """

    def __init__(self, *, store: Store, parts: Path, name: str, stream: InputStream) -> None:
        self._store, self._stage, self._stream = store, parts / f"{name}.folder", stream
        self._list_part = parts / f"{name}.provenance.jsonl"
        self._list = f"provenance/{self._list_part.name}"
        _check_classes(stream.label_names or ())
        self._lines: list[FolderLine] = []
        self._paths: dict[str, None] = {}
        self._folders: set[str] = set()
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir()

    def add(self, samples: Sequence[Sample]) -> None:
        """Stages the files of the samples; see `ShardWriter`.

        `Unwritable` are a label without a name, a file that another sample has, in this shard or in `data/`, a member
        that readers of the folder would take for an image, and a path that is too long.
        """
        files = dict[str, bytes]()
        lines = [self._plan(sample, files) for sample in samples]
        folders = {str(folder) for path in files for folder in list(PurePosixPath(path).parents)[:-1]}
        for folder in folders - self._folders:
            if folder in self._paths or folder in files or self._is_no_folder(folder):
                raise Unwritable(f"data/{folder} is a file, and cannot be a folder")
        there = self._store.held(f"data/{path}" for path in files)
        for path in files:
            if path in self._paths:
                raise Unwritable(f"data/{path} is taken by another sample of this shard")
            if path in self._folders or f"data/{path}" in there:
                raise Unwritable(f"data/{path} exists already, and is no file of this shard")
            self._check_length(path)
        self._stage_all(files)
        self._lines += lines
        self._paths |= dict.fromkeys(files)
        self._folders |= folders

    def _plan(self, sample: Sample, files: dict[str, bytes]) -> FolderLine:
        """Adds the files of a sample to `files`, and returns what the list says of them."""
        stem = self._stem(sample)
        if (depth := stem.count("/")) > MOST_FOLDERS:
            raise Unwritable(f"its key would lie {depth} folders deep; {MOST_FOLDERS} are possible")

        def put(extension: str, content: bytes) -> str:
            place = self._stream.beside.place(stem, extension) if self._stream.beside else None
            path = self._in_split(place or f"{stem}.{safe_component(extension)}")
            if path in files:
                raise Unwritable(f"two of its files would be data/{path}")
            files[path] = content
            return path

        image, sidecars = put(sample.image_ext, sample.image), []
        for extension, content in sample.members.items():
            if extension == PROVENANCE or (
                extension == LABEL_MEMBER and sample.label not in (None, -1) and content == b"%d" % sample.label
            ):
                continue
            path = put(extension, content)
            if not path.startswith(self._in_split(f"{stem}.")):
                sidecars.append(path)
                continue
            if path.rpartition(".")[2].lower() in MISREAD or PurePosixPath(path).stem == "metadata":
                raise Unwritable(
                    f"member {extension!r} would be read as an image or as metadata "
                    "of the folder; output.format must be webdataset or parquet"
                )
            sidecars.append(path)
        try:
            provenance = json.loads(sample.members.get(PROVENANCE, b"null"))
            return FolderLine(file=image, sidecars=tuple(sidecars), provenance=provenance)
        except (ValueError, RecursionError):
            raise Unwritable(f"member {PROVENANCE!r} is no JSON object") from None

    def _stage_all(self, files: Mapping[str, bytes]) -> None:
        try:
            for path, content in files.items():
                staged = self._stage / path
                staged.parent.mkdir(parents=True, exist_ok=True)
                with open(staged, "xb") as file:
                    file.write(content)
        except OSError as error:
            for path in files:
                (self._stage / path).unlink(missing_ok=True)
            if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EEXIST):  # a stricter file system than ours
                raise Unwritable(f"the file system takes no such name ({error.strerror})") from None
            raise

    def commit(self) -> dict[str, Stored]:
        """Publishes the list, then the files; see `ShardWriter`."""
        staged = {f"data/{path}": self._stage / path for path in self._paths}
        stored = {path: sync_file(part) for path, part in staged.items()}
        if taken := self._store.held(staged):
            raise self._taken(min(taken))
        self._list_part.write_text("".join(line.to_json() + "\n" for line in self._lines))
        stored[self._list] = self._store.put_file(self._list_part, self._list)
        if (other := self._store.put_new_files(staged)) is not None:
            self._store.delete(self._list)  # or the file of the other shard would be removed as one of ours
            raise self._taken(other)
        shutil.rmtree(self._stage)
        return stored

    def abort(self) -> None:
        """Removes what was staged."""
        shutil.rmtree(self._stage, ignore_errors=True)
        self._list_part.unlink(missing_ok=True)

    def _is_no_folder(self, folder: str) -> bool:
        """Whether something is there that is no folder: a file, or a link, which might lead anywhere."""
        if (local := self._store.local) is None:
            return bool(self._store.held([f"data/{folder}"]))
        path = local / "data" / folder
        return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())

    def _check_length(self, path: str) -> None:
        if (local := self._store.local) is None:
            if len(self._store.url(f"data/{path}").encode()) > LONGEST_OBJECT:
                raise Unwritable(f"the name of an object is too long: {LONGEST_OBJECT} bytes are possible")
            finals = [self._stage / path]
        else:
            finals = [local / "data" / path, self._stage / path]
        for final in finals:
            if len(os.fsencode(final.name)) > LONGEST_NAME or len(os.fsencode(os.path.abspath(final))) > LONGEST_PATH:
                raise Unwritable(
                    f"the path of a file is too long: {LONGEST_PATH} bytes are possible, and {LONGEST_NAME} of a name"
                )

    def _taken(self, path: str) -> UserError:
        return UserError(
            f"{self._store.shown}/{path} exists already: another shard, which was written at the same time, has a "
            "sample of this key; the same command, run again, puts one of them into quarantine"
        )

    def _in_split(self, path: str) -> str:
        """The path with the folder that is a split in lower case, as `datasets` knows it."""
        folders = path.split("/")
        split = next((i for i, folder in enumerate(folders[:-1]) if folder in self._stream.splits), None)
        return "/".join(folder.lower() if i == split else folder for i, folder in enumerate(folders))

    def _stem(self, sample: Sample) -> str:
        key = (unescape_dots(sample.key) if self._stream.verbatim_names else sample.key).removeprefix("./")
        shard = f"{sample.shard}/" if sample.shard else ""
        if sample.label is None or sample.label == -1:
            return "/".join(map(safe_component, f"{shard}{key}".split("/")))
        names = self._stream.label_names
        if names is not None and not 0 <= sample.label < len(names):
            raise Unwritable(f"label {sample.label} is not among the {len(names)} names")
        name = str(sample.label) if names is None else names[sample.label]
        split, _, rest = key.partition("/")
        before, key = (f"{safe_component(split)}/", rest) if split in self._stream.splits else ("", key)
        return f"{before}{safe_component(name)}/{safe_component(shard + key.removeprefix(f'{name}/'))}"


def _check_classes(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        raise UserError(f"input.label_names: two classes would share a folder ({', '.join(names)})")
