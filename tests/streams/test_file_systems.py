"""File systems that only look like one are known by name, and others by what they do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.streams.file_systems import over_objects, why_not_shared

TABLE = r"""/dev/root / ext4 rw 0 0
proc /proc proc rw 0 0
s3fs {0}/s3 fuse.s3fs rw 0 0
mountpoint-s3 {0}/point fuse rw 0 0
remote:bucket {0}/with\040space fuse.rclone rw 0 0
sshfs#host:/ {0}/ssh fuse.sshfs rw 0 0
server:/x {0}/s3/nfs nfs4 rw 0 0
blobfuse2 {0}/twice fuse rw 0 0
/dev/sdb {0}/twice xfs rw 0 0
damaged
"""


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("s3", "s3fs"), ("s3/deep/er", "s3fs"), ("point/job", "mountpoint-s3"), ("with space/job", "rclone"),
        ("ssh", None), ("s3/nfs/job", None), ("s3-not", None), ("twice", None), ("", None),
    ],
)  # fmt: skip
def test_mounted_object_stores_are_known(folder: str, name: str | None, tmp_path: Path) -> None:
    (tmp_path / "mounts").write_text(TABLE.format(tmp_path))
    assert over_objects(tmp_path / folder, tmp_path / "mounts") == name
    assert over_objects(tmp_path / folder, tmp_path / "nowhere") is None


def test_a_disk_is_fine_and_nothing_is_left_there(tmp_path: Path) -> None:
    assert why_not_shared(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_link_or_rename_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refused)
        assert why_not_shared(tmp_path) == (
            "its file system has no atomic renames and hard links (Operation not supported)"
        )
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", lambda source, target: Path(target).write_bytes(Path(source).read_bytes()))
        assert why_not_shared(tmp_path) == "a hard link takes the place of another file there"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda source, target: None)
        assert why_not_shared(tmp_path) == "a file that is renamed there does not take the place of another"
    assert list(tmp_path.iterdir()) == []
