import pytest
import torch
from torch import nn

from pipeline.errors import UserError
from training.classifier.networks import build_classifier


@pytest.mark.parametrize(("name", "width"), [("small_cnn", 128), ("resnet18", 512), ("timm:resnet10t", 512)])
def test_a_classifier_has_features_and_logits(name: str, width: int) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    network = build_classifier(name, 5, seed=0).eval()
    x = torch.rand(2, 3, 32, 32)
    features = network.features(x)
    assert features.shape == (2, width)
    assert network(x).shape == (2, 5)


def test_the_stem_of_resnet18_keeps_the_resolution() -> None:
    network = build_classifier("resnet18", 5, seed=0)
    shapes = list[torch.Size]()
    network.body.layer1.register_forward_hook(lambda module, given, made: shapes.append(made.shape))
    network(torch.rand(2, 3, 32, 32))
    assert shapes == [torch.Size([2, 64, 32, 32])]
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(11.17e6, rel=0.01)  # 1512.03385's, 10 classes


def test_weights_are_a_function_of_the_seed_and_of_nothing_else() -> None:
    first = build_classifier("small_cnn", 3, seed=1)
    torch.manual_seed(9)
    state = torch.random.get_rng_state()
    again, other = build_classifier("small_cnn", 3, seed=1), build_classifier("small_cnn", 3, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [next(n.parameters()) for n in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert isinstance(first, nn.Module)


@pytest.mark.parametrize(("name", "found"), [("resnet19", "known: small_cnn, resnet18"), ("timm:nothing", "knows no")])
def test_unknown_names(name: str, found: str) -> None:
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(UserError, match=found):
        build_classifier(name, 3, seed=0)
