"""The recipe `lfw_release` as people run it, on a few of the shared photographs, with the real gate."""

from __future__ import annotations

import json
import tarfile
from itertools import islice
from pathlib import Path

import pytest

from pipeline.cli import main
from tests.builders import SHARED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "lfw").exists(), reason="needs ../shared/data/lfw"),
]
PHOTOGRAPHS = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lfw")
    with tarfile.open(SHARED / "lfw" / "dev-00000.tar") as source, tarfile.open(folder / "few.tar", "w") as few:
        for member in islice(source, 2 * PHOTOGRAPHS):  # image and JSON of each
            few.addfile(member, source.extractfile(member))
    return folder


def test_release_audit_and_tampering(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOPPEL_SALT", "a salt of this test alone")
    release, originals = folder / "release", str(folder / "few.tar")
    places = [f"output.path={folder}/job", f"release.path={release}", f"release.audit={folder}/audit"]
    assert main(["new-key", str(folder / "key")]) == 0
    signing = [f"release.sign={folder}/key", "release.assessment.purpose=this test"]
    changes = [f"input.urls={originals}", "operator.steps=8", "model.batch_size=16", *places, *signing]
    assert main(["run", "lfw_release", *(word for change in changes for word in ("--set", change))]) == 0
    manifest = json.loads((release / "RELEASE.json").read_text())
    assert manifest["counts"]["read"] == PHOTOGRAPHS
    assert manifest["counts"]["released"] >= PHOTOGRAPHS // 2
    audit = json.loads((folder / "audit" / "audit.json").read_text())
    assert audit["utility"]["faces"]["with_face"] == 1  # without one, an image is undecided
    own = audit["T1"]["recognisers"]["dlib-chip"]["reidentification"]["naive"]
    assert own is None or own["rank"]["1"]["share"] == 0  # the gate saw to it
    public = b"".join(path.read_bytes() for path in release.rglob("*") if path.is_file())
    with tarfile.open(originals) as tar:
        names = {name.split(".")[0] for name in tar.getnames()}
    assert not [name for name in names if name.encode() in public or name[:-5].encode() in public]

    verifying = ["verify", str(release), "--key", str(folder / "key.pub")]
    assert main(verifying) == 0
    again = ["audit", originals, str(release), "--identity", "json:identity", "--fit", "centre 128"]
    again += ["--out", str(folder / "second"), "--recognisers", "Dlib", "lbph", "--set", "networks=false"]
    assert main(again) == 0
    shard = release / "data" / "release-00000.tar"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 4
    shard.write_bytes(content)
    capsys.readouterr()
    assert main(again) == 2
    assert "release-00000.tar was altered" in capsys.readouterr().err
    assert main(verifying) == 1
    assert "FAILED  files: data/release-00000.tar was altered: its sha256 differs" in capsys.readouterr().out
