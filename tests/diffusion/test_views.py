"""Views: exact covers whose inverse is derived, against numpy, and the estimates that look through them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.ndimage import label
from torch import Tensor
from torch.nn.functional import avg_pool2d

from pipeline.diffusion.denoisers import Denoiser, each, with_alternating_views, with_views
from pipeline.diffusion.views.catalogue import VIEWS, AnyView
from pipeline.diffusion.views.jigsaw import DERANGEMENTS, jigsaw_cells
from pipeline.diffusion.views.orthogonal import bilinear_rotation, orthogonality_error, require_orthogonal
from pipeline.diffusion.views.view import View
from pipeline.models.gaussian import Gaussian

F64 = torch.float64


def view(written: Any) -> View:
    return TypeAdapter(AnyView).validate_python(written)


CASES: list[tuple[Any, tuple[int, int]]] = [
    ("identity", (5, 7)),
    ("flip_vertical", (5, 7)),
    ("flip_horizontal", (5, 7)),
    ("rotate_90", (11, 11)),
    ("rotate_180", (5, 7)),
    ("rotate_270", (11, 11)),
    ({"name": "rotate", "degrees": -450}, (11, 11)),
    ("negate", (5, 7)),
    ("skew", (13, 7)),
    ({"name": "skew", "factor": -0.7}, (5, 11)),
    ({"name": "patch_permutation", "tiles": 5, "seed": 2}, (35, 15)),
    ({"name": "pixel_permutation", "seed": 9}, (7, 13)),
    ({"name": "jigsaw", "seed": 1}, (28, 28)),
    ({"name": "jigsaw", "pieces": 6, "seed": 2}, (66, 66)),
    ("inner_circle", (13, 17)),
    ({"name": "inner_circle", "radius": 0.5, "turns": 3}, (22, 22)),
    ({"name": "inner_circle", "radius": 9, "turns": 1}, (7, 7)),
    ("square_hinge", (21, 21)),
    ({"name": "square_hinge", "tiles": 2}, (14, 14)),
    ({"name": "rings", "turns": [1, 0, 3, 2, 1]}, (23, 23)),
    ({"name": "rings", "turns": [2, 0]}, (11, 13)),
    ({"name": "block_flips", "tiles": 3}, (15, 21)),
]
every_view = pytest.mark.parametrize(("written", "size"), CASES, ids=str)


def image(height: int, width: int) -> Tensor:
    """`[2, 3, H, W]`, no two numbers alike."""
    return torch.arange(6 * height * width, dtype=torch.float32).reshape(2, 3, height, width) + 1


def test_every_kind_has_a_case() -> None:
    assert {view(written).name for written, _ in CASES} == VIEWS.keys()


@every_view
def test_exact_cover_and_inverse(written: Any, size: tuple[int, int]) -> None:
    v, x = view(written), image(*size)
    before = x.clone()
    seen = v(x)
    assert torch.equal(v.index(*size).sort().values, torch.arange(size[0] * size[1]))
    assert (seen.shape, seen.dtype) == (x.shape, x.dtype)
    assert torch.equal(seen.abs().flatten(2).sort().values, x.flatten(2).sort().values)  # each pixel once
    assert torch.equal(v.inverse(seen), x)
    assert torch.equal(v(v.inverse(x)), x)
    assert torch.equal(x, before)
    assert torch.equal(v(x[1:]), seen[1:])
    assert view(v.model_dump(mode="json")) == v


@every_view
def test_a_view_is_orthogonal(written: Any, size: tuple[int, int]) -> None:
    if size[0] * size[1] < 300:
        assert orthogonality_error(view(written), (1, *size)) < 1e-12


def test_a_view_first_used_without_gradients_passes_them_later() -> None:
    v = view({"name": "pixel_permutation", "seed": 77})
    with torch.inference_mode():
        v(image(3, 5))
    x = image(3, 5).requires_grad_()
    (gradient,) = torch.autograd.grad((v(x) * image(3, 5)).sum(), x)
    assert torch.equal(gradient, v.inverse(image(3, 5)))


def test_some_views_are_no_involutions() -> None:
    """Else a wrong inverse, the view itself, would pass."""
    for written, size in CASES:
        v, x = view(written), image(*size)
        if v.name in ("skew", "patch_permutation", "pixel_permutation", "jigsaw", "square_hinge", "rotate"):
            assert torch.equal(v(v(x)), x) == (v == view("rotate_180")), v


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("identity", lambda a: a),
        ("flip_vertical", np.flipud),
        ("flip_horizontal", np.fliplr),
        ("rotate_90", np.rot90),
        ("rotate_180", lambda a: np.rot90(a, 2)),
        ("rotate_270", lambda a: np.rot90(a, 3)),
        ({"name": "rotate", "degrees": -90}, lambda a: np.rot90(a, -1)),
        ("negate", np.negative),
    ],
)
def test_against_numpy(written: Any, reference: Any) -> None:
    x = image(11, 11)
    np.testing.assert_array_equal(view(written)(x)[1, 2].numpy(), reference(x[1, 2].numpy()))


def test_skew_rolls_columns() -> None:
    a = image(13, 7)[0, 0].numpy()
    rolled = np.stack([np.roll(a[:, j], int(1.5 * (j - 3))) for j in range(7)], axis=1)
    np.testing.assert_array_equal(view("skew")(torch.from_numpy(a)).numpy(), rolled)


def test_blocks_move_whole() -> None:
    a = image(15, 21)[0, 0].numpy()
    hinged = view({"name": "square_hinge", "tiles": 3})(torch.from_numpy(a[:15, :15].copy())).numpy()
    flipped = view({"name": "block_flips", "tiles": 3})(torch.from_numpy(a)).numpy()
    patches = view({"name": "patch_permutation", "tiles": 3, "seed": 4})(torch.from_numpy(a)).numpy()
    blocks = {a[5 * i : 5 * i + 5, 7 * j : 7 * j + 7].tobytes() for i in range(3) for j in range(3)}
    assert {patches[5 * i : 5 * i + 5, 7 * j : 7 * j + 7].tobytes() for i in range(3) for j in range(3)} == blocks
    for i in range(3):
        for j in range(3):
            square, wide = np.s_[5 * i : 5 * i + 5, 5 * j : 5 * j + 5], np.s_[5 * i : 5 * i + 5, 7 * j : 7 * j + 7]
            np.testing.assert_array_equal(hinged[square], np.rot90(a[square], (-1) ** (i + j)))
            np.testing.assert_array_equal(flipped[wide], np.flip(a[wide], (i + j) % 2))


def test_circle_and_rings_pixel_by_pixel() -> None:
    a = image(28, 28)[0, 0].numpy()
    circle = view("inner_circle")(torch.from_numpy(a)).numpy()
    rings = view({"name": "rings", "turns": [1, 2]})(torch.from_numpy(a)).numpy()
    for i in range(28):
        for j in range(28):
            r = ((i - 13.5) ** 2 + (j - 13.5) ** 2) ** 0.5
            assert circle[i, j] == (np.rot90(a, 2) if r <= 10.5 else a)[i, j]
            assert rings[i, j] == np.rot90(a, 1 if r <= 7 else 2 if r <= 14 else 0)[i, j]


# --- the jigsaw ---


@settings(max_examples=25)
@given(half=st.integers(1, 4), cell=st.integers(1, 17))
def test_pieces_interlock(half: int, cell: int) -> None:
    """Each piece is in one part; a quarter turn of the puzzle is the puzzle; nothing crosses the border."""
    pieces, side = 2 * half, 2 * half * cell
    row, column = jigsaw_cells(side, pieces)
    piece = (row * pieces + column).numpy()
    turned_cells = np.rot90(np.arange(pieces * pieces).reshape(pieces, pieces))
    renamed = np.empty(pieces * pieces, dtype=np.int64)
    renamed[turned_cells.flatten()] = np.arange(pieces * pieces)  # the cell that each one lands on
    np.testing.assert_array_equal(renamed[np.rot90(piece)], piece)
    for number in range(pieces * pieces):
        _, parts = label(piece == number)
        assert parts == 1
    if cell >= 5:  # a tab of two pixels or more on every inner edge
        squares = np.arange(side) // cell
        assert (piece != squares[:, None] * pieces + squares).sum() >= 2 * 2 * pieces * (pieces - 1)


def test_tabs_are_wider_behind_the_edge() -> None:
    row, column = jigsaw_cells(28, 4)
    reaching = (row * 4 + column == 0)[0:7, 7:14].long()  # of the first piece, into the cell on its right
    assert reaching.sum(0).tolist() == [1, 3, 1, 0, 0, 0, 0]


def test_all_pieces_of_a_jigsaw_move_and_arrive_whole() -> None:
    v = view({"name": "jigsaw", "pieces": 4, "seed": 5})
    row, column = jigsaw_cells(28, 4)
    before = row * 4 + column
    after = v(before)
    assert len(DERANGEMENTS) == 9
    assert not bool((before == after).any())
    for number in range(16):
        came_from = before[after == number].unique()
        assert len(came_from) == 1  # a place is filled by one piece …
        assert ((after == number) == (before == came_from)).all()  # … entirely
        assert len(before[after == number]) == int((before == number).sum())
    assert not torch.equal(after, view({"name": "jigsaw", "seed": 6})(before))


# --- what is refused ---


@pytest.mark.parametrize(
    ("written", "size", "sentence"),
    [
        ("rotate_90", (5, 7), "view rotate needs a square for a quarter turn, and the images are 5×7"),
        ({"name": "patch_permutation", "tiles": 5}, (28, 28), "needs sides that divide by 5 .tiles.*28×28"),
        ("square_hinge", (28, 28), "square_hinge needs sides that divide by 3"),
        ("square_hinge", (9, 12), "square_hinge needs a square"),
        ("block_flips", (28, 30), "28×30"),
        ("jigsaw", (30, 30), r"jigsaw needs a square whose side divides by 4 \(pieces\)"),
        ("jigsaw", (28, 32), "jigsaw needs a square"),
        ({"name": "inner_circle", "turns": 1}, (6, 8), "inner_circle needs a square for quarter turns"),
        ("rings", (6, 8), "rings needs a square"),
    ],
)
def test_sizes_that_do_not_fit(written: Any, size: tuple[int, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        view(written).index(*size)


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        (
            {"name": "rotate", "degrees": 30},
            r"rotation by 30° is not a view, it is not orthogonal: ‖AAᵀ − I‖ = [01]\.\d+",
        ),
        ({"name": "rotate", "degrees": float("nan")}, "finite number"),
        ({"name": "jigsaw", "pieces": 3}, "multiple of 2"),
        ("swirl", "'swirl'.*identity.*block_flips"),
        ({"name": "rings", "turns": [4]}, "0, 1, 2 or 3"),
        ({"name": "skew", "tiles": 4}, "Extra inputs"),
    ],
)
def test_views_that_there_are_none(written: Any, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        view(written)


def test_orthogonality_error_against_svd() -> None:
    gain = torch.tensor([1.2, 1.0, 0.7], dtype=F64)[:, None, None]
    assert orthogonality_error(lambda x: x * gain, (3, 4, 5)) == pytest.approx(0.51)  # white balance: |0.7² − 1|
    assert orthogonality_error(lambda x: -x, (3, 4, 5)) == 0
    matrix = torch.randn(35, 35, generator=torch.Generator().manual_seed(0), dtype=F64)
    error = orthogonality_error(lambda x: (x.flatten(1) @ matrix.T).reshape(x.shape), (1, 5, 7))
    assert error == pytest.approx(float((torch.linalg.svdvals(matrix) ** 2 - 1).abs().max()))


@pytest.mark.parametrize(
    ("linear_map", "what"),
    [
        (lambda x: bilinear_rotation(x, 45), "rotation by 45°"),
        (lambda x: avg_pool2d(x, 3, 1, 1), "blur"),
        (lambda x: x * 1.01, "white balance"),
    ],
)
def test_what_ships_upstream_as_failures(linear_map: Any, what: str) -> None:
    with pytest.raises(ValueError, match=rf"{what} is not a view.*= [01]\.\d{{3}} on 9×9"):
        require_orthogonal(linear_map, (1, 9, 9), what)


def test_bilinear_rotation_by_90_is_the_view() -> None:
    x = image(11, 11)
    torch.testing.assert_close(bilinear_rotation(x.double(), 90), view("rotate_90")(x).double())


# --- estimates through views ---

SIZE = (2, 6, 6)
VIEWED = ["identity", "rotate_90", {"name": "pixel_permutation", "seed": 1}, "negate"]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def matrix_of(written: Any) -> Tensor:
    """P with `P·x = v(x)` on flat images of `SIZE`, column by column."""
    return torch.stack([view(written)(unit.reshape(SIZE)).flatten() for unit in torch.eye(72, dtype=F64)], dim=1)


def test_with_views_is_the_mean_of_what_each_view_is_denoised_to() -> None:
    """x0 = 1/N Σ Pᵢᵀ Dᵢ(Pᵢ x), by matrices, D by its formula."""
    means, stds = [normal(*SIZE, seed=i) for i in range(4)], [0.3, 1.0, 0.7, 2.0]
    models = [Gaussian(mean=mean, std=std) for mean, std in zip(means, stds, strict=True)]
    x, sigma = normal(3, *SIZE, seed=9), torch.tensor([0.1, 1.0, 7.0], dtype=F64)
    found = with_views(each(*models), [view(written) for written in VIEWED])(x, sigma)
    expected = torch.zeros(3, 72, dtype=F64)
    for row in range(3):
        for written, mean, std in zip(VIEWED, means, stds, strict=True):
            p = matrix_of(written)
            seen = p @ x[row].flatten()
            denoised = (std**2 * seen + sigma[row] ** 2 * mean.flatten()) / (std**2 + sigma[row] ** 2)
            expected[row] += p.T @ denoised / 4
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-12, atol=1e-12)


def test_an_equivariant_model_does_not_notice_its_views() -> None:
    model = Gaussian(mean=0.0, std=0.6)
    x, sigma = normal(3, *SIZE, seed=0), torch.tensor([0.1, 1.0, 7.0], dtype=F64)
    seen = with_views(each(*[model] * 4), [view(written) for written in VIEWED])(x, sigma)
    torch.testing.assert_close(seen, model(x, sigma), rtol=1e-12, atol=1e-12)


def test_alternating_views_take_turns_by_the_schedule_of_each_row() -> None:
    calls: list[int] = []

    def counted(i: int) -> Denoiser:
        model = Gaussian(mean=normal(*SIZE, seed=i), std=0.5)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            calls.append(i)
            return model(x, sigma)

        return denoise

    views, models = [view(written) for written in VIEWED[:3]], [counted(i) for i in range(3)]
    sigmas = torch.tensor([[9.0, 4, 2, 1, 0], [3, 2, 1, 0.5, 0]], dtype=F64)
    x = normal(2, *SIZE, seed=5)
    alternating = with_alternating_views(models, views, sigmas)
    for step in range(4):
        calls.clear()
        found = alternating(x, sigmas[:, step])
        assert calls == [step % 3]  # the others are not even asked
        torch.testing.assert_close(
            found, views[step % 3].inverse(models[step % 3](views[step % 3](x), sigmas[:, step]))
        )
    mixed = alternating(x, torch.tensor([4.0, 1.0], dtype=F64))  # step 1 of the first row, step 2 of the second
    torch.testing.assert_close(mixed[:1], alternating(x, sigmas[:, 1])[:1])
    torch.testing.assert_close(mixed[1:], alternating(x, sigmas[:, 2])[1:])
