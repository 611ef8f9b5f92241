"""Files with one byte that is not as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st


@contextmanager
def one_byte_altered(file: Path, data: st.DataObject) -> Iterator[None]:
    """While it is open, one byte of the file is another, missing, or followed by one more, as drawn."""
    before = file.read_bytes()
    at, flip = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255))
    change = data.draw(st.sampled_from(["flip", "drop", "add"]))
    middle = {"flip": bytes([before[at] ^ flip]), "drop": b"", "add": bytes([before[at], flip])}[change]
    try:
        file.write_bytes(before[:at] + middle + before[at + 1 :])
        yield
    finally:
        file.write_bytes(before)
