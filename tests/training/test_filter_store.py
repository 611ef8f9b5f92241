"""The weights of a finished job against the filter's own function, member by member, and the store that reads them."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.hooks.store import NeighbourStore, read_weights
from pipeline.job.config import JobConfig
from pipeline.media.pixels import decode
from tests import builders
from training.classifier.filtering import FilterConfig, weights
from training.classifier.judge import SmallCNN, evaluate, load_classifier, save_classifier

COUNT = 12


def coloured(file: Path, prefix: str, count: int = COUNT) -> Path:
    """Noisy 8×8 images in red, green or blue; the label says which."""
    members = []
    for i in range(count):
        pixels = np.random.default_rng(i).normal(40 + 160 * np.eye(3)[i % 3], 25, (8, 8, 3)).clip(0, 255)
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
        members += [(f"{prefix}{i}.png", buffer.getvalue()), (f"{prefix}{i}.cls", b"%d" % (i % 3))]
    return builders.tar(file, members)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """`in.tar`, a finished job over it in `job` with two copies of each image, and a judge of colours."""
    folder = tmp_path_factory.mktemp("filter")
    changes = {"operator.copies": 2, "operator.t_boom": [0.1, 0.9]}
    recipe = builders.recipe(coloured(folder / "in.tar", "k"), folder / "job", model, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("DOPPEL_SALT", raising=False)
        run_job(make_plan(validate(JobConfig, recipe, "test")))
    network = SmallCNN(3)
    with torch.no_grad():  # each channel by itself, up to the head
        for layer in network.body:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight.zero_()[range(3), range(3), 1, 1] = 1
        network.head.bias.zero_()
        network.head.weight.zero_()[:, :3] = 5 * torch.eye(3)
    save_classifier(network, folder / "judge.safetensors")
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Callable[..., int]:
    def run(**changes: Any) -> int:
        content = {
            "kind": "filter",
            "store": str(place / "job"),
            "data": {"format": "webdataset", "urls": str(place / "in.tar")},
            "size": [8, 8],
            "judge": {"file": str(place / "judge.safetensors")},
            "filter": {"kind": "margin", "at": 0.3},
            "output": str(tmp_path / "out"),
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**content, **changes}))
        return main(["filter", str(tmp_path / "recipe.yaml")])

    return run


def expected(place: Path, job: Path, config: FilterConfig) -> dict[str, float]:
    """By the names of the job's own members, one by one."""
    judge = load_classifier(place / "judge.safetensors")
    originals, found = builders.members_of(place / "in.tar"), {}

    def logits(data: bytes) -> torch.Tensor:
        return evaluate(judge, torch.tensor(decode(data)[0]).permute(2, 0, 1)[None])

    for name, data in builders.members_of(job / "data" / "in.tar").items():
        if name.endswith(".png"):
            key = name.split("-")[0]
            label = torch.tensor([int(originals[f"{key}.cls"])])
            weight = weights(config, logits(originals[f"{key}.png"]), logits(data), label)
            found[f"in/{name.removesuffix('.png')}"] = weight.item()
    return found


@pytest.mark.parametrize("kind", ["margin", "threshold"])
@pytest.mark.parametrize("mode", ["drop", "weight"])
def test_weights_are_those_of_the_filter(
    kind: Any, mode: Any, run: Callable[..., int], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = FilterConfig(kind=kind, at=0.4, mode=mode)
    assert run(filter=config.model_dump()) == 0
    found, wanted = read_weights(tmp_path / "out" / "weights.json"), expected(place, place / "job", config)
    assert found == pytest.approx(wanted, abs=1e-4)
    report = json.loads((tmp_path / "out" / "filter.json").read_text())
    shares = {group: 1 - np.mean([w for name, w in wanted.items() if name[-1] == group]) for group in "01"}
    assert report["rejected_by_copy"] == pytest.approx(shares, abs=1e-4)
    classes = {str(c): 1 - np.mean([w for n, w in wanted.items() if int(n[4:-2]) % 3 == c]) for c in range(3)}
    assert report["rejected_by_class"] == pytest.approx(classes, abs=1e-4)
    assert 0 < report["rejected"] < 1
    assert f"{report['rejected']:.1%} of {2 * COUNT} neighbours rejected" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob(".*"))


def test_a_store_with_them_gives_no_dropped_copy(run: Callable[..., int], place: Path, tmp_path: Path) -> None:
    run()
    found = read_weights(tmp_path / "out" / "weights.json")
    whole, kept = NeighbourStore.open(place / "job"), NeighbourStore.open(place / "job", weights=found)
    assert 0 < len(kept) == sum(found.values()) < len(whole)
    for i in range(COUNT):
        images = [kept.get(f"k{i}", copy) for copy in range(2)]
        wanted = [whole.get(f"k{i}", copy) for copy in range(2) if found[f"in/k{i}-{copy}"]]
        assert [image.tobytes() for image in images if image] == [image.tobytes() for image in wanted if image]


def test_a_copy_that_the_job_has_lost_shifts_no_name(run: Callable[..., int], place: Path, tmp_path: Path) -> None:
    job = Path(shutil.copytree(place / "job", tmp_path / "job"))
    lost = ("k0-0.", "k1-0.", "k2-")
    members = [(n, d) for n, d in builders.members_of(job / "data" / "in.tar").items() if not n.startswith(lost)]
    builders.tar(job / "data" / "in.tar", members)
    assert run(store=str(job), filter={"kind": "threshold", "at": 0.9, "mode": "weight"}) == 0
    found = read_weights(tmp_path / "out" / "weights.json")
    assert len(found) == 2 * COUNT - 4
    config = FilterConfig(kind="threshold", at=0.9, mode="weight")
    assert found == pytest.approx(expected(place, job, config), abs=1e-4)
    NeighbourStore.open(job, weights=found)
    assert json.loads((tmp_path / "out" / "filter.json").read_text())["originals_without_neighbour"] == 1


def test_neighbours_without_an_original_are_counted_and_left_alone(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = coloured(tmp_path / "some" / "in.tar", "k", 9)
    assert run(data={"format": "webdataset", "urls": str(some)}) == 0
    assert "6 more have no original in data" in capsys.readouterr().out
    assert len(read_weights(tmp_path / "out" / "weights.json")) == 18


def test_a_judge_may_be_trained_on_the_originals(run: Callable[..., int], place: Path, tmp_path: Path) -> None:
    data = {"format": "webdataset", "urls": str(place / "in.tar")}
    assert run(judge={"data": data, "epochs": 300, "seed": 1}, filter={"kind": "margin", "at": 1}) == 0
    assert (tmp_path / "out" / "judge.safetensors").exists()


def test_where_everything_is_rejected_it_fails(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(filter={"kind": "threshold", "at": 1}) == 1
    assert "no neighbour was kept" in capsys.readouterr().err
    assert set(read_weights(tmp_path / "out" / "weights.json").values()) == {0}


def test_what_does_not_fit_is_one_sentence(
    run: Callable[..., int], place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    others = coloured(tmp_path / "others.tar", "x")
    cases: dict[str, dict[str, Any]] = {
        "none of its 24 neighbours is of a key in data, the first of which is 'others/x0'; it is the store of ": {
            "data": {"format": "webdataset", "urls": str(others)}
        },
        "holds no doppel job": {"store": str(tmp_path)},
        "give file or data, and not both": {"judge": {}},
    }
    for sentence, changes in cases.items():
        assert run(**changes) == 2
        (said,) = capsys.readouterr().err.strip().splitlines()
        assert sentence in said
        assert not (tmp_path / "out" / "weights.json").exists()
