"""The command as a person meets it: exit codes, one sentence for each mistake, and nothing lost."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import BAD_INPUT, FAILED, INTERRUPTED, main
from tests import builders


class Desk:
    """A folder with a sound shard, and a way to run a recipe on it."""

    def __init__(self, folder: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.model, self.capsys = folder, model, capsys
        self.source, self.out = builders.shard(folder / "in.tar", 3), folder / "out"

    def run(self, *options: str, text: str | None = None, **changes: Any) -> tuple[int, str]:
        recipe = self.folder / "recipe.yaml"
        content = builders.recipe(changes.pop("source", self.source), self.out, self.model, **changes)
        recipe.write_text(text if text is not None else yaml.safe_dump(content))
        code = main(["run", str(recipe), *options])
        captured = self.capsys.readouterr()
        complaints = [line for line in captured.err.splitlines() if line.startswith("doppel:")]
        assert len(complaints) == (code != 0), captured.err
        return code, complaints[0] if complaints else captured.out

    def quarantine(self) -> list[dict[str, Any]]:
        members = builders.members_of(self.out / "quarantine" / "in.tar")
        return [json.loads(c) for n, c in members.items() if n.endswith(".reason.json")]


@pytest.fixture
def desk(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, model, capsys)


def test_a_sound_job(desk: Desk) -> None:
    code, said = desk.run()
    assert code == 0
    assert "3 images from 3 samples in 1 of 1 shards, 0 in quarantine" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"operator.t_bom": 0.3}, "unknown key 'operator.t_bom' (did you mean 't_boom'?); allowed are"),
        ({"operatr": {}}, "unknown key 'operatr' (did you mean 'operator'?)"),
        ({"input.urlz": "x"}, "unknown key 'input.urlz' (did you mean 'urls'?)"),
        ({"operator.t_boom": 1.5}, "operator.t_boom: a fraction of T lies in [0, 1]"),
        ({"operator.t_boom": [0.6, 0.2]}, "operator.t_boom: the range is upside down"),
        ({"operator.t_boom": {"sgma": 1}}, "operator.t_boom: a level is a number"),
        ({"operator.steps": 0}, "operator.steps: Input should be greater than or equal to 1, found 0"),
        ({"operator.solver": "eulr"}, "operator.solver: Input should be 'ancestral', 'euler'"),
        ({"operator.solver": "heun", "operator.eta": 0.5}, "eta is an option of the ancestral solver"),
        ({"input.format": "tfrecord"}, "input: Input tag 'tfrecord' found using 'format' does not match any of"),
        (
            {"input": {"format": "hub", "path": "x", "splitt": "y"}},
            "unknown key 'input.splitt' (did you mean 'split'?)",
        ),
        ({"output.format": "zip"}, "output.format: Input should be 'webdataset', 'parquet' or 'folder'"),
        ({"run.devices": ["cuda:99"]}, "run.devices: 'cuda:99' is not available here"),
        ({"run.salt_file": "/no/salt"}, "run.salt_file: cannot read '/no/salt'"),
        ({"operator": None}, "model and operator belong together"),
        ({"source": "nowhere-*.tar"}, "input.urls: 'nowhere-*.tar' matches no file"),
        ({"source": "{a,b.tar"}, "input.urls: '{a,b.tar'"),
        ({"model.path": "/no/such/model"}, "model.path: '/no/such/model' is not a folder"),
        ({"output.path": "/dev/null/out"}, "/dev/null"),
    ],
)
def test_mistakes_in_the_recipe(desk: Desk, changes: dict[str, Any], sentence: str) -> None:
    code, said = desk.run(**changes)
    assert code in (BAD_INPUT, FAILED)
    assert sentence in said
    assert not desk.out.exists() or not list(desk.out.glob("data/*"))


def test_a_recipe_that_is_no_mapping_or_no_yaml(desk: Desk) -> None:
    assert "a mapping of sections is expected, found list" in desk.run(text="- a\n- b\n")[1]
    assert "not valid YAML" in desk.run(text="input: {")[1]


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["run", "demo", "--owerwrite"])
    assert caught.value.code == BAD_INPUT


def test_a_model_with_pickled_weights_only(desk: Desk, tmp_path: Path) -> None:
    folder = tmp_path / "pickled" / "unet"
    folder.mkdir(parents=True)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04.")
    code, said = desk.run(**{"model.path": str(folder.parent)})
    assert code == BAD_INPUT
    assert "only pickled weights (unet/diffusion_pytorch_model.bin); only .safetensors are loaded" in said


def test_a_short_salt_is_refused_and_not_shown(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "salt").write_bytes(b"hunter2")
    code, said = desk.run(**{"run.salt_file": str(tmp_path / "salt")})
    assert code == BAD_INPUT
    assert "holds 7 bytes; at least 16 are needed" in said
    assert "hunter2" not in said


BAD_SAMPLES: list[tuple[str, bytes | None, str, str]] = [
    ("0001.png", b"", "undecodable", "the file is empty"),
    ("0001.jpg", builders.picture(1, (64, 64), kind="JPEG")[:300], "undecodable", "damaged image"),
    ("0001.jpg", b"dear diary", "undecodable", "no image of a known format"),
    ("0001.png", None, "undecodable", "the image is too large"),
    ("/etc/0001.png", builders.picture(1), "undecodable", "unsafe member name '/etc/0001.png'"),
    ("../0001.png", builders.picture(1), "undecodable", "unsafe member name '../0001.png'"),
    ("0000.png", builders.picture(1), "refused", "duplicate key '0000'"),
]


@pytest.mark.parametrize(("name", "data", "kind", "reason"), BAD_SAMPLES, ids=lambda v: str(v)[:16])
def test_a_bad_sample_is_a_row_in_quarantine(desk: Desk, name: str, data: bytes | None, kind: str, reason: str) -> None:
    from tests.test_pixels import bomb

    data = bomb(30_000, 30_000) if data is None else data
    good = {n: c for n, c in builders.members_of(desk.source).items() if n[:4] in ("0000", "0002")}
    stem = name.rpartition(".")[0]
    members = [*good.items(), (name, data), (f"{stem}.cls", b"1")]
    builders.tar(desk.source, members)
    code, said = desk.run()
    assert code == 0
    assert "2 images from 3 samples in 1 of 1 shards, 1 in quarantine" in said
    (row,) = desk.quarantine()
    assert row["kind"] == kind
    assert reason in row["reason"]
    assert row["origin"].startswith("in:")
    kept = builders.members_of(desk.out / "quarantine" / "in.tar")
    assert data in kept.values()  # the original bytes
    assert all(n.startswith("000000.") for n in kept)  # under names of ours


def test_labels_that_the_model_cannot_use(desk: Desk) -> None:
    members = list(builders.members_of(desk.source).items())
    members = [(n, c) for n, c in members if n != "0001.cls"]  # sample 1 has none
    members = [(n, b"3" if n == "0002.cls" else c) for n, c in members]  # the model knows 0, 1 and 2
    builders.tar(desk.source, members)
    code, said = desk.run()
    assert (code, "1 images from 3 samples" in said) == (0, True)
    assert "2 in quarantine; 1 of these 2: no class label, and" in said
    assert [row["reason"] for row in desk.quarantine()] == [
        "no class label, and the model needs one of 0 to 2",
        "label 3 is out of range: the model knows 0 to 2",
    ]


def test_a_cut_off_tar_gives_what_it_holds_and_has_failed_unless_damage_may_stay(desk: Desk) -> None:
    data = desk.source.read_bytes()
    cut = data.index(b"0002.png") + 512 + 20  # inside the third image
    desk.source.write_bytes(data[:cut])
    code, said = desk.run()
    assert code == FAILED
    assert "input shards are damaged in 1 place" in said
    sample, place = desk.quarantine()
    assert (sample["kind"], place["kind"]) == ("undecodable", "damaged")
    assert "cut off or damaged in or after this sample" in sample["reason"]
    assert "the file is cut off" in place["reason"]


@pytest.mark.parametrize("on_damage", ["fail", "keep"])
def test_a_job_that_could_write_nothing_has_failed(desk: Desk, on_damage: str) -> None:
    builders.tar(desk.source, [("0000.png", b""), ("0000.cls", b"0")])
    code, said = desk.run(on_damage=on_damage)
    assert code == FAILED
    assert "no image was written" in said
    assert "no image was written; 1 of these 1: the file is empty" in said
    assert len(desk.quarantine()) == 1


def test_what_is_no_tar_at_all_has_failed_even_where_damage_may_stay(desk: Desk) -> None:
    desk.source.write_bytes(b"no tar at all")
    code, said = desk.run(on_damage="keep")
    assert code == FAILED
    assert "no image was written" in said
    (place,) = desk.quarantine()
    assert (place["kind"], "no tar archive" in place["reason"]) == ("damaged", True)


def test_unwritable_output(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    code, said = desk.run()
    assert code == FAILED
    assert f"{desk.out}" in said
    assert "Permission denied" in said


def test_interrupting_says_how_to_go_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.report.progress import JobProgress

    def stop(self: JobProgress, images: int, rejected: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(JobProgress, "add", stop)
    code, said = desk.run()
    assert code == INTERRUPTED
    assert "the same command goes on from here" in said
    assert [p.name for p in (desk.out / ".parts").iterdir()] == ["lock"]
    monkeypatch.undo()
    assert desk.run()[0] == 0


def test_set_overrides_and_dry_run_writes_nothing(desk: Desk) -> None:
    code, said = desk.run("--set", "operator.t_boom={log_snr: [-1, 1]}", "--set", "output.quality=80", "--dry-run")
    assert code == 0
    resolved = yaml.safe_load(said)
    assert resolved["operator"]["t_boom"] == {"log_snr": [-1, 1]}
    assert resolved["output"]["quality"] == 80
    assert "# samples: about 3 (3 in the first shard)\n# images: about 3 out" in said
    assert "images/s a device" in said
    assert not desk.out.exists()


def test_what_dry_run_prints_is_a_recipe(desk: Desk, tmp_path: Path) -> None:
    _, said = desk.run("--dry-run")
    assert desk.run(text=said)[0] == 0
    assert (desk.out / "data" / "in.tar").exists()


@pytest.mark.parametrize("bad", ["operator.steps", "=3", "operator.steps.deep=3"])
def test_set_that_is_no_assignment(desk: Desk, bad: str) -> None:
    code, said = desk.run("--set", bad)
    assert code == BAD_INPUT
    assert "--set" in said


def test_help_is_quick() -> None:
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert time.perf_counter() - started < 3
    assert all(command in result.stdout for command in ("run", "demo", "train-denoiser"))


def test_calibrate_faces_says_what_certifies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pipeline.commands.calibrate_faces
    from tests.anonymity import fakes

    poor = fakes.certificate(tar={"1e-2": 0.5, "1e-3": 0.4, "1e-4": 0.1})
    monkeypatch.setattr(
        pipeline.commands.calibrate_faces, "calibrate_faces", lambda config: [fakes.certificate(), poor]
    )
    assert main(["calibrate-faces", "calibrate_lfw", "--set", f"output={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert "fake at 32 × 32: faces found 100.0%, TAR 0.990 at FAR 1e-2, 0.950 at 1e-3, EER 0.010: certifies\n" in said
    assert "certifies nothing (below 0.8)" in said


def test_an_audit_of_nothing_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "release").mkdir()
    originals = tmp_path / "originals"
    originals.mkdir()
    arguments = ["audit", str(originals), str(tmp_path / "release"), "--out", str(tmp_path / "audit")]
    assert main(arguments) == 2
    assert "RELEASE.json cannot be read" in capsys.readouterr().err
    assert main([*arguments, "--fit", "squash"]) == 2
    assert "fit: allowed are resize, crop, pad and 'centre PIXELS'" in capsys.readouterr().err
    assert main([*arguments, "--salt-file", str(tmp_path / "none")]) == 2
    assert "salt_file: cannot read" in capsys.readouterr().err
