"""Rows of parquet and Arrow files: types, keys, labels, files that they name, and damage."""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.corpus.case import Bad, Case, Good, Lay, picture

IMAGES = [picture(number) for number in range(6)]
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def row(number: int, members: Mapping[str, bytes] | None = None, label: int | None = None) -> Good:
    """What must come out of a row of `t.parquet`."""
    return Good(f"t-{number:06d}", IMAGES[number], members or {}, label)


def three(members: Callable[[int], Mapping[str, bytes]] = lambda number: {}) -> tuple[Good, ...]:
    return tuple(row(number, members(number)) for number in range(3))


def packed(table: pa.Table, **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


def table(images: Any = None, **columns: Any) -> pa.Table:
    """Three images, and what else is in their rows."""
    return pa.table({"image": pa.array(IMAGES[:3]) if images is None else images, **columns})


def laid(files: Mapping[str, bytes], path: str = "t.parquet", *, image: str | None = "image", **options: Any) -> Lay:
    """Lays files into a folder of the data set, beside which others may lie."""

    def lay(folder: Path) -> dict[str, Any]:
        for name, content in {"set/": b"", **files}.items():
            place = folder / "set" / name.removeprefix("set/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                place.write_bytes(content)
        named = {} if image is None else {"image": image}
        return {"format": "hub", "path": f"{folder}/set/{path}".rstrip("/"), **named, **options}

    return lay


def rows(name: str, content: pa.Table, good: tuple[Good, ...], bad: tuple[Bad, ...] = (), **options: Any) -> Case:
    return Case(f"rows {name}", laid({"t.parquet": packed(content)}, **options), good, bad)


def refused(name: str, content: pa.Table, *words: str, **options: Any) -> Case:
    return Case(f"rows {name}", laid({"t.parquet": packed(content)}, **options), error=words)


def column(name: str, values: pa.Array, suffix: str, texts: Sequence[bytes], **options: Any) -> Case:
    """A column beside the image, and the member that it becomes; a null is `null` in JSON."""
    good = tuple(
        row(i, {"x.json" if value == b"null" else f"x.{suffix}": value}) for i, value in enumerate(texts)
    )  # fmt: skip
    return rows(f"of {name}", table(x=values), good, **options)


def keys(name: str, values: pa.Array, good: Mapping[int, str], bad: Mapping[str, str]) -> Case:
    """A column of keys: numbers of rows with the keys that they get, and what is refused, with a part of the reason."""
    samples = tuple(
        Good(key, IMAGES[i], {} if values[i].as_py() is None else _of_key(values[i].as_py()))
        for i, key in good.items()
    )  # fmt: skip
    refusals = tuple(Bad(key, "refused", word) for key, word in bad.items())
    return rows(f"with keys {name}", table(k=values), samples, refusals, key="k")


def _of_key(value: object) -> Mapping[str, bytes]:
    return {"k.txt": value.encode()} if isinstance(value, str) else {"k.json": str(value).encode()}


def naming(name: str, path: str, good: bool, kind: str = "refused", word: str = "outside") -> Case:
    """A row that names a file, between others; `{}` is the folder in which the data set's own folder lies."""

    def lay(folder: Path) -> dict[str, Any]:
        own = folder / "set"
        (own / "images").mkdir(parents=True)
        (own / "images" / "there.png").write_bytes(IMAGES[1])
        (folder / "secret.png").write_bytes(IMAGES[1])
        os.symlink(folder / "secret.png", own / "images" / "link.png")
        os.symlink("there.png", own / "images" / "inside.png")
        images = [{"bytes": IMAGES[0]}, {"path": path.replace("{}", str(folder))}, {"bytes": IMAGES[2]}]
        pq.write_table(table(pa.array(images, STRUCT)), own / "t.parquet")
        return {"format": "hub", "path": f"{own}/t.parquet", "image": "image"}

    samples = three() if good else (row(0), row(2))
    return Case(f"rows naming {name}", lay, samples, () if good else (Bad("t-000001", kind, word),))


def in_groups(damage: Callable[[bytes, list[int]], bytes]) -> bytes:
    """Three rows in three groups, and what damage makes of the file; it is told where the images' groups begin."""
    whole = packed(table(), row_group_size=1, compression="none", use_dictionary=False, write_statistics=False)
    places = [whole.index(image) for image in IMAGES[:3]]
    return damage(whole, places)


def wiped(content: bytes, start: int, size: int) -> bytes:
    return content[:start] + b"\xff" * size + content[start + size :]


def arrow(stream: bool) -> bytes:
    sink = pa.BufferOutputStream()
    made = table()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, made.schema) as writer:
        writer.write_table(made, max_chunksize=1)
    return sink.getvalue().to_pybytes()


WHOLE = packed(table())
WHEN = datetime.datetime(2020, 1, 2, 3, 4, 5)

CASES = (
    rows("of bytes", table(), three()),
    rows("of large binary", table(pa.array(IMAGES[:3], pa.large_binary())), three()),
    rows("of bytes and paths", table(pa.array([{"bytes": i, "path": "a/b.png"} for i in IMAGES[:3]], STRUCT)), three()),
    rows(
        "with a null",
        table(pa.array([IMAGES[0], None, IMAGES[2]])),
        (row(0), row(2)),
        (Bad("t-000001", "undecodable", "null"),),
    ),
    rows(
        "with neither bytes nor path",
        table(pa.array([{"bytes": IMAGES[0]}, {}], STRUCT)),
        (row(0),),
        (Bad("t-000001", "undecodable", "null"),),
    ),
    rows(
        "with an empty image", table(pa.array([IMAGES[0], b""])), (row(0),), (Bad("t-000001", "undecodable", "empty"),)
    ),
    rows(
        "with an image that is text",
        table(pa.array([IMAGES[0], b"text"])),
        (row(0),),
        (Bad("t-000001", "undecodable", ""),),
    ),
    rows("without a row", table(pa.array([], pa.binary())), ()),
    refused("with lists of images", table(pa.array([[i] for i in IMAGES[:3]])), "input.image", "image"),
    refused("without the column named", table(), "no column 'photo'", image="photo"),
    refused("without an image column", table(), "no column of type Image", image=None),
    rows(
        "with text for images",
        table(pa.array(["a", "b/c", "/etc/passwd"])),
        (),
        (
            Bad("t-000000", "undecodable", "missing"),
            Bad("t-000001", "undecodable", "missing"),
            Bad("t-000002", "refused", "outside"),
        ),
    ),
    refused("with numbers for images", table(pa.array([1, 2, 3])), "input.image"),
    column("text", pa.array(["a", "", None]), "txt", [b"a", b"", b"null"]),
    column("large text", pa.array(["ä", "b", "c"], pa.large_string()), "txt", ["ä".encode(), b"b", b"c"]),
    column("a dictionary", pa.array(["a", "b", "a"]).dictionary_encode(), "txt", [b"a", b"b", b"a"]),
    column("bytes beside it", pa.array([b"\0\xff", b"", None]), "bin", [b"\0\xff", b"", b"null"]),
    column("fractions", pa.array([0.5, float("nan"), float("-inf")]), "json", [b"0.5", b'"nan"', b'"-inf"']),
    column(
        "large numbers",
        pa.array([(1 << 63) - 1, -(1 << 63), None]),
        "json",
        [b"9223372036854775807", b"-9223372036854775808", b"null"],
    ),
    column("truth", pa.array([True, False, None]), "json", [b"true", b"false", b"null"]),
    column("times", pa.array([WHEN] * 3, pa.timestamp("us")), "json", [b'"2020-01-02 03:04:05.000000"'] * 3),
    column("lists", pa.array([[1, 2], [], None]), "json", [b"[1, 2]", b"[]", b"null"]),
    column("structs", pa.array([{"a": "x"}] * 3), "json", [b'{"a": "x"}'] * 3),
    rows(
        "with a column called as no member can be",
        table(**{"a.b/c": pa.array(["x", "y", "z"])}),
        three(lambda i: {"ax_2e_bx_2f_c.txt": b"xyz"[i : i + 1]}),
    ),
    rows(
        "with labels",
        table(label=pa.array([0, 7, -1])),
        tuple(row(i, {"cls": b"%d" % n}, n) for i, n in enumerate((0, 7, -1))),
    ),
    rows(
        "with a label that is null",
        table(label=pa.array([0, None, 1])),
        (row(0, {"cls": b"0"}, 0), row(1, {"label.json": b"null"}), row(2, {"cls": b"1"}, 1)),
    ),
    rows(
        "with labels of 8 bits",
        table(y=pa.array([0, 1, 2], pa.uint8())),
        tuple(row(i, {"cls": b"%d" % i}, i) for i in range(3)),
        label="y",
    ),
    refused(
        "with labels in words",
        table(label=pa.array(["cat", "dog", "cat"])),
        "input.label_names: [cat, dog]",
        label="label",
    ),
    rows(
        "with labels in words that are declared",
        table(y=pa.array(["cat", "dog", "cat"])),
        tuple(row(i, {"y.txt": name}, n) for i, (name, n) in enumerate(((b"cat", 1), (b"dog", 0), (b"cat", 1)))),
        label="y",
        label_names=["dog", "cat"],
    ),
    rows(
        "with labels as fractions",
        table(y=pa.array([1.0, 2.0, None])),
        (row(0, {"y.json": b"1.0"}, 1), row(1, {"y.json": b"2.0"}, 2), row(2, {"y.json": b"null"})),
        label="y",
    ),
    rows(
        "with several labels each",
        table(y=pa.array([[1], [1, 2], []])),
        tuple(row(i, {"y.json": c}) for i, c in enumerate((b"[1]", b"[1, 2]", b"[]"))),
        label="y",
    ),
    refused("with labels of truth", table(label=pa.array([True, False, True])), "input.label", label="label"),
    keys("of text", pa.array(["a", "b/c", "ü.1"]), {0: "a", 1: "b/c", 2: "ü.1"}, {}),
    keys("of numbers", pa.array([7, 8, -9]), {0: "7", 1: "8", 2: "-9"}, {}),
    keys("that is null", pa.array(["a", None, "c"]), {0: "a", 2: "c"}, {"": "cannot name a sample"}),
    keys("that comes twice", pa.array(["a", "b", "a"]), {0: "a", 1: "b"}, {"a": "duplicate"}),
    keys("that is empty", pa.array(["a", "", "c"]), {0: "a", 2: "c"}, {"": "cannot name a sample"}),
    keys("that leads out", pa.array(["a", "../b", "c"]), {0: "a", 2: "c"}, {"../b": "cannot name a sample"}),
    keys("that is absolute", pa.array(["a", "/etc/b", "c"]), {0: "a", 2: "c"}, {"/etc/b": "cannot name a sample"}),
    keys("with a line break", pa.array(["a", "b\nc", "c"]), {0: "a", 2: "c"}, {"b\nc": "cannot name a sample"}),
    keys("of dots", pa.array([".", "...", "c"]), {0: ".", 1: "...", 2: "c"}, {}),
    refused("without the column of keys", table(), "input.key", "no column 'k'", key="k"),
    naming("a file beside them", "{}/set/images/there.png", True),
    naming("a file by a relative path", "images/there.png", True),
    naming("a file behind a link that stays", "{}/set/images/inside.png", True),
    naming("a file outside", "{}/secret.png", False),
    naming("a file outside by dots", "images/../../secret.png", False),
    naming("a file outside behind a link", "{}/set/images/link.png", False),
    naming("a file of the system", "/etc/passwd", False),
    naming("a file by URL", "file:///etc/passwd", False),
    naming("a page on the network", "http://localhost:9/x.png", False),
    naming("a file in an archive outside", "zip://x.png::/tmp/x.zip", False),
    naming("a file that is gone", "{}/set/images/gone.png", False, "undecodable", "missing"),
    naming("a folder", "{}/set/images", False, "undecodable", ""),
    naming("a device", "/dev/zero", False),
    naming("nothing", "", False, "undecodable", ""),
    naming("a place with NUL", "images/\0there.png", False, "refused", ""),
    *(
        Case(f"rows packed by {codec}", laid({"t.parquet": packed(table(), compression=codec)}), three())
        for codec in ("gzip", "zstd", "brotli", "lz4")
    ),
    Case("rows in groups of one", laid({"t.parquet": packed(table(), row_group_size=1)}), three()),
    Case(
        "rows with pages of the second version", laid({"t.parquet": packed(table(), data_page_version="2.0")}), three()
    ),
    Case(
        "rows in two files",
        laid({"a.parquet": packed(table().slice(0, 1)), "b.parquet": packed(table().slice(1, 2))}, "*.parquet"),
        (Good("a-000000", IMAGES[0]), Good("b-000000", IMAGES[1]), Good("b-000001", IMAGES[2])),
    ),
    Case(
        "rows in a folder",
        laid({"data/train-0.parquet": WHOLE}, ""),
        tuple(Good(f"train-0-{i:06d}", IMAGES[i]) for i in range(3)),
    ),
    Case(
        "rows in a file called ...parquet",
        laid({"...parquet": WHOLE}, "...parquet"),
        tuple(Good(f"%2E%2E-{i:06d}", IMAGES[i]) for i in range(3)),
    ),
    Case("rows of an Arrow file", laid({"t.arrow": arrow(False)}, "t.arrow"), three()),
    Case("rows of an Arrow stream", laid({"t.arrow": arrow(True)}, "t.arrow"), three()),
    Case(
        "rows damaged: a group",
        laid({"t.parquet": in_groups(lambda whole, at: wiped(whole, at[1] - 20, 12))}),
        (row(0), row(2)),
        damaged=1,
    ),
    Case(
        "rows damaged: the first group",
        laid({"t.parquet": in_groups(lambda whole, at: wiped(whole, at[0] - 20, 12))}),
        (row(1), row(2)),
        damaged=1,
    ),
    Case(
        "rows damaged: bytes of an image",
        laid({"t.parquet": in_groups(lambda whole, at: wiped(whole, at[1] + 40, 50))}),
        (row(0), row(2)),
        (Bad("t-000001", "undecodable", ""),),
    ),
    Case(
        "rows damaged: a file of two is cut",
        laid({"a.parquet": WHOLE, "t.parquet": WHOLE[:-20]}, "*.parquet"),
        tuple(Good(f"a-{i:06d}", IMAGES[i]) for i in range(3)),
        damaged=1,
    ),
    Case(
        "rows damaged: a file of two is empty",
        laid({"a.parquet": WHOLE, "t.parquet": b""}, "*.parquet"),
        tuple(Good(f"a-{i:06d}", IMAGES[i]) for i in range(3)),
        damaged=1,
    ),
    Case(
        "rows damaged: a file of two is text",
        laid({"a.parquet": WHOLE, "t.parquet": b"text"}, "*.parquet"),
        tuple(Good(f"a-{i:06d}", IMAGES[i]) for i in range(3)),
        damaged=1,
    ),
    Case("rows damaged: the only file", laid({"t.parquet": WHOLE[:-20]}), error=("input.path", "t.parquet")),
    Case(
        "rows damaged: an Arrow stream is cut",
        laid({"t.arrow": arrow(True)[:-300]}, "t.arrow"),
        (row(0), row(1)),
        damaged=1,
    ),
    Case("rows that are not there", laid({}, "gone.parquet"), error=("input.path", "gone.parquet")),
    Case(
        "rows with a script beside them",
        laid({"data/t.parquet": WHOLE, "set.py": b"raise SystemExit"}, ""),
        error=("script",),
    ),
)
