"""A folder of images as output, `data/{class}/{key}.{ext}`, as `load_dataset("imagefolder")` reads it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError
from pipeline.media.provenance import PROVENANCE
from pipeline.media.records import Sample
from pipeline.streams.columns import LABEL_MEMBER
from pipeline.streams.contract import InputStream, Unwritable
from pipeline.streams.files import Stored, publish, sync_file, sync_folder
from pipeline.streams.job_records import FolderLine
from pipeline.streams.names import safe_component, unescape_dots
from pipeline.streams.shards import IMAGE_EXTENSIONS

MISREAD = ("zip", *IMAGE_EXTENSIONS)
"""Extensions that make a sidecar a sample of its own for whoever loads the folder."""


class FolderWriter:
    """Stages a shard in `parts/{name}/`, then moves its files into `data/` one by one.

    The folder of a class has its name, or its number where it has no name. `imagefolder` takes the innermost folder for
    the class. So the rest of a labelled key becomes one file name (its `/` becomes `%2F`), and a key that already
    begins with the class loses that part. Without a label (−1 stands for none, too) the key's folders are kept. A name
    that exists already raises `UserError`.

    `parts/../provenance/{name}.provenance.jsonl` gets one line for each sample: {file, sidecars, provenance}. It is
    published before the first image: after a crash it tells the ledger which files in `data/` are leftovers of this
    shard, and they must be removed before the shard is written again.
    """

    def __init__(self, *, data: Path, parts: Path, name: str, stream: InputStream) -> None:
        self._data, self._stage, self._stream = data, parts / name, stream
        self._list_part = parts / f"{name}.provenance.jsonl"
        self._list = parts.parent / "provenance" / self._list_part.name
        self._classes = _class_folders(stream.label_names)
        self._lines: list[FolderLine] = []
        self._paths: dict[str, None] = {}
        shutil.rmtree(self._stage, ignore_errors=True)
        self._stage.mkdir()

    def add(self, samples: Sequence[Sample]) -> None:
        """Stages the files of the samples; see `ShardWriter`.

        `Unwritable` are a label without a name, a file that another sample has taken, and a member that readers of the
        folder would take for an image.
        """
        for sample in samples:
            self._add(sample)

    def _add(self, sample: Sample) -> None:
        stem = self._stem(sample)
        image = f"{stem}.{safe_component(sample.image_ext)}"
        self._write(image, sample.image, sample.key)
        sidecars = []
        for extension, content in sample.members.items():
            if extension == PROVENANCE or (
                extension == LABEL_MEMBER and sample.label not in (None, -1) and content == b"%d" % sample.label
            ):
                continue
            path = f"{stem}.{safe_component(extension)}"
            if path.rpartition(".")[2].lower() in MISREAD or PurePosixPath(path).stem == "metadata":
                raise Unwritable(
                    f"member {extension!r} would be read as an image or as metadata "
                    "of the folder; output.format must be webdataset or parquet"
                )
            self._write(path, content, sample.key)
            sidecars.append(path)
        provenance = json.loads(sample.members.get(PROVENANCE, b"null"))
        self._lines.append(FolderLine(file=image, sidecars=tuple(sidecars), provenance=provenance))

    def commit(self) -> dict[str, Stored]:
        """Publishes the list, then the files; see `ShardWriter`."""
        stored = {f"{self._data.name}/{path}": sync_file(self._stage / path) for path in self._paths}
        for path in self._paths:
            if os.path.lexists(self._data / path):
                raise UserError(f"{self._data / path} exists already: two samples have the same key")
        self._list_part.write_text("".join(line.to_json() + "\n" for line in self._lines))
        stored[f"{self._list.parent.name}/{self._list.name}"] = publish(self._list_part, self._list)
        for path in self._paths:
            final = self._data / path
            final.parent.mkdir(parents=True, exist_ok=True)
            _claim(final)
            os.replace(self._stage / path, final)
        for folder in sorted({f for path in self._paths for f in (self._data / path).parents}):
            if folder.is_relative_to(self._data):
                sync_folder(folder)
        shutil.rmtree(self._stage)
        return stored

    def abort(self) -> None:
        """Removes what was staged."""
        shutil.rmtree(self._stage, ignore_errors=True)
        self._list_part.unlink(missing_ok=True)

    def _stem(self, sample: Sample) -> str:
        key = unescape_dots(sample.key) if self._stream.verbatim_names else sample.key
        if sample.label is None or sample.label == -1:
            parts = [safe_component(part) for part in key.split("/") if part not in ("", ".")]
            return "/".join(parts) or safe_component("")
        names = self._stream.label_names
        if names is not None and not 0 <= sample.label < len(names):
            raise Unwritable(f"label {sample.label} is not among the {len(names)} names")
        name = str(sample.label) if names is None else names[sample.label]
        folder = safe_component(name) if names is None else self._classes[sample.label]
        return f"{folder}/{safe_component(key.removeprefix('./').removeprefix(f'{name}/'))}"

    def _write(self, path: str, content: bytes, key: str) -> None:
        if path in self._paths:
            raise Unwritable(f"{path} is taken by another sample of this shard")
        self._paths[path] = None
        staged = self._stage / path
        staged.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(content)


def _class_folders(names: tuple[str, ...] | None) -> tuple[str, ...]:
    folders = tuple(safe_component(name) for name in names or ())
    if len(set(folders)) < len(folders):
        raise UserError(f"input.label_names: two classes would share a folder ({', '.join(folders)})")
    return folders


def _claim(path: Path) -> None:
    """Creates the file, or raises if another process was faster: `os.replace` alone would overwrite it."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        raise UserError(f"{path} exists already: two samples have the same key") from None
