"""How busy a device was, against a count of instants; and which photographs the faces are made of."""

from __future__ import annotations

import tarfile
from pathlib import Path

import busy
import pixel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import shard

END = 40
intervals = st.lists(st.tuples(st.integers(-10, END + 10), st.integers(0, 15)), max_size=12)


@given(intervals, st.integers(0, END - 1), st.integers(1, END))
def test_busy_share_is_the_share_of_covered_instants(found: list[tuple[int, int]], start: int, length: int) -> None:
    spans = [(begins, begins + lasts) for begins, lasts in found]
    end = start + length
    covered = sum(any(begins <= i < ends for begins, ends in spans) for i in range(start, end))
    assert busy.busy_share(spans, start, end) == pytest.approx(covered / length)


def test_a_cpu_has_no_idle_share_and_says_why() -> None:
    result = busy.idle_share(lambda: pytest.fail("nothing is run"), "cpu")
    assert result["device_idle_share"] is None
    assert "CPU" in result["why_no_idle_share"]


def test_the_first_photographs_come_with_what_belongs_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "lfw.tar", 5)
    monkeypatch.setenv(pixel.DATA_VARIABLE, str(tmp_path))
    with tarfile.open(pixel.first_photographs(2, tmp_path / "few.tar")) as few:
        assert few.getnames() == [f"000{i}.{kind}" for i in range(2) for kind in ("png", "cls", "txt", "json")]


def test_without_photographs_the_reason_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pixel.DATA_VARIABLE, str(tmp_path))
    monkeypatch.setattr(pixel, "ROOT", tmp_path / "nowhere")
    with pytest.raises(pixel.NotRun, match="no photographs"):
        pixel.first_photographs(2, tmp_path / "few.tar")
