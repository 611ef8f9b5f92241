"""Tars that are damaged: what is sound is written, what may be torn is kept, and the place is counted."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random

from tests.corpus.case import Bad, Case, Good
from tests.corpus.tar_cases import ALL, FIRST, IMAGE, LAST, THREE, WHOLE, around, zstd
from tests.corpus.tars import END, entry, header, one, pax, raw

PACKED = gzip.compress(WHOLE)
NOISE = random.Random(0).randbytes(3000)
STARTS = [len(raw(THREE[:number], end=b"")) for number in range(len(THREE) + 1)]
"""Where each member begins, and where the last one ends."""


def torn(*keys: str) -> tuple[Bad, ...]:
    """Samples next to damage, of which nobody knows whether they are whole."""
    return tuple(Bad(key, "undecodable", "damaged") for key in keys)


def cut(name: str, at: int, good: int, last: str) -> Case:
    """A tar that breaks off; the first samples are sound, and one is torn."""
    return Case(f"damage: cut {name}", one(WHOLE[:at]), ALL[:good], torn(last) if last else (), damaged=1)


def flipped(name: str, member: int, at: int, value: bytes, good: tuple[Good, ...], *keys: str) -> Case:
    """A tar with some bytes of a header replaced."""
    at += STARTS[member]
    return Case(f"damage: {name}", one(WHOLE[:at] + value + WHOLE[at + len(value) :]), good, torn(*keys), damaged=1)


def behind(name: str, rest: bytes) -> Case:
    """Something that is no tar behind a tar that is sound."""
    return Case(f"damage: {name} behind the end", one(WHOLE + rest), ALL, damaged=1)


CASES = (
    Case("damage: no byte", one(b""), damaged=1),
    Case("damage: one byte", one(b"x"), damaged=1),
    Case("damage: text", one(b"nothing here is a tar\n" * 99), damaged=1),
    Case("damage: noise", one(NOISE), damaged=1),
    Case("damage: an image", one(IMAGE), damaged=1),
    Case("damage: a web page", one(b"<!DOCTYPE html><html>404 Not Found</html>"), damaged=1),
    Case("damage: a pointer of Git LFS", one(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), damaged=1),
    cut("in the first header", 300, 0, ""),
    cut("in the first content", 600, 0, "s0"),
    cut("behind a content", STARTS[1], 0, "s0"),
    cut("between samples", STARTS[6], 1, "s1"),
    cut("in the header of a sample", STARTS[6] + 200, 1, "s1"),
    cut("behind the header of a sample", STARTS[6] + 512, 2, "s2"),
    cut("in the content of the last sample", STARTS[6] + 700, 2, "s2"),
    cut("in padding", STARTS[7] - 1, 2, "s2"),
    cut("between members of the last sample", STARTS[7], 2, "s2"),
    cut("before the end marker", STARTS[9], 2, "s2"),
    cut("in the end marker", STARTS[9] + 100, 2, "s2"),
    Case("damage: first header", one(b"\xff" * 512 + WHOLE[512:]), damaged=1),
    flipped("checksum in the middle", 3, 148, b"777777", (LAST,), "s0", "s1"),
    flipped("one bit of a name", 3, 1, b"2", (LAST,), "s0", "s1"),
    flipped("checksum wiped", 3, 148, bytes(8), (LAST,), "s0", "s1"),
    flipped("size that is no number", 3, 124, b"garbage", (), "s0"),
    flipped("size below zero", 3, 124, b"\xff" * 12, (), "s0"),
    flipped("header of noise", 3, 0, NOISE[:512], (), "s0"),
    flipped("checksum of the last member", 8, 148, b"777777", (FIRST, ALL[1]), "s2"),
    Case(
        "damage: size of a terabyte",
        one(around(header(b"m.png", 0, stated=b"\x80" + (1 << 40).to_bytes(11, "big")))),
        (FIRST,),
        (Bad("m", "undecodable", "bytes"),),
        damaged=1,
    ),
    Case(
        "damage: size beyond the end",
        one(around(header(b"m.png", 1 << 20))),
        (FIRST,),
        (Bad("m", "undecodable", ""),),
        damaged=1,
    ),
    Case(
        "damage: pax header without its form",
        one(around(entry(b"x", b"no record", b"x") + entry(b"m.png", IMAGE))),
        (),
        torn("s0", "s2"),
        damaged=1,
    ),
    Case(
        "damage: pax header over its bound",
        one(around(pax({"comment": b"x" * 9000}) + entry(b"m.png", IMAGE)), bounds={"header_bytes": 4096}),
        (),
        torn("s0", "s2"),
        damaged=1,
    ),
    Case("damage: blocks of zeros in between", one(around(bytes(512))), (), torn("s0"), damaged=1),
    Case(
        "damage: an archive ends within a record, and another follows",
        one(raw(THREE[:3]) + raw(THREE[3:])),
        (LAST,),
        torn("s0", "s1"),
        damaged=1,
    ),
    Case("damage: a megabyte of zeros at the end", one(WHOLE + bytes(1 << 20)), ALL[:2], torn("s2"), damaged=1),
    Case(
        "damage: a pax header and nothing behind it",
        one(WHOLE[:-1024] + pax({"path": b"x.png"}) + END),
        ALL[:2],
        torn("s2"),
        damaged=1,
    ),
    behind("noise", NOISE),
    behind("a few bytes", b"signature"),
    behind("an image", IMAGE),
    Case("damage: gzip cut in its checksum", one(PACKED[:-3]), ALL, damaged=1),
    Case("damage: gzip with another checksum", one(PACKED[:-8] + b"abcd" + PACKED[-4:]), ALL, damaged=1),
    Case("damage: gzip with noise behind", one(PACKED + NOISE), ALL, damaged=1),
    Case("damage: gzip of noise", one(gzip.compress(NOISE)), damaged=1),
    Case("damage: gzip header alone", one(PACKED[:10]), damaged=1),
    Case("damage: bzip2 cut in its header", one(bz2.compress(WHOLE)[:12]), damaged=1),
    Case("damage: xz cut in its footer", one(lzma.compress(WHOLE)[:-6]), ALL, damaged=1),
    Case("damage: zstd cut in its header", one(zstd(WHOLE)[:9]), damaged=1),
    Case("damage: gzip in gzip", one(gzip.compress(PACKED)), damaged=1),
    Case("damage: a zip archive", one(b"PK\x03\x04" + bytes(600)), damaged=1),
    Case(
        "damage: bound on a member",
        one(around(entry(b"m.png", IMAGE) + entry(b"m.bin", bytes(5000))), bounds={"member_bytes": 4000}),
        (FIRST, LAST),
        (Bad("m", "undecodable", "member_bytes"),),
    ),
    Case(
        "damage: bound on a sample",
        one(
            around(raw([("m.png", IMAGE), ("m.b", bytes(900)), ("m.c", bytes(900))], end=b"")),
            bounds={"sample_bytes": 1500},
        ),
        (FIRST, LAST),
        (Bad("m", "undecodable", "sample_bytes"),),
    ),
    Case(
        "damage: bound on members",
        one(
            around(raw([("m.png", IMAGE), *((f"m.x{i}", b"") for i in range(9))], end=b"")),
            bounds={"sample_members": 8},
        ),
        (FIRST, LAST),
        (Bad("m", "undecodable", "members"),),
    ),
)
