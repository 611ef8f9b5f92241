"""Labels: a whole number is one, a declared name is one, several pass through, and all else fails the job."""

from __future__ import annotations

import json
from typing import Any

from tests.corpus.case import Bad, Case, Good, members_of, picture, sound
from tests.corpus.tars import one, packed

IMAGE = picture(1)
UNREAD, NONE = "cannot be read", "none of the first"


def label(name: str, content: bytes, number: int | str | None, member: str = "cls") -> Case:
    """The member `cls` of a sample, which stays as it is, and the class that it means; or a word of the refusal."""
    lay = one(packed([*members_of(0), ("x.png", IMAGE), (f"x.{member}", content)]))
    if isinstance(number, str):
        return Case(f"label {name}", lay, error=(number,))
    return Case(f"label {name}", lay, (sound(0), Good("x", IMAGE, {member: content}, number)))


def field(name: str, content: object, number: int | str | None, where: str = "json:label") -> Case:
    """A field of the member `json`."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    lay = one(packed([("x.png", IMAGE), ("x.json", text)]), label=where)
    if isinstance(number, str):
        return Case(f"label in JSON {name}", lay, error=(number,))
    return Case(f"label in JSON {name}", lay, (Good("x", IMAGE, {"json": text}, number),))


def named(
    name: str, names: list[Any], content: bytes, number: int | None = None, *, error: tuple[str, ...] = (),
    word: str = "",
) -> Case:  # fmt: skip
    """A data set that names its classes, and a label that is a number where `number` does not say which it is."""
    lay = one(packed([*members_of(0), ("x.png", IMAGE), ("x.cls", content)]), label_names=names)
    if error:
        return Case(f"class {name}", lay, error=error)
    if word:
        return Case(f"class {name}", lay, (sound(0),), (Bad("x", "refused", word),))
    good = Good("x", IMAGE, {"cls": content}, int(content) if number is None else number)
    return Case(f"class {name}", lay, (sound(0), good))


CASES = (
    label("of zero", b"0", 0),
    label("with blanks around it", b" 3\n", 3),
    label("with a plus", b"+3", 3),
    label("with zeros before it", b"007", 7),
    label("of minus one, which is none", b"-1", -1),
    label("below minus one", b"-5", -5),
    label("that is large", b"9223372036854775807", (1 << 63) - 1),
    label("that is too large", b"9223372036854775808", UNREAD),
    label("of a thousand digits", b"9" * 1000, UNREAD),
    label("of more digits than Python reads", b"9" * 9000, UNREAD),
    label("that is text", b"cat", "say input.label_names: [cat]"),
    label("that is empty", b"", UNREAD),
    label("that is broken", b"1.5", UNREAD),
    label("that is whole, but written as a fraction", b"1.0", 1),
    label("that is a number in a JSON text", b'"2"', 2),
    label("in capitals", b"2", 2, "CLS"),
    label("with an exponent", b"1e3", UNREAD),
    label("that is true", b"True", UNREAD),
    label("in hexadecimal", b"0x10", UNREAD),
    label("of several numbers", b"1,2", None),
    label("of several weights", b"0.25 0.75", None),
    label("of a list", b"[1, 2]", None),
    label("in other digits", "٣".encode(), UNREAD),
    label("that is no UTF-8", b"\xff", UNREAD),
    label("with NUL", b"1\0", UNREAD),
    field("of a number", {"label": 4}, 4),
    field("of text", {"label": "4"}, 4),
    field("that is true", {"label": True}, UNREAD),
    field("that is a fraction", {"label": 4.0}, 4),
    field("that is null", {"label": None}, NONE),
    field("that is a list", {"label": [4]}, None),
    field("that is too large", {"label": 1 << 64}, UNREAD),
    field("that is not there", {"other": 4}, "json:other"),
    field("of a list", [4], NONE),
    field("of a member that is broken", b'{"label": 4', UNREAD),
    field("that stands twice", b'{"label": 4, "label": 5}', 5),
    field("of a member nested a hundred thousand times", b"[" * 100_000, UNREAD),
    field("of a member that is not there", {"label": 4}, NONE, "txt:label"),
    named("by its name", ["a", "b"], b"b", 1),
    named("by its name in a line of its own", ["a", "b"], b"a\n", 0),
    named("by a name that is not declared", ["a", "b"], b"c", error=("cannot be read", "'c'")),
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
