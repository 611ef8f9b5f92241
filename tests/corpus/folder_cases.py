"""Folders of images: links, names, classes, what lies beside images, and what is none of them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.corpus.case import Bad, Case, Good, Lay, picture

IMAGES = [picture(number) for number in range(6)]
CAT, DOG = IMAGES[0], IMAGES[1]
TWO = {"cat/a.png": CAT, "dog/b.png": DOG}
SOUND = (Good("cat/a", CAT, {"cls": b"0"}, 0), Good("dog/b", DOG, {"cls": b"1"}, 1))


def laid(files: Mapping[str, bytes], also: Callable[[Path], object] = lambda root: None, **options: Any) -> Lay:
    """Lays files into the folder, and what `also` makes there."""

    def lay(folder: Path) -> dict[str, Any]:
        root = folder / "set"
        root.mkdir()
        (folder / "outside.png").write_bytes(IMAGES[5])
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        also(root)
        return {"format": "folder", "path": str(root), **options}

    return lay


def passed_over(name: str, files: Mapping[str, bytes], also: Callable[[Path], object] = lambda root: None) -> Case:
    """Something beside two images that is no image of the set."""
    return Case(f"folder with {name}", laid({**TWO, **files}, also), SOUND)


def beside(name: str, files: Mapping[str, bytes], members: Mapping[str, bytes], **unwritable: str) -> Case:
    """Files that belong to an image."""
    cat = Good("cat/a", CAT, {"cls": b"0", **members}, 0)
    refused = {format: {"cat/a": word} for format, word in unwritable.items()}
    return Case(f"folder with {name}", laid({**TWO, **files}), (cat, SOUND[1]), unwritable=refused)


def refused(name: str, files: Mapping[str, bytes], key: str, word: str) -> Case:
    """A file that could lead somewhere, or that cannot be read."""
    return Case(f"folder with {name}", laid({**TWO, **files}), SOUND, (Bad(key, "refused", word),))


def classes(name: str, *names: str) -> Case:
    """Classes of these names, which are numbered in their order."""
    files = {f"{label}/x{i}.png": IMAGES[i] for i, label in enumerate(names)}
    good = tuple(
        Good(f"{label}/x{i}", IMAGES[i], {"cls": b"%d" % (n := sorted(names).index(label))}, n)
        for i, label in enumerate(names)
    )  # fmt: skip
    return Case(f"folder with classes {name}", laid(files), good)


def names(name: str, *texts: str) -> Case:
    """Images of these names, without classes."""
    files = {f"{text}.png": IMAGES[i] for i, text in enumerate(texts)}
    return Case(f"folder with names {name}", laid(files), tuple(Good(t, IMAGES[i]) for i, t in enumerate(texts)))


def link(target: str, name: str) -> Callable[[Path], object]:
    return lambda root: os.symlink(target.replace("{}", str(root)), root / name)


def _file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"x")
    return folder / "file"


def _linked(folder: Path) -> Path:
    os.symlink(folder / "set", folder / "link")
    return folder / "link"


CASES = (
    Case("folder plain", laid(TWO), SOUND),
    Case("folder without classes", laid({"a.png": CAT, "b.png": DOG}), (Good("a", CAT), Good("b", DOG))),
    Case(
        "folder with classes and images beside them", laid({**TWO, "c.png": IMAGES[2]}), (*SOUND, Good("c", IMAGES[2]))
    ),
    Case(
        "folder in folders",
        laid({"cat/x/y/a.png": CAT, "dog/b.png": DOG}, labels="directories"),
        (Good("cat/x/y/a", CAT, {"cls": b"0"}, 0), SOUND[1]),
    ),
    Case(
        "folder in folders, which of them is not said",
        laid({"cat/x/y/a.png": CAT, "dog/b.png": DOG}),
        error=("input.labels", "innermost"),
    ),
    Case(
        "folder in many folders",
        laid({"d/" * 60 + "a.png": CAT}, labels="directories"),
        (Good("d/" * 60 + "a", CAT, {"cls": b"0"}, 0),),
    ),
    Case("folder with a table that names nothing", laid({**TWO, "metadata.csv": b"a,b\n1,2\n"}), error=("file_name",)),
    Case("folder whose folders are no classes", laid(TWO, labels="none"), (Good("cat/a", CAT), Good("dog/b", DOG))),
    Case("folder in shards of one image", laid(TWO, shard_size=1), SOUND),
    Case(
        "folder in shards of one image, all of one class",
        laid({f"cat/{i}.png": IMAGES[i] for i in range(4)}, shard_size=1),
        tuple(Good(f"cat/{i}", IMAGES[i], {"cls": b"0"}, 0) for i in range(4)),
    ),
    Case("folder without an image", laid({"a.txt": b"x"}), error=("input.path", "no image")),
    Case("folder with nothing in it", laid({}), error=("input.path", "no image")),
    Case(
        "folder that is a file",
        lambda folder: {"format": "folder", "path": str(_file(folder))},
        error=("input.path", "not a folder"),
    ),
    Case(
        "folder that is not there",
        lambda folder: {"format": "folder", "path": f"{folder}/gone"},
        error=("input.path", "not a folder"),
    ),
    Case(
        "folder called ...",
        lambda folder: {**laid(TWO)(folder), "path": str((folder / "set").rename(folder / "..."))},
        SOUND,
    ),
    Case(
        "folder called lock",
        lambda folder: {**laid(TWO)(folder), "path": str((folder / "set").rename(folder / "lock"))},
        SOUND,
    ),
    Case("folder behind a link", lambda folder: {**laid(TWO)(folder), "path": str(_linked(folder))}, SOUND),
    passed_over("hidden files", {"cat/.a.png": DOG, ".DS_Store": b"x", ".c.png": DOG}),
    passed_over("a hidden folder", {".git/c.png": DOG, "cat/.thumbnails/c.png": DOG}),
    passed_over("lists and notes", {"README.md": b"x", "meta.csv": b"file_name\n", "cat/list.txt": b"x"}),
    passed_over("a class without an image", {"bird/notes.txt": b"x"}),
    passed_over("an empty class", {}, lambda root: (root / "bird").mkdir()),
    passed_over("an archive", {"more.zip": b"PK\x05\x06" + bytes(18), "more.tar": bytes(1024)}),
    passed_over("a pipe", {}, lambda root: os.mkfifo(root / "cat" / "pipe.png")),
    passed_over("a link to a file outside", {}, link("{}/../outside.png", "cat/link.png")),
    passed_over("a link to a file of the system", {}, link("/etc/passwd", "cat/link.png")),
    passed_over("a link to a folder outside", {}, link("{}/..", "bird")),
    passed_over("a link to a folder inside", {}, link("{}/cat", "bird")),
    passed_over("a link to the folder itself", {}, link("{}", "bird")),
    passed_over("a folder called as an image", {}, lambda root: (root / "cat" / "c.png").mkdir()),
    Case(
        "folder with a link that stays inside",
        laid(TWO, link("a.png", "cat/z.png")),
        (*SOUND, Good("cat/z", CAT, {"cls": b"0"}, 0)),
    ),
    Case(
        "folder with a hard link",
        laid(TWO, lambda root: os.link(root / "cat/a.png", root / "cat/z.png")),
        (*SOUND, Good("cat/z", CAT, {"cls": b"0"}, 0)),
    ),
    Case(
        "folder with a link to nothing",
        laid(TWO, link("gone.png", "cat/z.png")),
        SOUND,
        (Bad("cat/z", "undecodable", "cannot be read"),),
    ),
    beside("text beside an image", {"cat/a.txt": b"a cat\r\n"}, {"txt": b"a cat\r\n"}),
    beside("JSON beside an image", {"cat/a.json": b'{"a": '}, {"json": b'{"a": '}),
    beside(
        "several files beside an image",
        {"cat/a.txt": b"1", "cat/a.json": b"2", "cat/a.x.y": b"3"},
        {"txt": b"1", "json": b"2", "x.y": b"3"},
    ),
    beside("text in capitals beside an image", {"cat/a.TXT": b"1"}, {"TXT": b"1"}),
    beside("an empty file beside an image", {"cat/a.txt": b""}, {"txt": b""}),
    beside("an archive beside an image", {"cat/a.zip": b"PK"}, {"zip": b"PK"}, folder="image"),
    beside("our own record beside an image", {"cat/a.doppel.json": b'{"version": 1}'}, {}),
    beside("a mask beside an image", {"cat/a.npy": b"\x93NUMPY"}, {"npy": b"\x93NUMPY"}),
    Case(
        "folder with text for the longer name",
        laid({"cat/a.png": CAT, "cat/a.b.png": DOG, "cat/a.b.txt": b"x"}),
        (Good("cat/a", CAT, {"cls": b"0"}, 0), Good("cat/a.b", DOG, {"cls": b"0", "txt": b"x"}, 0)),
    ),
    Case(
        "folder with one name and two endings",
        laid({**TWO, "cat/a.jpg": IMAGES[2]}),
        (Good("cat/a", IMAGES[2], {"cls": b"0"}, 0), SOUND[1]),
        (Bad("cat/a", "refused", "duplicate"),),
    ),
    Case(
        "folder with endings in capitals",
        laid({"cat/a.PNG": CAT, "dog/b.Png": DOG}),
        tuple(
            Good(g.key, g.image, g.members, g.label, extension=e) for g, e in zip(SOUND, ("PNG", "Png"), strict=True)
        ),
    ),
    Case(
        "folder with other endings",
        laid({**TWO, "cat/c.image": IMAGES[2]}, extensions=["image"]),
        (Good("cat/c", IMAGES[2], {"cls": b"0"}, 0),),
    ),
    Case(
        "folder with an image that is empty",
        laid({**TWO, "cat/c.png": b""}),
        SOUND,
        (Bad("cat/c", "undecodable", "empty"),),
    ),
    Case(
        "folder with an image that is text",
        laid({**TWO, "cat/c.png": b"text"}),
        SOUND,
        (Bad("cat/c", "undecodable", ""),),
    ),
    Case(
        "folder with an image that is cut",
        laid({**TWO, "cat/c.png": CAT[:60], "cat/c.txt": b"kept"}),
        SOUND,
        (Bad("cat/c", "undecodable", "", {"png": CAT[:60], "cls": b"0", "txt": b"kept"}),),
    ),
    Case("folder with a clip", laid({**TWO, "cat/c.mp4": b"\0\0\0\x18ftypmp42"}), SOUND),
    refused("a name with a line break", {"cat/x\ny.png": DOG}, "cat/x\ny", "unsafe"),
    refused("a name with a backslash", {"cat/x\\y.png": DOG}, "cat/x\\y", "unsafe"),
    refused("a name with a tabulator", {"cat/x\ty.png": DOG}, "cat/x\ty", "unsafe"),
    refused("a name with an escape sequence", {"cat/\x1b[2J.png": DOG}, "cat/\x1b[2J", "unsafe"),
    refused("a name that is no UTF-8", {"cat/\udcff.png": DOG}, "cat/\\udcff", "unsafe"),
    classes("in numbers", "10", "9", "1"),
    classes("that Windows reserves", "CON", "nul"),
    classes("with blanks", " a", "a", "a "),
    classes("in both cases", "Cat", "cat"),
    classes("in both forms of Unicode", unicodedata.normalize("NFC", "ü"), unicodedata.normalize("NFD", "ü")),
    classes("with percent signs", "100%", "%2E", "a%2Fb"),
    classes("with dots", "a.b", "a..b", "c."),
    classes("with glob characters", "[a]", "*", "?"),
    classes("in long names", "k" * 250, "k" * 249),
    classes("called as folders of a job", "data", "shards", "quarantine"),
    names("of dots", "a..b", "c.", "d"),
    names("with blanks and signs", " a", "b ", "$(c)", "-d"),
    names("in Han and emoji", "图像", "👩‍👩‍👧"),
    names("of 250 bytes", "n" * 250, "n" * 249),
    names("that look encoded", "%2E", "%", "a%2Fb"),
    names("called metadata", "metadata", "index"),
)
