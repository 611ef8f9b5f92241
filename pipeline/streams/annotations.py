"""What one file says of many images: annotations as COCO has them, and the tables of `imagefolder`."""

from __future__ import annotations

import csv
import io
import json
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.plain_json import parse_json_object
from pipeline.streams.bounds import Bounds
from pipeline.streams.layouts import COCO, METADATA, images_of
from pipeline.streams.listed import ListedImage, extension_of, stem
from pipeline.streams.names import unsafe

Row = Mapping[str, Any]


def with_coco(
    entries: Iterable[ListedImage], root: Path, paths: Sequence[str], bounds: Bounds
) -> tuple[list[ListedImage], list[str]]:
    """The images with what COCO's files say of each, as members `json` (instances), `captions.json` and
    `person_keypoints.json`; and what is to be said of that. No file below `annotations/` is one of the images.

    A member holds the fields of the image, and for each field of its annotations the list of their values, with the
    names of the categories as `category`. The images of `annotations/instances_NAME.json` lie in `NAME/`,
    `images/NAME/`, `images/` or beside `annotations/`, and those of `_annotations.coco.json` beside it; one that is in
    none of these has a problem.
    """
    tables = [named for path in paths if (named := COCO.fullmatch(path))]
    images = set(images_of(paths))
    found = {entry.image: entry for entry in entries if entry.image in images}
    unknown = 0
    for named in tables:
        path = named[0]
        member = "json" if named["kind"] in ("instances", None) else f"{named['kind']}.json"
        for name, content in _of_images(root / path, bounds):
            if name is None:
                unknown += 1
                continue
            split = named["images"]
            folders = ("",) if split is None else (f"{split}/", f"images/{split}/", "images/", "")
            places = [f"{named['base']}{folder}{name}" for folder in folders]
            image = next((place for place in places if place in found), places[0])
            entry = found.get(image) or _missing(image, f"{path} names it, and it is not there")
            found[image] = entry.with_members(given={member: content})
    notes = [f"input: annotations of {unknown} images that their file does not list are left out"] if unknown else []
    return sorted(found.values(), key=lambda entry: entry.key), notes


def _of_images(file: Path, bounds: Bounds) -> Iterator[tuple[str | None, bytes]]:
    """Yields the name of each image in a file of COCO, and its member; None for images with nothing but annotations."""
    content = parse_json_object(_read(file, bounds), str(file))
    try:
        names = {category["id"]: category["name"] for category in content.get("categories", ())}
        of_image: dict[Any, list[dict[str, Any]]] = {}
        for annotation in content.get("annotations", ()):
            of_image.setdefault(annotation["image_id"], []).append(annotation)
        for image in content["images"]:
            own = of_image.pop(image["id"], [])
            fields = sorted({field for annotation in own for field in annotation} - {"image_id", "id"})
            lists: dict[str, Any] = {field: [annotation.get(field) for annotation in own] for field in fields}
            if "category_id" in lists:
                lists["category"] = [names.get(number) for number in lists["category_id"]]
            yield str(image["file_name"]), json.dumps({**image, **lists}, ensure_ascii=False).encode()
        yield from ((None, b"") for _ in of_image)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} holds no annotations as COCO has them ({type(error).__name__}: {error})") from None


def with_metadata(
    entries: Iterable[ListedImage], root: Path, paths: Sequence[str], bounds: Bounds
) -> list[ListedImage]:
    """The images that the rows of tables name, as `imagefolder` reads them, each with its row as member `json`.

    `file_name` names the image, from the folder of the table on; a file that `NAME_file_name` names becomes the member
    `NAME.EXTENSION`. Rows that name what is not there or lies outside, and images without a row, have a problem.
    """
    found, known, named = {entry.image: entry for entry in entries}, set(paths), dict[str, ListedImage]()
    beside = set[str]()
    for table in (path for path in paths if posixpath.basename(path) in METADATA):
        for number, row in enumerate(_rows(root / table, bounds), start=1):
            places = {
                field.removesuffix("file_name").rstrip("_"): _place(posixpath.dirname(table), value, known)
                for field, value in row.items()
                if field == "file_name" or (field.endswith("_file_name") and value is not None)
            }
            beside |= {place for name, place in places.items() if name and place}
            image = places.pop("", None)
            entry = found.get(image) or _missing(f"{table}-{number:06d}", f"row {number} of {table} names no image")
            if None in places.values():
                entry = _missing(entry.key, f"row {number} of {table} names a file that is not there", entry.image)
            given = {"json": json.dumps(row, ensure_ascii=False).encode()}
            files = {f"{name}.{extension_of(place)}": place for name, place in places.items() if place}
            key = entry.key if entry.key not in named else f"{table}-{number:06d}"
            if key != entry.key:
                entry = _missing(key, f"row {number} of {table} names an image that another row has")
            named[key] = entry.with_members(files=files, given=given)
    for image, entry in found.items():
        if entry.key not in named and image not in beside:
            named[entry.key] = _missing(entry.key, "no row of the metadata names it", image)
    return sorted(named.values(), key=lambda entry: entry.key)


def _missing(path: str, reason: str, image: str | None = None) -> ListedImage:
    return ListedImage(key=stem(path) or path, image=image, problem=("refused", reason))


def _place(folder: str, name: object, known: Collection[str]) -> str | None:
    """The path of a file that a table names; None where the name leads out of the folder, or to nothing."""
    if not isinstance(name, str) or "://" in name or unsafe(name):
        return None
    place = posixpath.normpath(posixpath.join(folder, name))
    return place if place in known else None


def _rows(file: Path, bounds: Bounds) -> list[Row]:
    if file.suffix == ".parquet":
        raise _for_datasets(file, "is a table in parquet")
    try:
        text = _read(file, bounds).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is no UTF-8 ({error.reason} at byte {error.start})") from None
    rows = _csv_rows(file, text) if file.suffix == ".csv" else _jsonl_rows(file, text)
    if rows and any(field.endswith("file_names") for field in rows[0]):
        raise _for_datasets(file, "has a column of several files")
    if not any(rows) or "file_name" not in rows[0]:
        raise UserError(f"{file}: a column file_name is expected, which names the images")
    return rows


def _for_datasets(file: Path, what: str) -> UserError:
    line = f"input: {{format: hub, path: imagefolder, data_dir: {str(file.parent)!r}}}"
    return UserError(f"{file} {what}, which datasets reads: {line}")


def _jsonl_rows(file: Path, text: str) -> list[Row]:
    lines = enumerate(text.splitlines(), start=1)
    return [parse_json_object(line, f"{file}, line {number}") for number, line in lines if line.strip()]


def _csv_rows(file: Path, text: str) -> list[Row]:
    """The rows of a table; a column of whole numbers, or of numbers, in every row holds numbers, and others text."""
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, *lines = [line for line in reader if line] or [[]]
    except csv.Error as error:
        raise UserError(f"{file} is no table of comma-separated values ({error})") from None
    if wrong := [number for number, line in enumerate(lines, start=2) if len(line) != len(header)]:
        raise UserError(
            f"{file}: row {wrong[0]} has {len(lines[wrong[0] - 2])} values, and there are {len(header)} columns"
        )
    if len(set(header)) < len(header):
        raise UserError(f"{file}: two columns have one name ({', '.join(header)})")
    columns = [_typed(column) for column in zip(*lines, strict=True)]
    return [dict(zip(header, row, strict=True)) for row in zip(*columns, strict=True)]


def _typed(column: Sequence[str]) -> Sequence[object]:
    """Empty cells are None; `007` stays a text."""
    cells = [cell for cell in column if cell]
    for pattern, kind in ((r"-?(0|[1-9][0-9]{0,17})", int), (r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", float)):
        if cells and all(re.fullmatch(pattern, cell) for cell in cells):
            return [kind(cell) if cell else None for cell in column]
    return [cell or None for cell in column]


def _read(file: Path, bounds: Bounds) -> bytes:
    with open(file, "rb") as opened:
        content = opened.read(bounds.metadata_bytes + 1)
    if len(content) > bounds.metadata_bytes:
        raise UserError(f"{file} has more bytes than input.bounds.metadata_bytes allows, {bounds.metadata_bytes}")
    return content
