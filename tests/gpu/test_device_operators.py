"""Every operator on the device: nothing mixes, nothing is left behind, and what comes out is the CPU's image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.device_cases import CASES, IDS, Bench, Folders, build, images_of

pytestmark = pytest.mark.gpu

NEAR = 5e-5
"""Nine of ten values differ by less, of images in about [-1, 1]: one tenth at most may lie where a threshold, a median
or a tile tips over. Rounding alone gives 1e-6, TF32 1e-4 and more."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def here(folders: Folders) -> Bench:
    return Bench.on("cpu", folders)


@pytest.fixture(scope="module")
def there(folders: Folders, device: str) -> Bench:
    return Bench.on(device, folders)


@pytest.mark.parametrize(("kind", "name", "settings"), CASES, ids=IDS)
def test_every_operator(here: Bench, there: Bench, kind: str, name: str, settings: dict[str, Any]) -> None:
    made, wanted = there.run(kind, name, settings), here.run(kind, name, settings)
    assert made.sigmas.device == torch.device(there.device)
    torch.testing.assert_close(made.sigmas.cpu(), wanted.sigmas, rtol=1e-9, atol=1e-12)
    for image, same in zip(images_of(made), images_of(wanted), strict=True):
        assert (image.device, image.dtype) == (torch.device(there.device), torch.float32)
        assert image.isfinite().all()
        difference = (image.cpu() - same).abs().flatten()
        assert float(difference.quantile(0.9)) <= NEAR * max(1.0, float(same.abs().max()))


@pytest.mark.parametrize(("kind", "name", "settings"), [CASES[IDS.index(name)] for name in IDS if "tile_morph" in name])
def test_tiles_are_laid_alike_each_time(there: Bench, kind: str, name: str, settings: dict[str, Any]) -> None:
    """What many tiles add to one place comes to the same sum: a device that adds in any order would show here."""
    first, again = (there.run(kind, name, settings) for _ in range(2))
    assert first.details == again.details
    assert all(map(torch.equal, images_of(first), images_of(again)))
