"""The codec of clips: MP4 and GIF bytes ↔ uint8 `[F, H, W, 3]` with the duration of each frame. No file is touched."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
from PIL import Image

from pipeline.errors import UserError
from pipeline.media.opening import LARGEST_IMAGE, Undecodable
from pipeline.optional import require_package

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from pipeline.media.records import Pixels8

Container = Literal["mp4", "gif"]
CONTAINERS: tuple[Container, ...] = ("mp4", "gif")
"""The kinds of files that hold clips."""
LARGEST_CLIP = 2 * LARGEST_IMAGE
"""Pixels of all frames together, at most: 0.5 GB decoded; 86 frames of 1080p, 682 of 512 × 512."""
LONGEST_SIDE = 16_384
"""Pixels a side, at most; this is the H.264 encoder's own limit."""
MOST_FRAMES = 1000
"""Frames of a clip, at most, by default."""
MOST_ENTRIES = 1_000_000
"""Entries in the tables of an MP4, edits times samples, at most. A file of 2 kB can claim 50 million: 3.6 GB as an
index."""
LONGEST_FRAME = 3600
"""Seconds that a frame may be shown, at most."""
FINEST_CLOCK = 60_000
"""Ticks a second, at most: 24, 25, 30 and 60 frames a second fit, also those of 1000/1001; MPEG-4 Part 2 ends at
65,535."""
CRF = "16"
"""x264's quality: 18 is said to look like the original, 0 is lossless."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A decoded clip, upright and opaque."""

    frames: Pixels8
    """uint8 RGB `[F, H, W, 3]`, F ≥ 1."""
    seconds: tuple[float, ...]
    """How long each of the F frames is shown, > 0."""
    container: Container
    loop: int | None = None
    """How often a GIF is played again (0: for ever, None: not at all). MP4 has no such field."""


def is_clip(ext: str) -> bool:
    """Whether a member of this extension (`mp4`, `left.GIF`) holds a clip."""
    return ext.rpartition(".")[2].lower() in CONTAINERS


def read_clip(
    data: bytes, ext: str, most_frames: int = MOST_FRAMES, background: tuple[int, int, int] = (255, 255, 255)
) -> Clip:
    """Decodes all frames of the (first) video in the bytes of a member with the extension `ext`, fully composed.

    The rotation in an MP4 is applied, its sound left out, and its pixels taken as square. Transparency in a GIF is laid
    over `background`, and a duration of 0 is read as 0.1 s, as browsers do. Raises `Undecodable` for damaged or
    incomplete bytes, another kind of file than `ext` says, and more than `most_frames` frames or `LARGEST_CLIP` pixels;
    as far as the headers tell, before anything is decoded. Raises `UserError` where MP4 cannot be read here.
    """
    container = ext.rpartition(".")[2].lower()
    if container not in CONTAINERS:
        raise Undecodable(f".{ext} is not a clip; allowed are {', '.join(CONTAINERS)}")
    if not data:
        raise Undecodable("the file is empty")
    try:
        return _read_gif(data, most_frames, background) if container == "gif" else _read_mp4(data, most_frames)
    except (Undecodable, UserError):
        raise
    except Exception as error:  # a damaged file can break a decoder anywhere: the fault is the data's
        reason = str(getattr(error, "strerror", None) or error or type(error).__name__)[:200]
        raise Undecodable(f"damaged, or not a file of kind {container.upper()} ({reason})") from None


def write_clip(clip: Clip) -> bytes:
    """Encodes the clip in its container; the same clip gives the same bytes. No metadata is written.

    An MP4 is H.264 with chroma halved (4:2:0) where both sides are even. An odd side takes 4:4:4, which keeps the size
    exactly but is not played by every browser. Without libx264 it is MPEG-4 Part 2, 4:2:0, of any size. Durations are
    exact up to `FINEST_CLOCK`. A GIF has exact colours where a frame has at most 256, and otherwise the median cut of
    each frame; its durations are rounded to 1/100 s, without drift. Raises `UserError` where MP4 cannot be written
    here.
    """
    return _write_gif(clip) if clip.container == "gif" else _write_mp4(clip)


def _check(width: int, height: int, frames: int, most_frames: int) -> None:
    if max(width, height) > LONGEST_SIDE:
        raise Undecodable(f"the clip is too large ({width} × {height} pixels); {LONGEST_SIDE} a side are allowed")
    if frames > most_frames:
        raise Undecodable(f"the clip is too long ({frames} frames or more); {most_frames} are allowed")
    if width * height > LARGEST_IMAGE or width * height * frames > LARGEST_CLIP:
        found = f"{frames} or more frames of {width} × {height} pixels"
        raise Undecodable(
            f"the clip is too large ({found}); {LARGEST_IMAGE} a frame, {LARGEST_CLIP} in all are allowed"
        )


# MP4


def _read_mp4(data: bytes, most_frames: int) -> Clip:
    require_package("av", "an MP4 clip", extra="video")
    import av

    _check_tables(data)
    # any stream may be the large one, and opening decodes a frame where the header does not tell enough
    limits = {"max_pixels": str(LARGEST_IMAGE), "threads": "1"}
    with av.open(io.BytesIO(data), "r", format="mp4", options=limits, metadata_errors="replace") as file:
        if not file.streams.video or file.streams.video[0].codec_context is None:
            raise Undecodable("the file has no video of a known codec")
        stream = file.streams.video[0]
        _check(stream.width, stream.height, stream.frames, most_frames)
        stream.codec_context.options = limits
        pictures: list[Pixels8] = []
        starts: list[int] = []
        packets = last = 0
        for packet in file.demux(stream):
            if packet.is_corrupt:
                raise Undecodable(f"the video breaks off after {len(pictures)} frames")
            packets += packet.size > 0 and not packet.is_discard
            for frame in packet.decode():
                _check(frame.width, frame.height, len(pictures) + 1, most_frames)
                if frame.is_corrupt:
                    raise Undecodable(f"frame {len(pictures)} of the video is damaged")
                picture = _rgb(frame)
                if pictures and picture.shape != pictures[0].shape:
                    raise Undecodable("the frames of the video differ in size")
                pictures.append(picture)
                starts.append(cast("int", frame.pts))
                last = frame.duration
        if not pictures or len(pictures) < packets:
            raise Undecodable(f"{len(pictures)} of {packets} frames of the video could be decoded")
        return Clip(frames=np.stack(pictures), seconds=_durations(starts, last, stream.time_base), container="mp4")


def _rgb(frame: VideoFrame) -> Pixels8:
    """uint8 `[H, W, 3]`, upright. Where the file names no colour matrix, large pictures use BT.709, as players do."""
    unnamed = frame.colorspace == 2
    matrix = "ITU709" if unnamed and frame.height >= 720 else "ITU601" if unnamed else None
    pixels = cast("Pixels8", frame.to_ndarray(format="rgb24", src_colorspace=matrix, interpolation=_interpolation()))
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))


def _interpolation() -> int:
    from av.video.reformatter import Interpolation as Scale

    return int(Scale.BICUBIC | Scale.ACCURATE_RND | Scale.FULL_CHR_H_INT | Scale.FULL_CHR_H_INP)


def _durations(starts: Sequence[int], last: int, clock: Fraction | None) -> tuple[float, ...]:
    """Seconds of each frame; a last one without a duration (0) lasts as long as the one before, alone 1 s."""
    clock = clock or Fraction(1, FINEST_CLOCK)
    ticks: list[int | Fraction] = [after - before for before, after in pairwise(starts)]
    ticks.append(last or (ticks[-1] if ticks else 1 / clock))
    seconds = tuple(float(tick * clock) for tick in ticks)
    if not 0 < min(seconds) <= max(seconds) <= LONGEST_FRAME:
        raise Undecodable(
            f"frames last from {min(seconds)} to {max(seconds)} s; allowed is more than 0 to {LONGEST_FRAME}"
        )
    return seconds


TABLES = re.compile(rb"stsz|stz2|stts|ctts|trun|elst|cmov")
"""The boxes of an MP4 that hold tables, and the one of a compressed header."""


def _check_tables(data: bytes) -> None:
    """Refuses tables (ISO/IEC 14496-12, 8.6 and 8.7) so long that only indexing them would fill the memory."""
    samples = edits = 0
    for part in _outside_of_mdat(data):
        for match in TABLES.finditer(part):
            name, at = match[0], match.end() + 4  # 4 bytes of version and flags
            count = int.from_bytes(part[at : at + 4], "big")
            if name == b"cmov":
                raise Undecodable("the header is compressed, which MP4 does not know")
            if name in (b"stts", b"ctts"):  # runs of `count` samples each
                at, end = at + 4, min(at + 4 + 8 * count, len(part))
                samples += int(np.frombuffer(part[at : at + (end - at) // 8 * 8], ">u4")[::2].sum(dtype=np.int64))
            elif name == b"elst":
                edits += count
            else:
                samples += count if name == b"trun" else int.from_bytes(part[at + 4 : at + 8], "big")
    if samples * max(1, edits) > MOST_ENTRIES:
        found = f"{samples} samples, {edits} edits"
        raise Undecodable(f"the tables of the video are too long ({found}); {MOST_ENTRIES} entries are allowed")


def _outside_of_mdat(data: bytes) -> list[bytes]:
    """The boxes of a file but for the coded frames, in which a table's name may stand by chance."""
    parts, at = [], 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16], "big")
        end = at + size if size else len(data)
        if end < at + 8:
            raise Undecodable(f"damaged MP4 (a box of {size} bytes)")
        if data[at + 4 : at + 8] != b"mdat":
            parts.append(data[at:end])
        at = end
    return parts


def _write_mp4(clip: Clip) -> bytes:
    require_package("av", "an MP4 clip", extra="video")
    import av

    height, width = clip.frames.shape[1:3]
    exact = [Fraction(second).limit_denominator(FINEST_CLOCK) for second in clip.seconds]
    clock = math.lcm(*(second.denominator for second in exact))
    clock = clock if clock <= FINEST_CLOCK else FINEST_CLOCK
    ticks = _ticks(clip.seconds, clock)
    # one thread and no metadata of the muxer: neither the cores nor the version of a machine show in the bytes.
    # Without B-frames the order of coding is that of showing, and each packet can say how long its frame is shown.
    options, layout = {"qmin": "2", "qmax": "2", "bf": "0", "threads": "1"}, "yuv420p"
    if "libx264" in av.codecs_available:
        options = {"crf": CRF, "preset": "medium", "bf": "0", "threads": "1"}
        layout = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        codec = "libx264"
    else:
        codec = "mpeg4"
    rate = Fraction(len(ticks) * clock, sum(ticks)).limit_denominator(FINEST_CLOCK)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        stream = cast("av.VideoStream", file.add_stream(codec, rate=rate, options=options))
        stream.width, stream.height, stream.pix_fmt = width, height, layout
        context = stream.codec_context
        context.time_base = stream.time_base = Fraction(1, clock)
        context.colorspace = context.color_primaries = context.color_trc = context.color_range = 1  # BT.709, 16 to 235
        packets = []
        for pixels, start in zip(clip.frames, accumulate(ticks[:-1], initial=0), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                format=layout, dst_colorspace="ITU709", dst_color_range="MPEG", interpolation=_interpolation()
            )
            frame.pts, frame.time_base = start, Fraction(1, clock)
            packets += stream.encode(frame)
        for packet, duration in zip(packets + stream.encode(None), ticks, strict=True):
            packet.duration = duration  # the encoder knows only the mean
            file.mux(packet)
    return buffer.getvalue()


def _ticks(seconds: Sequence[float], clock: int) -> list[int]:
    """Durations in ticks, at least 1: the ends are rounded, not the durations, so that nothing adds up."""
    ends = [0, *(round(end * clock) for end in accumulate(seconds))]
    return [max(1, after - before) for before, after in pairwise(ends)]


# GIF89a (W3C, "Graphics Interchange Format, version 89a")


def _read_gif(data: bytes, most_frames: int, background: tuple[int, int, int]) -> Clip:
    size = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    count = _gif_frames(data, size, most_frames)
    frames = np.empty((count, size[1], size[0], 3), np.uint8)
    seconds = []
    with Image.open(io.BytesIO(data), formats=("GIF",)) as image:
        for index in range(count):
            image.seek(index)
            over = Image.new("RGBA", size, background)
            over.alpha_composite(image.convert("RGBA"))
            frames[index] = np.asarray(over.convert("RGB"))
            seconds.append(image.info.get("duration", 0) / 1000 or 0.1)
        loop = image.info.get("loop")
    return Clip(frames=frames, seconds=tuple(seconds), container="gif", loop=loop)


BLOCK = re.compile(b"[!,;]")
"""An extension, an image, the end; decoders pass over stray bytes before them."""


def _gif_frames(data: bytes, size: tuple[int, int], most_frames: int) -> int:
    """The number of frames, from the blocks alone; Pillow would take a file that breaks off for a shorter one."""
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        raise Undecodable("not a file of kind GIF")
    count, at = 0, 13 + _table(data[10]) if len(data) > 13 else len(data)
    while match := BLOCK.search(data, at):
        at = match.end()
        if match[0] == b";" and count:
            return count
        if match[0] == b"!":
            at += 1  # the extension's label
        elif match[0] == b"," and at + 9 < len(data):
            left, top, width, height = np.frombuffer(data[at : at + 8], "<u2").tolist()
            if left + width > size[0] or top + height > size[1]:
                raise Undecodable(f"frame {count} lies outside of the {size[0]} × {size[1]} pixels of the GIF")
            count += 1
            _check(*size, count, most_frames)
            at += 10 + _table(data[at + 8])  # position, size, flags, colours, code size
        while at < len(data) and data[at]:
            at += 1 + data[at]
        at += 1
    raise Undecodable(f"the GIF breaks off after {count} frames")


def _table(flags: int) -> int:
    """Bytes of the colour table that follows."""
    return 3 << (flags & 7) + 1 if flags & 128 else 0


def _write_gif(clip: Clip) -> bytes:
    """Each frame whole and with its own colours. Put together here: Pillow would merge frames that are alike."""
    height, width = clip.frames.shape[1:3]
    parts = [b"GIF89a", _words(width, height), b"\0\0\0"]
    if clip.loop is not None:
        parts += [b"!\xff\x0bNETSCAPE2.0\x03\x01", _words(clip.loop), b"\0"]
    for pixels, ticks in zip(clip.frames, _ticks(clip.seconds, 100), strict=True):
        table, coded = _gif_image(pixels)
        parts += [b"!\xf9\x04\0", _words(min(ticks, 65535)), b"\0\0,", _words(0, 0, width, height)]
        parts += [bytes([128 | (len(table) // 3).bit_length() - 2]), table, coded]
    return b"".join([*parts, b";"])


def _gif_image(pixels: Pixels8) -> tuple[bytes, bytes]:
    """Colour table and coded pixels (uint8 `[H, W, 3]`) of one frame, taken out of a GIF that Pillow writes."""
    buffer = io.BytesIO()
    _indexed(pixels).save(buffer, "GIF", interlace=0, optimize=False)
    data = buffer.getvalue()
    end = 13 + _table(data[10])
    return data[13:end], data[end + 10 : -1]  # past the one image's comma, position, size and flags


def _indexed(pixels: Pixels8) -> Image.Image:
    codes = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, indices = np.unique(codes, return_inverse=True)
    if len(colours) > 256:
        return Image.fromarray(pixels).quantize(256, Image.Quantize.MEDIANCUT)
    image = Image.fromarray(indices.reshape(codes.shape).astype(np.uint8)).convert("P")
    image.putpalette((colours[:, None] >> np.array([16, 8, 0], np.uint32)).astype(np.uint8).tobytes())
    return image


def _words(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()
