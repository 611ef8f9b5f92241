"""Input and output lie apart, however many shards there are."""

import time
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.streams.apart import check_apart
from pipeline.streams.contract import InputStream
from pipeline.streams.shards import TarShard, WebDatasetInput

OPTIONS = WebDatasetInput(urls=("in/*.tar",))


def stream(*places: Path, shards: int = 1) -> InputStream:
    names = [f"{i:05d}" for i in range(shards)]
    return InputStream(
        shards=[TarShard(f"{name}.tar", name, OPTIONS) for name in names], places=tuple(map(str, places))
    )


@pytest.mark.parametrize("place", ["out/data/a.tar", "out/*.tar", "out/data/**", "link/*.tar"])
def test_an_input_within_the_job_is_refused(place: str, tmp_path: Path) -> None:
    (tmp_path / "out" / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "out" / "data")
    with pytest.raises(UserError, match="lies in"):
        check_apart(str(tmp_path / "out"), stream(tmp_path / place))


@pytest.mark.parametrize("place", ["*/data/*.tar", "**", "*/*/00000.tar", "o[u]t/data/**"])
def test_an_input_that_would_find_the_outputs_is_refused(place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would find what is written"):
        check_apart(str(tmp_path / "out"), stream(tmp_path / place))


@pytest.mark.parametrize("place", ["in/**", "*.tar", "*/*.tar", "*/data/*.png", "out-2/data/**", "*/data/0000?.tar.gz"])
def test_all_else_is_apart(place: str, tmp_path: Path) -> None:
    check_apart(str(tmp_path / "out"), stream(tmp_path / place))


def test_thousands_of_files_are_told_apart_at_once(tmp_path: Path) -> None:
    """Each place with each shard would be four million comparisons: minutes."""
    many = stream(tmp_path / "in" / "*.tar", *(tmp_path / "in" / f"{i}.tar" for i in range(2000)), shards=2000)
    before = time.process_time()
    check_apart(str(tmp_path / "out"), many)
    assert time.process_time() - before < 5
