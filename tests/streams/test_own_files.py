"""What the rows of a data set may name: files of their own, and nothing else on this machine or any other."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from datasets import Features, Image, Value
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.media.records import Rejected, Sample
from pipeline.streams.hub import HubInput
from pipeline.streams.own_files import Outside, OwnFiles
from tests.streams.made import everything, lay, picture, rejected, samples

FEATURES = Features({"image": Image(), "n": Value("int64")})
SECRET = b"root:x:0:0:a secret of this machine"


def table(*paths: str) -> pa.Table:
    rows = [{"image": {"bytes": None, "path": path}, "n": i} for i, path in enumerate(paths)]
    return pa.Table.from_pylist(rows, schema=FEATURES.arrow_schema)


def write(file: Path, rows: pa.Table) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(rows, file)
    else:
        with pa.ipc.new_stream(file, rows.schema) as stream:
            stream.write_table(rows)
    return file


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data set `set` beside a secret, with links to it, and with images only in `images`."""
    lay(tmp_path, {"secret.png": SECRET, "set-2/x.png": SECRET, "set/images/a.png": picture(1)})
    (tmp_path / "set" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "set" / "up").symlink_to(tmp_path)
    (tmp_path / "set" / "inner.png").symlink_to("images/a.png")
    return tmp_path


def outside(place: Path) -> list[str]:
    return [
        str(place / "secret.png"),
        "../secret.png",
        "images/../../secret.png",
        "link.png",
        "up/secret.png",
        f"{place}/set-2/x.png",
        f"file://{place}/secret.png",
        f"local://{place}/secret.png",
        f"FILE://{place}/secret.png",
        f"zip://x.png::{place}/secret.zip",
        f"filecache://x::{place}/set/images/a.png",
        "memory://x.png",
        "/dev/zero",
        "/proc/self/environ",
        "\0",
        "",
        "http://169.254.169.254/latest/meta-data",
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_row_gets_no_file_from_outside_of_its_data_set(place: Path, suffix: str) -> None:
    good = ["images/a.png", str(place / "set" / "images" / "a.png"), "inner.png", "./images/../images/a.png"]
    write(place / "set" / f"rows{suffix}", table(*outside(place), *good))
    (shard,) = HubInput(path=str(place / "set" / f"rows{suffix}")).open().shards
    items = list(shard.read())
    bad, fine = items[: -len(good)], items[-len(good) :]
    assert [item.image for item in fine if isinstance(item, Sample)] == [picture(1)] * len(good)
    assert len(rejected(bad)) == len(outside(place))
    for path, item in zip(outside(place), rejected(bad), strict=True):
        assert SECRET not in b"".join(item.members.values()), path
        assert "image" not in item.members
        assert item.kind == ("undecodable" if path == "" else "refused"), path  # "" is the folder itself


@pytest.mark.parametrize("source", ["FOLDER/rows.parquet", "FOLDER/*.parquet", "parquet", "FOLDER"])
def test_however_a_data_set_is_named(place: Path, source: str) -> None:
    write(place / "set" / "rows.parquet", table("images/a.png", "../secret.png"))
    files = str(place / "set" / "rows.parquet") if source == "parquet" else None
    for image in ("link.png", "inner.png"):
        (place / "set" / image).unlink()  # `datasets` takes a folder with most images for an image folder
    stream = HubInput.model_validate({"path": source.replace("FOLDER", str(place / "set")), "data_files": files}).open()
    good, bad = stream.shards[0].read()
    assert isinstance(good, Sample)
    assert isinstance(bad, Rejected)
    assert bad.kind == "refused"


def test_an_image_folder_gives_no_file_that_a_link_leads_out_to(place: Path) -> None:
    for options in ({"path": str(place / "set")}, {"path": "imagefolder", "data_dir": str(place / "set")}):
        (shard,) = HubInput.model_validate(options).open().shards
        items = list(shard.read())
        assert [item.image for item in items if isinstance(item, Sample)] == [picture(1)] * 2  # a.png and inner.png
        (bad,) = rejected(items)
        assert (bad.kind, bad.members) == ("refused", {})


def test_images_in_an_archive_of_the_data_set_are_its_own(tmp_path: Path) -> None:
    import zipfile

    lay(tmp_path, {"set/readme.txt": b""})
    with zipfile.ZipFile(tmp_path / "set" / "images.zip", "w") as archive:
        archive.writestr("1.png", picture(1))
        archive.writestr("2.png", picture(2))
    stream = HubInput(path="imagefolder", data_dir=str(tmp_path / "set")).open()
    assert [s.image for s in everything(stream)] == [picture(1), picture(2)]
    whole = (tmp_path / "set" / "images.zip").read_bytes()
    at = whole.index(picture(1))
    (tmp_path / "set" / "images.zip").write_bytes(whole[: at + 20] + b"\xff" * 20 + whole[at + 40 :])
    bad, good = stream.shards[0].read()
    assert isinstance(good, Sample)
    assert isinstance(bad, Rejected)
    assert "its archive is damaged" in bad.reason


@pytest.mark.parametrize(
    "files",
    ["../other/x.parquet", "/etc/*", "PLACE/other/x.parquet", "http://169.254.169.254/x.parquet", "in/x.parquet"],
)
def test_metadata_may_not_name_data_files_outside(tmp_path: Path, files: str) -> None:
    write(tmp_path / "other" / "x.parquet", table("a.png"))
    readme = f"---\nconfigs:\n- config_name: default\n  data_files: {files.replace('PLACE', str(tmp_path))}\n---\n"
    lay(tmp_path, {"set/README.md": readme.encode(), "set/y.parquet": b""})
    (tmp_path / "set" / "in").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match=r"^input\.path: data set '.*set' .*") as told:
        HubInput(path=str(tmp_path / "set")).open()
    assert "\n" not in str(told.value)
    # who names the file in the recipe may
    assert HubInput(path=str(tmp_path / "set"), data_files=(str(tmp_path / "other" / "x.parquet"),)).open().shards


def test_a_saved_set_names_only_its_own_files(tmp_path: Path) -> None:
    write(tmp_path / "victim.arrow", table("a.png"))
    for name in ("../victim.arrow", str(tmp_path / "victim.arrow")):
        lay(tmp_path / "set", {"state.json": b'{"_data_files": [{"filename": "%s"}]}' % name.encode()})
        with pytest.raises(UserError, match=r"victim\.arrow, which lies outside of it"):
            HubInput(path=str(tmp_path / "set")).open()


def test_a_snapshot_in_the_cache_of_the_hub_links_to_its_own_blobs(tmp_path: Path) -> None:
    home = tmp_path / "datasets--user--set"
    write(home / "blobs" / "abc", table("a.png").slice(0, 0))
    pq.write_table(table("a.png"), home / "blobs" / "abc")
    lay(home, {"blobs/def": picture(3)})
    snapshot = home / "snapshots" / "1234"
    snapshot.mkdir(parents=True)
    (snapshot / "x.parquet").symlink_to("../../blobs/abc")
    (snapshot / "a.png").symlink_to("../../blobs/def")
    (shard,) = HubInput(path="parquet", data_files=(str(snapshot / "x.parquet"),)).open().shards
    assert rejected(shard.read())  # files that are named one by one are a data set of their folder alone
    (shard,) = HubInput(path=str(snapshot), data_files=("*.parquet",)).open().shards
    assert [s.image for s in samples(shard)] == [picture(3)]


def test_what_is_no_file_is_told_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(tmp_path / "s.png"))
        write(tmp_path / "x.parquet", table("pipe.png", "s.png", "gone.png"))
        (shard,) = HubInput(path=str(tmp_path / "x.parquet")).open().shards
        found: list[Sample | Rejected] = []
        thread = threading.Thread(target=lambda: found.extend(shard.read()), daemon=True)
        thread.start()
        thread.join(20)
    assert not thread.is_alive()
    assert ["no regular file" in bad.reason for bad in rejected(found)] == [True, True, False]
    assert [bad.kind for bad in rejected(found)] == ["undecodable"] * 3


def test_a_file_over_the_bound_is_not_kept(tmp_path: Path) -> None:
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    write(tmp_path / "x.parquet", table("huge.png"))
    options: dict[str, Any] = {"path": str(tmp_path / "x.parquet"), "bounds": {"member_bytes": 1000}}
    (shard,) = HubInput.model_validate(options).open().shards
    (bad,) = rejected(shard.read())
    assert "more than the 1000 bytes" in bad.reason
    assert "image" not in bad.members


BASE = "https://example.com/sets/one/"


@pytest.mark.parametrize(
    "path",
    [
        "https://example.com/sets/two/a.png", "https://example.com/sets/one/../two/a.png", "../two/a.png",
        "https://example.com/sets/one/%2e%2E/two/a.png", "https://example.com.evil.org/sets/one/a.png",
        "http://example.com/sets/one/a.png", "http://169.254.169.254/x", "https://example.com@evil.org/a",
        "/etc/passwd",
        "file:///etc/passwd", "zip://a.png::https://evil.org/x.zip", "x://y::https://example.com/sets/one/a.png",
        "zip://a::zip://b::https://example.com/sets/one/x.zip", "gzip://a::https://example.com/sets/one/x.gz",
        "https://example.com/sets/one/..\\two", "a\0b",
    ],
)  # fmt: skip
def test_a_remote_set_stays_below_its_own_url(path: str) -> None:
    own = OwnFiles.of([BASE.rstrip("/")])
    with pytest.raises(Outside):
        own.locate(path, BASE + "x.parquet")


def test_a_remote_set_may_name_what_lies_below_its_own_url() -> None:
    own = OwnFiles.of([BASE])
    assert own.locate("img/a.png", BASE + "data/x.parquet?v=1") == BASE + "data/img/a.png"
    assert own.locate(BASE + "a.png", BASE + "data/x.parquet") == BASE + "a.png"
    inside = f"zip://cat/1.png::{BASE}x.zip"
    assert own.locate(inside, BASE + "x.parquet") == inside


@given(st.lists(st.sampled_from(["..", ".", "a", "link", "up", "", "%2e%2e", "\\..", "~"]), max_size=6).map("/".join))
def test_no_name_leads_outside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    root = tmp_path_factory.mktemp("r")
    (root / "set" / "a").mkdir(parents=True)
    (root / "set" / "up").symlink_to(root)
    (root / "set" / "a" / "link").symlink_to("/etc")
    try:
        found = OwnFiles.of([str(root / "set")]).locate(name, str(root / "set" / "x.parquet"))
    except Outside:
        return
    assert Path(found) == Path(os.path.realpath(found))
    assert Path(found).is_relative_to(os.path.realpath(root / "set"))


def test_links_to_data_files_are_followed_where_the_recipe_names_them(tmp_path: Path) -> None:
    """As tars are; images that rows name are not."""
    write(tmp_path / "far" / "x.parquet", table("a.png", "b.png"))
    lay(tmp_path, {"far/a.png": picture(1), "set/b.png": picture(2)})
    (tmp_path / "set" / "x.parquet").symlink_to(tmp_path / "far" / "x.parquet")
    for options in (
        {"path": str(tmp_path / "set" / "*.parquet")},
        {"path": "parquet", "data_dir": str(tmp_path / "set"), "data_files": ["x.parquet"]},
    ):
        (shard,) = HubInput.model_validate(options).open().shards
        bad, good = shard.read()
        assert isinstance(good, Sample)
        assert isinstance(bad, Rejected)
        assert good.image == picture(2)


def test_a_saved_set_with_data_files_in_the_recipe_is_checked_as_well(tmp_path: Path) -> None:
    write(tmp_path / "victim.arrow", table("a.png"))
    lay(tmp_path / "set", {"state.json": b'{"_data_files": [{"filename": "../victim.arrow"}]}', "x.arrow": b""})
    with pytest.raises(UserError, match="lies outside of it"):
        HubInput(path=str(tmp_path / "set"), data_files=("x.arrow",)).open()


def test_a_folder_behind_a_link_opens_no_way_out(tmp_path: Path) -> None:
    lay(tmp_path, {"far/secret.png": SECRET, "set/a.png": picture(1)})
    (tmp_path / "set" / "sub").symlink_to(tmp_path / "far")
    (shard,) = (
        HubInput(path="imagefolder", data_dir=str(tmp_path / "set"), data_files=("**/*.png", "sub/*.png")).open().shards
    )
    for item in shard.read():
        assert not isinstance(item, Sample) or item.image == picture(1)


@pytest.mark.parametrize(
    "file",
    [
        "/etc/x.parquet", "http://169.254.169.254/x.parquet", "hf://datasets/other/set@abc/x.parquet",
        "hf://datasets/user/set@abc/../../other/x.parquet", "zip://x.parquet::/etc/x.zip",
    ],
)  # fmt: skip
def test_a_set_on_the_hub_names_data_files_of_its_own(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    hub = "hf://datasets/user/set@abc"

    def opened(*files: str) -> None:
        config = SimpleNamespace(data_files={"train": list(files)})
        info = SimpleNamespace(features=FEATURES)
        found = SimpleNamespace(
            base_path=hub, config=config, name="parquet", info=info, builder_configs={}, DEFAULT_CONFIG_NAME=None
        )
        monkeypatch.setattr("datasets.load_dataset_builder", lambda *given, **more: found)
        monkeypatch.setattr("datasets.data_files.resolve_pattern", lambda *given: list(files))
        HubInput(path="user/set").open()

    opened(f"{hub}/data/x.parquet")
    with pytest.raises(UserError, match="which lies outside of it"):
        opened(f"{hub}/data/x.parquet", file)
