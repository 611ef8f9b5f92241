"""What shows people is its owner's alone, whatever the umask and whatever was there before."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.streams.private import make_private_folder, open_private, private_umask, write_private


@pytest.fixture(params=[0o000, 0o022, 0o077])
def any_umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_private_under_any_umask(tmp_path: Path, any_umask: int) -> None:
    folder = make_private_folder(tmp_path / "above" / "folder")
    write_private(folder / "file", b"who")
    assert mode(folder) == 0o700
    assert mode(folder / "file") == 0o600
    assert mode(folder.parent) == 0o777 & ~any_umask, "the folders above are none of our business"


def test_what_is_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "folder" / "file").write_bytes(b"before")
    make_private_folder(tmp_path / "folder")
    with open_private(tmp_path / "folder" / "file") as file:
        assert mode(tmp_path / "folder" / "file") == 0o600, "before the first byte is written"
        file.write(b"now")
    assert mode(tmp_path / "folder") == 0o700
    assert (tmp_path / "folder" / "file").read_bytes() == b"now"


def test_a_folder_that_many_share_is_refused_and_left(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(UserError, match="not yours alone"):
        make_private_folder(shared)
    assert mode(shared) == 0o1777


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"keep")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        open_private(tmp_path / "link")
    assert (tmp_path / "victim").read_bytes() == b"keep"


def test_the_umask_reaches_processes_and_ends(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with private_umask():
            code = f"open({str(tmp_path / 'theirs')!r}, 'w')"
            subprocess.run([sys.executable, "-c", code], check=True)
            (tmp_path / "ours").write_text("")
        (tmp_path / "after").write_text("")
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("theirs", "ours", "after")] == [0o600, 0o600, 0o644]
