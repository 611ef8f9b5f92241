"""Keys: whatever text names a sample, it names no place but its own."""

from __future__ import annotations

import unicodedata

from tests.corpus.case import Bad, Case, Good, members_of, picture, sound
from tests.corpus.tars import entry, one, packed, pax, raw

FIRST, LAST, IMAGE = sound(0), sound(2), picture(1)
FOLDERS = "d/" * 40
BESIDE = ("webdataset", "parquet")


def key(name: str, text: str) -> Case:
    """A key that is kept as it is, with and without a label, which in a folder makes another path."""
    odd = [(f"{text}.png", IMAGE), *members_of(3, f"{text}!")]
    good = (FIRST, Good(text, IMAGE), sound(3, f"{text}!"), LAST)
    return Case(f"key {name}", one(packed([*members_of(0), *odd, *members_of(2)])), good)


def unsafe(name: str, member: str, key: str, word: str = "unsafe member name") -> Case:
    """The name of a member that could lead somewhere."""
    middle = pax({"path": member.encode(errors="surrogateescape")}) + entry(b"x", IMAGE)
    content = raw(members_of(0), end=b"") + middle + raw(members_of(2))
    return Case(f"key {name}", one(content), (FIRST, LAST), (Bad(key, "undecodable", word, {"png": IMAGE}),))


CASES = (
    key("of two dots", ".."),
    key("of one dot", "."),
    key("that ends in a dot", "a."),
    key("with dots", "IMG.2020.01.02"),
    key("that looks encoded", "%2E%2e%2F%00%25"),
    key("in folders", "a/b/c"),
    key("in folders called like dots", "./a/./b"),
    key("with empty folders", "a//b"),
    key("in many folders", FOLDERS + "x"),
    key("in Cyrillic and Han", "ключ-图像"),
    key("of an emoji", "👩‍👩‍👧"),
    key("from right to left", "\u202eabc\u200f"),
    key("with a line separator", "a\u2028b\u0085c"),
    key("with nothing to see", "\u200b\ufeff"),
    key("with blanks", "  a b  "),
    key("that Windows reserves", "CON"),
    key("that Windows reserves, with more", "nul.1"),
    key("with glob characters", "*?[a-z]{1,2}"),
    key("with quotes and pipes", "<a>\"b'|`c`"),
    key("that a shell would run", "$(rm -rf x);&"),
    key("like an option", "-rf"),
    key("like a home folder", "~root"),
    key("of 180 bytes", "k" * 180),
    key("of 255 bytes", "k" * 255),
    key("of 300 bytes", "k" * 300),
    key("of 3,000 bytes", "ü" * 1500),
    key("of digits", "0000"),
    key("called as a member", "cls"),
    key("called as a split", "train/x"),
    key("in decomposed Unicode", unicodedata.normalize("NFD", "Übergröße")),
    Case(
        "key twice, in both forms of Unicode",
        one(
            packed(
                [*members_of(0, unicodedata.normalize("NFC", "ü")), *members_of(1, unicodedata.normalize("NFD", "ü"))]
            )
        ),
        (sound(0, unicodedata.normalize("NFC", "ü")), sound(1, unicodedata.normalize("NFD", "ü"))),
    ),
    Case(
        "key twice, in both cases",
        one(raw([*members_of(0, "Key"), *members_of(1, "key")])),
        (sound(0, "Key"), sound(1, "key")),
    ),
    Case(
        "key with the class before it",
        one(raw([*members_of(0, "1/x"), *members_of(1, "x")])),
        (sound(0, "1/x"), sound(1, "x")),
        unwritable={"folder": {"x": "taken"}},
    ),
    Case(
        "key that is a folder of another",
        one(raw([("a.png", picture(0)), ("a/b.png", picture(1))])),
        (Good("a", picture(0)), Good("a/b", picture(1))),
    ),
    Case(
        "key whose folder is the file of another",
        one(raw([("a.png", picture(0)), ("a.png/b.png", picture(1))])),
        (Good("a", picture(0)), Good("a.png/b", picture(1))),
        outputs=BESIDE,
    ),
    Case(
        "key that looks like the encoded form of another",
        one(raw([*members_of(0, "a/b"), *members_of(1, "a%2Fb")])),
        (sound(0, "a/b"), sound(1, "a%2Fb")),
    ),
    Case(
        "key of 3,000 folders",
        one(packed([*members_of(0), ("d/" * 3000 + "x.png", IMAGE)])),
        (FIRST, Good("d/" * 3000 + "x", IMAGE)),
        unwritable={"folder": {"d/" * 3000 + "x": ""}, "webdataset": {"d/" * 3000 + "x": "bytes"}},
    ),
    Case(
        "key that is no UTF-8",
        one(raw([*members_of(0), ("\udcff\udcfe.png", IMAGE), *members_of(2)])),
        (FIRST, Good("\udcff\udcfe", IMAGE), LAST),
        unwritable={"parquet": {"\udcff\udcfe": ""}},
    ),
    Case(
        "key called metadata",
        one(raw([("metadata.png", IMAGE), ("metadata.csv", b"a,b"), *members_of(2)])),
        (Good("metadata", IMAGE, {"csv": b"a,b"}), LAST),
        unwritable={"folder": {"metadata": "metadata"}},
    ),
    Case(
        "key that comes again",
        one(raw([("s0.png", IMAGE), *members_of(2), ("s0.txt", b"late")])),
        error=("do not lie together", "input.unsorted"),
    ),
    unsafe("that is empty", ".png", "", "no key"),
    unsafe("that is hidden", ".hidden.png", "", "no key"),
    unsafe("that is empty in a folder", "a/.png", "a/", "no key"),
    unsafe("that leads out", "../x.png", "../x"),
    unsafe("that leads out behind a folder", "a/../../x.png", "a/../../x"),
    unsafe("that is absolute", "/etc/x.png", "/etc/x"),
    unsafe("with a drive", "C:x.png", "C:x"),
    unsafe("with a backslash", "a\\..\\x.png", "a\\..\\x"),
    unsafe("with a line break", "a\nb.png", "a\nb"),
    unsafe("with NUL", "a\0b.png", "a\0b"),
    unsafe("with an escape sequence", "\x1b[2J.png", "\x1b[2J"),
    unsafe("with DEL", "a\x7f.png", "a\x7f"),
)
