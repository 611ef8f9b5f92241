"""The codec of clips: what comes back from MP4 and GIF, how long frames last, and what is refused."""

import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.media import clips
from pipeline.media.clips import Clip, is_clip, read_clip, write_clip
from pipeline.media.opening import Undecodable
from tests import builders

av = pytest.importorskip("av")
TIMES = (1 / 30, 1 / 30, 0.1, 1 / 60, 1001 / 30000)


def smooth(height: int, width: int, frames: int = 5) -> np.ndarray:
    """Waves that move; the channels differ."""
    y, x = np.mgrid[:height, :width]
    waves = [[np.sin(x / 9 + i / 3 + c) * np.cos(y / 11 + c) for c in range(3)] for i in range(frames)]
    return (127.5 + 120 * np.moveaxis(np.array(waves), 1, -1)).round().astype(np.uint8)


def few_colours(colours: int, height: int = 7, width: int = 31) -> np.ndarray:
    rng = np.random.default_rng(colours)
    return rng.integers(0, 256, (colours, 3), dtype=np.uint8)[rng.integers(0, colours, (5, height, width))]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@cache
def mp4() -> bytes:
    return write_clip(Clip(frames=smooth(32, 48), seconds=TIMES, container="mp4"))


@cache
def gif() -> bytes:
    return write_clip(Clip(frames=few_colours(9), seconds=(0.1,) * 5, container="gif", loop=0))


@cache
def header_first() -> bytes:
    """The MP4 with its header before its frames, as for the web: cut off, it still opens."""
    boxes, rest = {}, mp4()
    while rest:
        size = int.from_bytes(rest[:4], "big")
        boxes[rest[4:8]], rest = rest[:size], rest[size:]
    moov = boxes.pop(b"moov")
    at = moov.index(b"stco") + 8
    count = int.from_bytes(moov[at : at + 4], "big")
    moved = np.frombuffer(moov, ">u4", count, at + 4) + len(moov)
    moov = moov[: at + 4] + moved.astype(">u4").tobytes() + moov[at + 4 + 4 * count :]
    return boxes.pop(b"ftyp") + moov + b"".join(boxes.values())


def test_the_last_part_of_an_extension_counts() -> None:
    assert [is_clip(ext) for ext in ("mp4", "left.GIF", "mp4.png", "webm", "")] == [True, True, False, False, False]
    with pytest.raises(Undecodable, match="webm"):
        read_clip(gif(), "webm")


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (32, 47), (1, 1)])
def test_an_mp4_comes_back(size: tuple[int, int]) -> None:
    clip = Clip(frames=smooth(*size), seconds=TIMES, container="mp4")
    back = read_clip(write_clip(clip), "left.MP4")
    assert back.frames.shape == clip.frames.shape
    assert psnr(back.frames, clip.frames) > 35
    assert back == replace(clip, frames=back.frames)


def test_an_mp4_without_x264(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    clip = Clip(frames=smooth(33, 47), seconds=TIMES, container="mp4")
    data = write_clip(clip)
    assert b"x264" not in data
    back = read_clip(data, "mp4")
    assert back.frames.shape == clip.frames.shape
    assert psnr(back.frames, clip.frames) > 33  # 4:2:0 at an odd size
    assert back.seconds == clip.seconds


@pytest.mark.parametrize("colours", [1, 2, 3, 129, 256])
def test_a_gif_of_few_colours_comes_back_exactly(colours: int) -> None:
    clip = Clip(frames=few_colours(colours), seconds=(0.1, 0.02, 7.0, 0.04, 0.01), container="gif", loop=3)
    clip.frames[2] = clip.frames[1]  # frames that are alike stay two
    data = write_clip(clip)
    back = read_clip(data, "gif")
    assert np.array_equal(back.frames, clip.frames)
    assert back == replace(clip, frames=back.frames)
    with av.open(io.BytesIO(data)) as file:  # another decoder
        other = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert np.array_equal(np.stack(other), clip.frames)


def test_a_gif_of_many_colours_comes_back_nearly() -> None:
    clip = Clip(frames=smooth(40, 60), seconds=(0.1,) * 5, container="gif")
    back = read_clip(write_clip(clip), "gif")
    assert psnr(back.frames, clip.frames) > 30
    assert back.loop is None
    levels = np.arange(257)
    one_more = np.stack([levels, levels // 2, 255 - levels // 2], -1).clip(0, 255).astype(np.uint8)[None, None]
    one_more[..., -1, :] = [255, 0, 0]
    back = read_clip(write_clip(Clip(frames=one_more, seconds=(1.0,), container="gif")), "gif")
    assert np.abs(back.frames.astype(int) - one_more).max() <= 8


@pytest.mark.parametrize(("container", "clock"), [("mp4", clips.FINEST_CLOCK), ("gif", 100)])
def test_rounded_durations_do_not_add_up(container: clips.Container, clock: int) -> None:
    seconds = tuple(0.0237 + 0.001 * np.random.default_rng(1).random(60))
    back = read_clip(write_clip(Clip(frames=smooth(2, 2, 60), seconds=seconds, container=container)), container)
    assert np.abs(np.cumsum(back.seconds) - np.cumsum(seconds)).max() <= 0.51 / clock


def test_the_shortest_duration_of_a_gif() -> None:
    clip = Clip(frames=few_colours(2), seconds=(0.001,) * 5, container="gif")
    assert read_clip(write_clip(clip), "gif").seconds == (0.01,) * 5


@pytest.mark.parametrize("container", ["mp4", "gif"])
def test_the_same_clip_gives_the_same_bytes(container: clips.Container) -> None:
    clip = Clip(frames=smooth(48, 64), seconds=TIMES, container=container)
    code = (
        "import sys, numpy as np; from pipeline.media.clips import *;"
        "frames = np.frombuffer(sys.stdin.buffer.read(), np.uint8).reshape(5, 48, 64, 3);"
        f"sys.stdout.buffer.write(write_clip(Clip(frames=frames, seconds={TIMES}, container={container!r})))"
    )
    other = subprocess.run([sys.executable, "-c", code], input=clip.frames.tobytes(), capture_output=True, check=True)
    assert write_clip(clip) == write_clip(clip) == other.stdout


def test_importing_the_codec_does_not_need_av() -> None:
    code = "from pipeline.media import clips; clips.read_clip(open(0, 'rb').read(), 'gif')"
    code = f"import sys; sys.modules['av'] = None; {code}"
    subprocess.run([sys.executable, "-c", code], input=gif(), check=True)


# reading what others wrote


def other_mp4(yuv: np.ndarray, frames: int = 1, *, matrix: int = 2, **options: str) -> bytes:
    """An MP4 of equal frames at 25 a second; `yuv` is uint8 `[H * 3 / 2, W]`, the planes of 4:2:0."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "1", **options})
        stream.height, stream.width, stream.pix_fmt = yuv.shape[0] * 2 // 3, yuv.shape[1], "yuv420p"
        stream.codec_context.colorspace = matrix
        for _ in range(frames):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(yuv, format="yuv420p")))
        file.mux(stream.encode(None))
    return buffer.getvalue()


def planes(colour: np.ndarray, red: float, blue: float, height: int = 32) -> np.ndarray:
    """One colour in limited-range Y'CbCr (ITU-R BT.601 and 709, where `red` and `blue` are the weights in Y')."""
    r, g, b = colour / 255
    y = red * r + (1 - red - blue) * g + blue * b
    values = 16 + 219 * y, 128 + 112 * (b - y) / (1 - blue), 128 + 112 * (r - y) / (1 - red)
    flat = [np.full(height * 32 // part, value) for value, part in zip(values, (1, 4, 4), strict=True)]
    return np.concatenate(flat).round().astype(np.uint8).reshape(height * 3 // 2, 32)


@pytest.mark.parametrize(
    ("matrix", "red", "blue", "height"),
    [(1, 0.2126, 0.0722, 32), (6, 0.299, 0.114, 32), (2, 0.299, 0.114, 32), (2, 0.2126, 0.0722, 720)],
)
def test_colours_follow_the_matrix_of_the_file(matrix: int, red: float, blue: float, height: int) -> None:
    colour = np.array([200, 40, 90])
    back = read_clip(other_mp4(planes(colour, red, blue, height), matrix=matrix), "mp4")
    assert np.abs(back.frames - colour.astype(int)).max() <= 3


def test_frames_that_are_coded_out_of_order() -> None:
    grey = np.full((48, 32), 128, np.uint8)
    back = read_clip(other_mp4(grey, 9, bf="3"), "mp4")
    assert back.frames.shape == (9, 32, 32, 3)
    assert back.seconds == pytest.approx([0.04] * 9)


def test_a_video_taken_upright_stands_upright() -> None:
    wide = write_clip(Clip(frames=smooth(32, 48), seconds=TIMES, container="mp4"))
    at = wide.index((1 << 16).to_bytes(4, "big") + bytes(12) + (1 << 16).to_bytes(4, "big"), wide.index(b"tkhd"))
    # x' = -y, y' = x with y downwards (ISO/IEC 14496-12, 8.3.2): a quarter turn clockwise
    quarter = np.array([0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30], ">i4").tobytes()
    turned = read_clip(wide[:at] + quarter + wide[at + 36 :], "mp4")
    assert np.array_equal(turned.frames, np.rot90(read_clip(wide, "mp4").frames, -1, (1, 2)))


@pytest.mark.parametrize("disposal", [1, 2, 3])
def test_gif_frames_are_composed_and_laid_over_white(disposal: int) -> None:
    """A red frame, then a blue square in it that starts with a transparent row: each disposal is done by hand."""
    first = np.full((6, 6, 4), [255, 0, 0, 255], np.uint8)
    first[0] = 0
    parts = [first, first.copy(), first.copy()]
    parts[1][...] = 0
    parts[1][2:4, 2:4] = [0, 0, 255, 255]
    parts[2][...] = 0
    parts[2][5, 5] = [0, 255, 0, 255]
    canvas, expected = np.full((6, 6, 3), 255, np.uint8), []
    for index, part in enumerate(parts):
        before, opaque = canvas.copy(), part[..., 3] > 0
        canvas[opaque] = part[opaque][:, :3]
        expected.append(canvas.copy())
        if index and disposal == 2:
            canvas[...] = 255
        elif index and disposal == 3:
            canvas = before
    data = b"GIF89a" + np.array([6, 6], "<u2").tobytes() + b"\0\0\0"
    for index, part in enumerate(parts):
        colours = np.array([[9, 9, 9], [255, 0, 0], [0, 0, 255], [0, 255, 0]], np.uint8)
        indices = (part[..., 0] > 0) + 2 * (part[..., 2] > 0) + 3 * (part[..., 1] > 0)
        # LZW without compression: a clear code before each pair of pixels keeps the codes at 3 bits (Appendix F)
        codes = [code for pair in indices.reshape(-1, 2) for code in (4, *pair)] + [5]
        number = sum(int(code) << 3 * place for place, code in enumerate(codes))
        packed = number.to_bytes((3 * len(codes) + 7) // 8, "little")
        method = disposal if index else 1
        data += b"!\xf9\x04" + bytes([method << 2 | 1, 10, 0, 0, 0]) + b"," + np.array([0, 0, 6, 6], "<u2").tobytes()
        data += b"\x81" + colours.tobytes() + b"\x02" + bytes([len(packed)]) + packed + b"\0"
    back = read_clip(data + b";", "gif")
    assert np.array_equal(back.frames, expected)
    assert back.seconds == (0.1,) * 3


def test_names_in_another_encoding_do_no_harm() -> None:
    assert b"VideoHandler" in mp4()
    assert len(read_clip(mp4().replace(b"VideoHandler", b"Vid\xe9oHandler"), "mp4").frames) == 5


def test_names_of_tables_in_the_coded_frames_do_no_harm() -> None:
    box = b"mdatstsz" + b"\xff" * 16
    assert len(read_clip(mp4() + (len(box) + 4).to_bytes(4, "big") + box, "mp4").frames) == 5


def test_a_gif_without_durations_plays_as_in_browsers() -> None:
    assert read_clip(builders.picture(0, kind="GIF"), "gif").seconds == (0.1,)


# what is refused


@pytest.mark.parametrize("ext", ["mp4", "gif"])
@pytest.mark.parametrize("make", [bytes, lambda: b"GIF89a", lambda: builders.picture(0), lambda: b"not a video" * 99])
def test_other_bytes_are_refused(ext: str, make: Callable[[], bytes]) -> None:
    with pytest.raises(Undecodable):
        read_clip(make(), ext)


def test_the_extension_must_tell_the_truth() -> None:
    for data, ext in ((gif(), "mp4"), (mp4(), "gif")):
        with pytest.raises(Undecodable, match=f"not a file of kind {ext.upper()}"):
            read_clip(data, ext)
    for ext in clips.CONTAINERS:
        with pytest.raises(Undecodable, match="empty"):
            read_clip(b"", ext)


@given(st.data())
def test_a_file_that_breaks_off_is_refused(data: st.DataObject) -> None:
    whole, ext = data.draw(st.sampled_from([(mp4(), "mp4"), (header_first(), "mp4"), (gif(), "gif")]))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert read_clip(whole, ext).frames.shape[0] == 5
    if ext == "mp4" and whole is mp4() and cut > len(whole) - 70:
        return  # only remarks stand there
    with pytest.raises(Undecodable):
        read_clip(whole[:cut], ext)


@given(st.data())
def test_damage_ends_in_a_clip_or_a_refusal(data: st.DataObject) -> None:
    whole, ext = data.draw(st.sampled_from([(mp4(), "mp4"), (header_first(), "mp4"), (gif(), "gif")]))
    damaged = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=6)):
        damaged[place] = data.draw(st.integers(0, 255))
    try:
        clip = read_clip(bytes(damaged), ext)
    except Undecodable:
        return
    assert clip.frames.ndim == 4
    assert clip.frames.dtype == np.uint8
    assert len(clip.seconds) == len(clip.frames)
    assert min(clip.seconds) > 0


def test_each_kind_of_damage_is_told() -> None:
    with av.open(io.BytesIO(header_first())) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(video=0) if packet.size]
    at, size = places[2]
    noise = np.random.default_rng(0).bytes(size - 12)
    sizes = header_first().index(b"stsz") + 16
    longer = (places[-1][1] + 999).to_bytes(4, "big")
    for place, content, reason in (
        (at + 4, b"\x0a", "4 of 5 frames"),  # "end of sequence" instead of a picture (H.264, table 7-1)
        (at + 12, noise, "frame 2 of the video is damaged"),
        (sizes + 16, longer, "breaks off after [0-4] frames"),
    ):
        data = header_first()[:place] + content + header_first()[place + len(content) :]
        with pytest.raises(Undecodable, match=reason):
            read_clip(data, "mp4")


def test_frames_of_two_sizes() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for index, side in enumerate((32, 64)):
            coder = av.CodecContext.create("mjpeg", "w")
            coder.width, coder.height, coder.pix_fmt, coder.time_base = 48, side, "yuvj420p", Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(smooth(side, 48)[0], format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            for packet in coder.encode(frame) + coder.encode(None):
                packet.stream = stream
                file.mux(packet)
    with pytest.raises(Undecodable, match="differ in size"):
        read_clip(buffer.getvalue(), "mp4")


def patched(name: bytes, offset: int, *values: int) -> bytes:
    at = mp4().index(name) + offset
    return mp4()[:at] + np.array(values, ">u4").tobytes() + mp4()[at + 4 * len(values) :]


def test_a_frame_may_not_last_for_hours() -> None:
    with pytest.raises(Undecodable, match="last from"):
        read_clip(patched(b"stts", 16, 2**31 - 1), "mp4")


def claiming(width: int, height: int, frames: int) -> bytes:
    """A GIF of small frames on a screen that is said to measure `width` × `height`."""
    data = write_clip(Clip(frames=few_colours(2)[:1].repeat(frames, 0), seconds=(0.1,) * frames, container="gif"))
    return data[:6] + np.array([width, height], "<u2").tobytes() + data[10:]


BOMBS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "samples": (lambda: patched(b"stsz", 8, 1, 50_000_000), "mp4", "tables"),
    "runs": (lambda: patched(b"stts", 12, 50_000_000), "mp4", "tables"),
    "edits": (lambda: patched(b"elst", 8, 50_000_000), "mp4", "tables"),
    "compressed": (lambda: mp4() + b"\0\0\0\x14cmov" + bytes(12), "mp4", "compressed"),
    "wide": (lambda: claiming(16385, 9, 1), "gif", "a side"),
    "square": (lambda: claiming(10000, 9000, 1), "gif", "too large"),
    "small": (lambda: claiming(30, 7, 1), "gif", "outside"),
    "large": (lambda: claiming(5000, 4000, 9), "gif", "too large"),
    "long": (lambda: claiming(31, 7, 1001), "gif", "1000 are allowed"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(bomb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, ext, reason = BOMBS[bomb]
    data = make()
    monkeypatch.setattr(clips, "_rgb", None)  # reaching a picture would be another error
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(Undecodable, match=reason):
        read_clip(data, ext)


def test_the_limits_of_an_mp4(monkeypatch: pytest.MonkeyPatch) -> None:
    area = 32 * 48
    assert b"Lavf" not in mp4()
    assert len(read_clip(mp4(), "mp4", most_frames=5).frames) == 5
    monkeypatch.setattr(clips, "_rgb", None)  # the header tells: no picture is made
    with pytest.raises(Undecodable, match="4 are allowed"):
        read_clip(mp4(), "mp4", most_frames=4)
    monkeypatch.setattr(clips, "LARGEST_CLIP", 5 * area - 1)
    with pytest.raises(Undecodable, match="5 or more frames of 48 × 32"):
        read_clip(mp4(), "mp4")
    monkeypatch.setattr(clips, "_check", lambda *_: None)  # a stream may be larger than its header says
    monkeypatch.setattr(clips, "LARGEST_IMAGE", area - 1)
    with pytest.raises(Undecodable, match="Invalid"):
        read_clip(mp4(), "mp4")


def test_frames_that_the_header_does_not_count() -> None:
    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(mp4())) as source,
        av.open(buffer, "w", format="mp4", options={"movflags": "frag_every_frame+empty_moov"}) as file,
    ):
        stream = file.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                file.mux(packet)
    assert read_clip(buffer.getvalue(), "mp4").seconds[:3] == pytest.approx(TIMES[:3], abs=1e-4)
    with pytest.raises(Undecodable, match="3 are allowed"):
        read_clip(buffer.getvalue(), "mp4", most_frames=3)


def test_frames_need_a_duration_each() -> None:
    for container in clips.CONTAINERS:
        with pytest.raises(ValueError, match="zip"):
            write_clip(Clip(frames=smooth(4, 4), seconds=TIMES[:3], container=container))


def test_the_clock_is_as_coarse_as_it_can_be() -> None:
    data = write_clip(Clip(frames=smooth(4, 4), seconds=(1001 / 24000,) * 5, container="mp4"))
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].average_rate == Fraction(24000, 1001)
        assert file.streams.video[0].time_base == Fraction(1, 24000)
