"""Any tar: random ones against what they were made from and against `tarfile`, whole, cut and damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.media.records import Rejected, Sample
from tests.streams.damaged import shard, told
from tests.streams.squeezed import WAYS, Squeeze


@dataclass(frozen=True)
class Made:
    """A tar and the truth about it."""

    content: bytes = field(repr=False)
    samples: dict[str, dict[str, bytes]]
    known: dict[str, int]
    """How many bytes show that a sample is complete."""


Contents = list[dict[str, bytes]]
EXTENSIONS = ["cls", "json", "seg.png", "txt"]
BYTES = st.binary(max_size=40) | st.integers(0, 3000).map(bytes)
ANY_NAME = st.text(
    st.characters(codec="utf-8", exclude_characters="./\\\x7f", exclude_categories=["Cc"])
    | st.sampled_from(["/", *map(chr, range(0xDC80, 0xDD00))])
) | st.sampled_from(["d/" * 400, "k" * 300, "é" * 70])


@st.composite
def tars(draw: st.DrawFn, names: st.SearchStrategy[str], extensions: list[str]) -> Made:
    buffer, samples, known = io.BytesIO(), dict[str, dict[str, bytes]](), dict[str, int]()
    form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
    before = None
    with tarfile.open(fileobj=buffer, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        for i in range(draw(st.integers(0, 5))):
            raw = f"{i}-{draw(names)}z"
            key = raw.encode(errors="surrogateescape").decode(errors="surrogateescape")
            samples[key] = {
                e: draw(BYTES) for e in ["png", *draw(st.lists(st.sampled_from(extensions), unique=True, max_size=3))]
            }
            for j, (extension, content) in enumerate(samples[key].items()):
                info = tarfile.TarInfo(f"{raw}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
                if j == 0 and before is not None:
                    known[before] = buffer.tell() - len(content) - -len(content) % 512
            before = key
        end = buffer.tell()
    if before is not None:
        known[before] = end + 512
    return Made(buffer.getvalue(), samples, known)


def header(kind: bytes, size: int, name: str = "a.png") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


PIECES = [header(bytes([kind]), size) for kind in b"0\x001257xXgLKSDVz" for size in (0, 5, 512, 1 << 40)]
PIECES += [b"13 path=b.png\n".ljust(512, b"\0"), b"16 hdrcharset=B\n", b"12 size=1024\n".ljust(512, b"\0")]
PIECES += [header(b"0", 0, "b.png")[:508] + b"abcd", header(b"0", 0, "/x.png"), gzip.compress(header(b"0", 0))]
ANY = tars(ANY_NAME, [*EXTENSIONS, "x" * 120])
SHORT = tars(st.text("abc", max_size=3), EXTENSIONS)
"""Without extended headers, whose content has no checksum."""


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "t.tar"


def read(path: Path, content: bytes) -> list[Sample | Rejected]:
    """What comes out. The hash that is taken on the way is that of the whole file, wherever reading stopped."""
    tar = shard(path, content)
    items = list(tar.read())
    assert tar.content_hash() == hashlib.sha256(content).hexdigest()
    return items


def good(items: list[Sample | Rejected]) -> dict[str, dict[str, bytes]]:
    return {s.key: {s.image_ext: s.image, **s.members} for s in items if isinstance(s, Sample)}


@given(made=ANY, squeeze=st.sampled_from([bytes, *WAYS.values()]))
def test_a_whole_tar_gives_what_it_was_made_from(path: Path, made: Made, squeeze: Squeeze) -> None:
    items = read(path, squeeze(made.content))
    assert good(items) == made.samples
    assert told(items) == list(made.samples)
    with tarfile.open(fileobj=io.BytesIO(made.content), encoding="utf-8", errors="surrogateescape") as tar:
        names = [info.name for info in tar]
    assert names == [f"{key}.{extension}" for key, members in made.samples.items() for extension in members]


@given(
    parts=st.lists(SHORT.filter(lambda made: bool(made.samples)), min_size=1, max_size=4),
    squeeze=st.sampled_from([bytes, *WAYS.values()]),
    data=st.data(),
)
def test_archives_behind_each_other_are_read_on(
    path: Path, parts: list[Made], squeeze: Squeeze, data: st.DataObject
) -> None:
    """Compressed together or apart, but for empty ones; a key that was there before is refused."""
    each = [part.content for part in parts]
    content = b"".join(map(squeeze, each)) if data.draw(st.booleans()) else squeeze(b"".join(each))
    seen, expected = set[str](), list[str]()
    for part in parts:
        expected += [f"{key}!" if key in seen else key for key in part.samples]
        seen |= set(part.samples)
    assert told(read(path, content)) == expected


@given(made=ANY, data=st.data())
def test_a_cut_tar_gives_all_that_was_complete_and_tells_the_rest(path: Path, made: Made, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, max(made.known.values(), default=512) - 1))
    items = read(path, made.content[:cut])
    complete = [key for key in made.samples if made.known[key] <= cut]
    assert good(items) == {key: made.samples[key] for key in complete}
    last = told(items)[len(complete) :]
    assert last[-1] == "#"
    assert len(last) <= 2
    assert all(item.kind == "undecodable" for item in items[len(complete) : -1] if isinstance(item, Rejected))


@given(made=SHORT, data=st.data())
def test_damage_costs_nothing_before_it_and_no_sample_vanishes_untold(
    path: Path, made: Made, data: st.DataObject
) -> None:
    """Noise over some bytes; in place of them, too many or too few. It changes the sum of each header that it meets."""
    content = made.content
    start = data.draw(st.integers(0, len(content)))
    noise = bytes(b | 128 for b in data.draw(st.binary(max_size=1500)))
    gone = data.draw(st.sampled_from([len(noise), len(noise), 0, 1, 700]))
    items = read(path, content[:start] + noise + content[start + gone :])
    before = {key: made.samples[key] for key in list(made.samples)[:-1] if made.known[key] <= start}
    if start == len(content):  # within its padding, the damage may as well be a member that was wiped
        before = made.samples
    found = good(items)
    assert {key: found.get(key) for key in before} == before
    if gone == len(noise):
        assert set(made.samples) <= {item.key for item in items} or "#" in told(items)
        assert all(members.keys() == made.samples[key].keys() for key, members in found.items())


@given(st.binary(max_size=3000) | st.lists(st.sampled_from([*PIECES, b"x", bytes(512)])).map(b"".join))
def test_anything_is_read_to_its_end_without_a_crash(path: Path, content: bytes) -> None:
    for item in read(path, content):
        assert isinstance(item, Sample) or item.reason
