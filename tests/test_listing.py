"""What lies in folders: what cannot be read is named, and globs find what `pathlib` finds."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.listing import below, matching, walk
from pipeline.models.config import ModelConfig
from pipeline.models.folder import find_model, hash_model
from pipeline.streams import input_at
from pipeline.streams.files import expand_urls
from pipeline.streams.folder import FolderInput
from pipeline.streams.hub import HubInput
from tests.streams.made import lay


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that nobody may list, beside others. Root may list anything, so the system's answer is made up."""
    lay(tmp_path / "set", {"ant/1.png": b"a", "bee/2.png": b"b", "cat/3.png": b"c", "bee/x.tar": b"t"})
    scandir, closed = os.scandir, tmp_path / "set" / "bee"

    def refuse(path: str | Path = ".") -> object:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return closed


def test_a_class_that_cannot_be_read_is_named_and_not_left_out(locked: Path) -> None:
    with pytest.raises(UserError, match=r"set/bee' cannot be read \(Permission denied\)"):
        FolderInput(path=str(locked.parent)).open()
    with pytest.raises(UserError, match="set/bee' cannot be read"):
        input_at(str(locked.parent)).open()


@pytest.mark.parametrize("pattern", ["set/*/*.tar", "set/**/*.tar", "set/bee/*.tar", "*/bee/x*"])
def test_a_glob_names_what_it_cannot_look_into(locked: Path, pattern: str) -> None:
    with pytest.raises(UserError, match="set/bee' cannot be read"):
        expand_urls([str(locked.parents[1] / pattern)])


def test_data_sets_models_and_releases_name_it_too(locked: Path) -> None:
    for open_it in (
        lambda: HubInput(path=str(locked.parent)).open(),
        lambda: HubInput(path="imagefolder", data_dir=str(locked.parent)).open(),
        lambda: find_model(ModelConfig(path=str(locked.parent))),
        lambda: hash_model(locked.parent),
    ):
        with pytest.raises(UserError, match="set/bee' cannot be read"):
            open_it()


def test_a_folder_deeper_than_the_stack(tmp_path: Path) -> None:
    here, depth = os.getcwd(), 1500
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("x.png").touch()
    finally:
        os.chdir(here)
    try:
        assert sum(1 for _ in below(tmp_path)) == depth + 1
        assert len(list(matching(f"{tmp_path}/**/*.png"))) == 1
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # too deep for shutil, too


def test_links_are_listed_and_not_followed(tmp_path: Path) -> None:
    lay(tmp_path, {"a/1.png": b"", "b/2.png": b""})
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    names = sorted(path.relative_to(tmp_path).as_posix() for path in below(tmp_path))
    assert names == ["a", "a/1.png", "a/up", "b", "b/2.png", "gone.png", "self.png"]
    items = [item for shard in FolderInput(path=str(tmp_path)).open().shards for item in shard.read()]
    assert [getattr(item, "reason", "")[:20] for item in items] == [
        "",
        "",
        "file cannot be read "[:20],
        "file cannot be read ",
    ]
    with pytest.raises(UserError, match=r"self\.png' cannot be read"):
        list(matching(f"{tmp_path}/*.png"))


NAMES = st.sampled_from(["a", "b", "ab", ".a", "a.b", "[x]"])
PARTS = st.sampled_from(["*", "?", "a*", "[ab]", "[!a]", "**", "a", "b", "[[]x]", ".*", "*.b"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(NAMES, min_size=1, max_size=3), min_size=1, max_size=6),
    parts=st.lists(PARTS, min_size=1, max_size=3),
)
def test_globs_are_those_of_pathlib(
    files: list[list[str]], parts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("glob")
    for file in files:
        path = root.joinpath(*file)
        if not any(p.is_file() for p in [*path.parents, path]) and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    found = set(matching(str(root.joinpath(*parts))))
    assert found == {str(path) for path in root.glob("/".join(parts)) if path.is_file()}


def test_walking_leaves_out_what_the_caller_takes_out(tmp_path: Path) -> None:
    lay(tmp_path, {"a/1": b"", ".b/2": b"", "a/.c/3": b""})
    seen = []
    for folder, folders, _ in walk(tmp_path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen.append(Path(folder).name)
    assert seen == [tmp_path.name, "a"]
