"""Members beside the image: they come out byte for byte, or the sample is refused."""

from __future__ import annotations

from tests.corpus.case import Bad, Case, Good, members_of, picture, sound
from tests.corpus.tars import one, packed, raw

FIRST, LAST, IMAGE = sound(0), sound(2), picture(1)


def beside(name: str, extension: str, content: bytes, **unwritable: str) -> Case:
    """A member beside the image, byte for byte."""
    refused = {format: {"s1": word} for format, word in unwritable.items()}
    members = [*members_of(0), ("s1.png", IMAGE), (f"s1.{extension}", content)]
    good = (FIRST, Good("s1", IMAGE, {extension: content}))
    return Case(f"member {name}", one(packed(members)), good, unwritable=refused)


CASES = (
    beside("mask", "seg.png", picture(4), folder="image"),
    beside("archive", "zip", b"PK\x05\x06" + bytes(18), folder="image"),
    beside("that is another image", "depth.tiff", b"II*\0", folder="image"),
    beside("of JSON", "json", b'{"a":  [1, 2.50],\n "\\u00fc": null}'),
    beside("of broken JSON", "json", b'{"a": '),
    beside("of JSON that is no UTF-8", "json", b'{"a": "\xff"}'),
    beside("of text with every line end", "txt", b"a\r\nb\rc\n\n"),
    beside("of text with a byte order mark", "txt", b"\xef\xbb\xbftext"),
    beside("of text with NUL", "txt", b"a\0b"),
    beside("of UTF-16", "txt", "text".encode("utf-16")),
    beside("with a long name", "x" * 150, b"1"),
    beside("with a name in Han", "图", b"1"),
    beside("of pickle", "pkl", b"cos\nsystem\n(S'touch /tmp/owned'\ntR."),
    beside("of a program", "exe", b"MZ\0"),
    beside("with many dots", "a.b.c.d", b"1"),
    beside("of NumPy", "npy", b"\x93NUMPY\1\0"),
    beside("of a checkpoint", "pth", bytes(40)),
    Case(
        "member that an earlier job wrote",
        one(raw([("s1.png", IMAGE), ("s1.doppel.json", b'{"version": 1}')])),
        (Good("s1", IMAGE),),
    ),
    Case(
        "member that no job wrote under our name",
        one(raw([("s1.png", IMAGE), ("s1.doppel.json", b"\xff{")])),
        (Good("s1", IMAGE),),
    ),
    Case(
        "member twice",
        one(raw([*members_of(0), ("s0.txt", b"again"), *members_of(2)])),
        (FIRST, LAST),
        (Bad("s0", "refused", "duplicate", {"txt": b"again"}),),
    ),
    Case(
        "member before the image", one(raw([("s0.txt", b"text 0"), ("s0.cls", b"1"), ("s0.png", picture(0))])), (FIRST,)
    ),
    Case(
        "members of two samples in turn",
        one(raw([("a.png", IMAGE), ("b.png", IMAGE), ("a.txt", b"x")])),
        error=("do not lie together", "input.unsorted"),
    ),
    Case(
        "member without extension",
        one(raw([*members_of(0), ("README", b"text")])),
        (FIRST,),
        (Bad("README", "undecodable", "no extension", {"": b"text"}),),
    ),
    Case(
        "members without an image",
        one(raw([*members_of(0), ("s1.txt", b"text")])),
        (FIRST,),
        (Bad("s1", "undecodable", "no image", {"txt": b"text"}),),
    ),
    Case(
        "members with two images",
        one(raw([("s1.png", IMAGE), ("s1.jpg", IMAGE)])),
        (),
        (Bad("s1", "undecodable", "more than one", {"png": IMAGE, "jpg": IMAGE}),),
    ),
    Case(
        "members with two images, one of them named",
        one(raw([("s1.png", IMAGE), ("s1.jpg", picture(4))]), image="png"),
        (Good("s1", IMAGE, {"jpg": picture(4)}),),
        unwritable={"folder": {"s1": "image"}},
        read_as={"image": "png"},
    ),
    Case(
        "member that is named, but missing",
        one(raw(members_of(0)), image="webp"),
        (),
        (Bad("s0", "undecodable", "no image member"),),
    ),
    Case(
        "member .PNG in capitals",
        one(raw([("s1.PNG", IMAGE), ("s1.TXT", b"x")])),
        (Good("s1", IMAGE, {"TXT": b"x"}, extension="PNG"),),
    ),
    Case(
        "member that is a clip, without a section for clips",
        one(raw([("s1.mp4", b"\0\0\0\x18ftypmp42")])),
        (),
        (Bad("s1", "undecodable", ""),),
    ),
    Case(
        "members split at the first dot",
        one(raw([("a.1.png", IMAGE), ("a.1.txt", b"x")]), split="first", image="1.png"),
        (Good("a", IMAGE, {"1.txt": b"x"}, extension="1.png"),),
        read_as={"split": "first", "image": "1.png"},
    ),
    Case(
        "members split at the last dot",
        one(raw([("a.b.png", IMAGE), ("a.b.txt", b"x")]), split="last"),
        (Good("a.b", IMAGE, {"txt": b"x"}),),
    ),
)
