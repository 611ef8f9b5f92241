"""Labels: a number is one, and nothing else is guessed to be one."""

from __future__ import annotations

import json
from typing import Any

from tests.corpus.case import Bad, Case, Good, members_of, picture, sound
from tests.corpus.tars import one, packed

IMAGE = picture(1)


def label(name: str, content: bytes, number: int | None, **unwritable: str) -> Case:
    """The member `cls` of a sample, which stays as it is, and the class that it means."""
    members = [*members_of(0), ("x.png", IMAGE), ("x.cls", content)]
    refused = {format: {"x": word} for format, word in unwritable.items()}
    good = (sound(0), Good("x", IMAGE, {"cls": content}, number))
    return Case(f"label {name}", one(packed(members)), good, unwritable=refused)


def field(name: str, content: object, number: int | None, where: str = "json:label") -> Case:
    """A field of the member `json`."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    good = Good("x", IMAGE, {"json": text}, number)
    return Case(f"label in JSON {name}", one(packed([("x.png", IMAGE), ("x.json", text)]), label=where), (good,))


def named(name: str, names: list[Any], content: bytes, *, error: tuple[str, ...] = (), word: str = "") -> Case:
    """A data set that names its classes."""
    lay = one(packed([("x.png", IMAGE), ("x.cls", content)]), label_names=names)
    if error:
        return Case(f"class {name}", lay, error=error)
    if word:
        return Case(f"class {name}", lay, (), (Bad("x", "refused", word),))
    return Case(f"class {name}", lay, (Good("x", IMAGE, {"cls": content}, int(content)),))


CASES = (
    label("of zero", b"0", 0),
    label("with blanks around it", b" 3\n", 3),
    label("with a plus", b"+3", 3),
    label("with zeros before it", b"007", 7),
    label("of minus one, which is none", b"-1", -1),
    label("below minus one", b"-5", -5),
    label("that is large", b"9223372036854775807", (1 << 63) - 1),
    label("that is too large", b"9223372036854775808", None),
    label("of a thousand digits", b"9" * 1000, None),
    label("of more digits than Python reads", b"9" * 9000, None),
    label("that is text", b"cat", None),
    label("that is empty", b"", None),
    label("that is broken", b"1.5", None),
    label("that is whole, but written as a fraction", b"1.0", None),
    label("with an exponent", b"1e3", None),
    label("that is true", b"True", None),
    label("in hexadecimal", b"0x10", None),
    label("of several numbers", b"1,2", None),
    label("in other digits", "٣".encode(), None),
    label("that is no UTF-8", b"\xff", None),
    label("with NUL", b"1\0", None),
    field("of a number", {"label": 4}, 4),
    field("of text", {"label": "4"}, None),
    field("that is true", {"label": True}, None),
    field("that is a fraction", {"label": 4.0}, None),
    field("that is null", {"label": None}, None),
    field("that is a list", {"label": [4]}, None),
    field("that is too large", {"label": 1 << 64}, None),
    field("that is not there", {"other": 4}, None),
    field("of a list", [4], None),
    field("of a member that is broken", b'{"label": 4', None),
    field("that stands twice", b'{"label": 4, "label": 5}', 5),
    field("of a member nested a hundred thousand times", b"[" * 100_000, None),
    field("of a member that is not there", {"label": 4}, None, "txt:label"),
    named("called ..", ["..", "b"], b"0"),
    named("called .", [".", "b"], b"0"),
    named("called a/b", ["a/b", "a"], b"0"),
    named("without a name", ["", "b"], b"0"),
    named("that Windows reserves", ["CON", "b"], b"0"),
    named("that is absolute", ["/etc", "b"], b"0"),
    named("called as a file is", ["x.png", "b"], b"0"),
    named("with a long name", ["ü" * 400, "b"], b"0"),
    named("with a line break", ["a\nb", "b"], b"0"),
    named("of minus one, which is none", ["a", "b"], b"-1"),
    named("without a place among the names", ["a", "b"], b"2", word="2"),
    named("far below the names", ["a", "b"], b"-7", word="-7"),
    named("called as a number", ["1", "0"], b"0"),
    named("in both cases", ["A", "a"], b"0"),
)
