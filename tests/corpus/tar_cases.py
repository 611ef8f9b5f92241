"""Tars that are sound, however they were made: formats, headers, ends and packing."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile

import pyarrow as pa

from tests.corpus.case import Bad, Case, Good, members_of, picture, sound
from tests.corpus.tars import END, entry, header, named, one, packed, pax, raw

THREE = [member for number in range(3) for member in members_of(number)]
ALL = (sound(0), sound(1), sound(2))
WHOLE = raw(THREE)
IMAGE, FIRST, LAST = picture(1), ALL[0], ALL[2]
MANY = {f"x{i}": b"%d" % i for i in range(60)}
SPARSE = pax({"GNU.sparse.major": b"1", "GNU.sparse.minor": b"0", "GNU.sparse.name": b"odd.txt"})
EACH = [packed(members_of(number)) for number in range(3)]
LONG = "d" * 90 + "/" + "k" * 90


def around(middle: bytes) -> bytes:
    """A tar with two sound samples and something between them."""
    return raw(members_of(0), end=b"") + middle + raw(members_of(2))


def between(name: str, middle: bytes, key: str, members: dict[str, bytes] | None = None) -> Case:
    """A sample between two others that is sound, too."""
    return Case(f"tar {name}", one(around(middle)), (FIRST, Good(key, IMAGE, members or {}), LAST))


def not_regular(name: str, member: bytes) -> Case:
    """A sample with a member that is no plain file."""
    bad = Bad("odd", "undecodable", "not a regular file")
    return Case(f"tar member {name}", one(around(entry(b"odd.png", IMAGE) + member)), (FIRST, LAST), (bad,))


def signed_sum(name: bytes) -> bytes:
    """The checksum as some old programs compute it, with signed bytes."""
    plain = bytearray(header(name, len(IMAGE)))
    plain[148:156] = b" " * 8
    return b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in plain)


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


CASES = (
    Case("tar plain", one(WHOLE), ALL),
    Case("tar with nothing in it", one(END)),
    Case("tar of zeros only", one(bytes(10240))),
    Case("tar padded to a record", one(WHOLE + bytes(-len(WHOLE) % 10240)), ALL),
    Case("tar with one zero block at its end", one(WHOLE[:-512]), ALL),
    Case("tar with 9 KiB of zeros at its end", one(WHOLE + bytes(9216)), ALL),
    Case("tar in pax", one(packed(THREE)), ALL),
    Case("tar in GNU format", one(packed(THREE, tarfile.GNU_FORMAT)), ALL),
    Case("tar in ustar", one(packed(THREE, tarfile.USTAR_FORMAT)), ALL),
    Case("tar of version 7", one(raw(THREE, magic=b"\0" * 8)), ALL),
    Case("tar with the magic of old GNU", one(raw(THREE, magic=b"ustar  \0")), ALL),
    Case("tar with old regular files", one(raw(THREE, kind=b"\0")), ALL),
    Case("tar with contiguous files", one(raw(THREE, kind=b"7")), ALL),
    between(
        "size in base 256",
        entry(b"m.png", IMAGE, stated=b"\x80" + len(IMAGE).to_bytes(11, "big")),
        "m",
    ),
    between("size that ends in a blank", entry(b"m.png", IMAGE, stated=b"%11o " % len(IMAGE)), "m"),
    between("checksum of signed bytes", entry("ä.png".encode(), IMAGE, sum=signed_sum("ä.png".encode())), "ä"),
    between("prefix of ustar", entry(b"m.png", IMAGE, prefix=b"far/away"), "far/away/m"),
    between("long name of GNU", entry(b"././@LongLink", f"{LONG}.png\0".encode(), b"L") + entry(b"x", IMAGE), LONG),
    between("long name in pax", pax({"path": f"{LONG}.png".encode()}) + entry(b"x.png", IMAGE), LONG),
    between("size in pax", pax({"size": b"%d" % len(IMAGE)}) + entry(b"m.png", IMAGE), "m"),
    between("times and owners in pax", pax({"mtime": b"1.5", "uname": b"j\xc3\xbc"}) + entry(b"m.png", IMAGE), "m"),
    between("unknown records in pax", pax({"SCHILY.xattr.user.x": b"\0\xff", "a": b""}) + entry(b"m.png", IMAGE), "m"),
    between("two names for one member", pax({"path": b"no.png"}) + pax({"path": b"m.png"}) + entry(b"x", IMAGE), "m"),
    Case("tar with a global header, as git makes it", one(pax({"comment": b"0" * 40}, b"g") + WHOLE), ALL),
    Case("tar with folders", one(entry(b"d/", b"", b"5") + raw(members_of(0, "d/s0"))), (sound(0, "d/s0"),)),
    Case("tar of a folder called .", one(entry(b"./", b"", b"5") + raw(members_of(0, "./s0"))), (sound(0, "./s0"),)),
    between("in a tar", entry(b"m.png", IMAGE) + entry(b"m.tar", WHOLE), "m", {"tar": WHOLE}),
    between("empty member", entry(b"m.png", IMAGE) + entry(b"m.txt", b""), "m", {"txt": b""}),
    between("many members", raw([("m.png", IMAGE), *((f"m.{x}", MANY[x]) for x in MANY)], end=b""), "m", MANY),
    not_regular("hard link", entry(b"odd.txt", b"", b"1", link=b"s0.txt")),
    not_regular("symbolic link", entry(b"odd.txt", b"", b"2", link=b"/etc/passwd")),
    not_regular("link out of the tar", entry(b"odd.txt", b"", b"2", link=b"../../x")),
    not_regular("character device", entry(b"odd.txt", b"", b"3")),
    not_regular("block device", entry(b"odd.txt", b"", b"4")),
    not_regular("pipe", entry(b"odd.txt", b"", b"6")),
    not_regular("unknown type", entry(b"odd.txt", b"x", b"Z")),
    not_regular("sparse in GNU format", entry(b"odd.txt", b"x" * 512, b"S")),
    not_regular("sparse in pax", SPARSE + entry(b"GNUSparseFile.0/odd.txt", b"0\n".ljust(512, b"\0"))),
    Case("tar packed by gzip", one(gzip.compress(WHOLE)), ALL),
    Case("tar packed by bzip2", one(bz2.compress(WHOLE)), ALL),
    Case("tar packed by xz", one(lzma.compress(WHOLE)), ALL),
    Case("tar packed by zstd", one(zstd(WHOLE)), ALL),
    Case("tar packed by gzip in two pieces", one(gzip.compress(WHOLE[:2000]) + gzip.compress(WHOLE[2000:])), ALL),
    Case("tar packed by bzip2 in two pieces", one(bz2.compress(WHOLE[:2000]) + bz2.compress(WHOLE[2000:])), ALL),
    Case("tar packed by xz in two pieces", one(lzma.compress(WHOLE[:2000]) + lzma.compress(WHOLE[2000:])), ALL),
    Case("tar packed by zstd in two pieces", one(zstd(WHOLE[:2000]) + zstd(WHOLE[2000:])), ALL),
    Case("tar packed by gzip, with zeros behind", one(gzip.compress(WHOLE) + bytes(5000)), ALL),
    Case("tar called .tar.gz that is not packed", named({"t.tar.gz": WHOLE}), ALL),
    Case("tar called .tgz packed by xz", named({"t.tgz": lzma.compress(WHOLE)}), ALL),
    Case("tar behind a tar", one(packed(THREE[:3]) + packed(THREE[3:])), ALL),
    Case("tar behind an empty tar", one(packed([]) + WHOLE), ALL),
    Case("tar behind two others, each packed", one(b"".join(map(gzip.compress, EACH))), ALL),
    Case("tar behind itself", one(packed(THREE[:3]) * 2), (FIRST,), (Bad("s0", "refused", "duplicate"),)),
)
