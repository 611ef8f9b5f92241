import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor

from training import metrics
from training.classifier.judge import SmallCNN
from training.metrics import FeatureSpace, Prdc, describe, fid, kid, memorised, nearest_training, prdc, vendi


def draw(count: int, width: int = 5, seed: int = 0, *, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale + shift


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestFid:
    @pytest.mark.parametrize("count", [4, 300])  # fewer images than dimensions, and more
    def test_is_the_formula_with_a_matrix_root(self, count: int) -> None:
        real, fake = draw(count, 7).numpy(), draw(count + 3, 7, 1, shift=0.3, scale=1.5).numpy()
        one, other = np.cov(real.T.astype(np.float64)), np.cov(fake.T.astype(np.float64))
        expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
        assert fid(torch.from_numpy(real), torch.from_numpy(fake)) == pytest.approx(expected, rel=1e-4)

    def test_is_torchmetrics(self) -> None:
        module = pytest.importorskip("torchmetrics.image.fid")
        sets = draw(200).double(), draw(300, seed=1, shift=0.5).double()
        (m1, s1), (m2, s2) = ((x.mean(0), torch.cov(x.T)) for x in sets)
        assert fid(*sets) == pytest.approx(module._compute_fid(m1, s1, m2, s2).item())

    def test_closed_form_of_two_gaussians(self) -> None:
        """|μ₁ − μ₂|² + Σ (s₁ − s₂)² for independent dimensions, with the sample's own moments made exact."""
        white = draw(100, 3).double()
        white -= white.mean(0)
        white = white @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(white.T))).T
        one, other = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
        shift = torch.tensor([0.5, -1.0, 0.0])
        expected = float(shift.square().sum() + (one - other).square().sum())
        assert fid(white * one, white.flip(0) * other + shift) == pytest.approx(expected)

    def test_is_a_distance(self) -> None:
        one, other = draw(50), draw(60, seed=1, shift=1)
        assert 0 <= fid(one, one.flip(0)) < 1e-9
        assert fid(one, other) == pytest.approx(fid(other, one))
        turn = torch.linalg.qr(draw(5, seed=2).double()).Q
        assert fid(one.double() @ turn + 3, other.double() @ turn + 3) == pytest.approx(fid(one, other))


class TestKid:
    def test_is_torchmetrics_on_whole_sets(self) -> None:
        module = pytest.importorskip("torchmetrics.image.kid")
        real, fake = draw(40).double(), draw(40, seed=1, shift=0.4).double()
        mean, std = kid(real, fake, generator=rng(), subsets=3)
        assert mean == pytest.approx(module.poly_mmd(real, fake).item())
        assert std < 1e-12  # all subsets are the whole

    def test_by_hand(self) -> None:
        """Two points each, D = 1: k(1,2) = 27, k(0,3) = 1, k(1,0) = k(2,0) = 1, k(1,3) = 64, k(2,3) = 343."""
        real, fake = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [3.0]])
        assert kid(real, fake, generator=rng())[0] == pytest.approx(27 + 1 - 2 * (1 + 1 + 64 + 343) / 4)

    def test_is_unbiased(self) -> None:
        """Nothing on average where the distributions are one, with either sign; much more where they are not."""
        same = [kid(draw(60, seed=i), draw(60, seed=i + 100), generator=rng(), subsets=1)[0] for i in range(40)]
        assert abs(np.mean(same)) < 3 * np.std(same) / 40**0.5
        assert min(same) < 0 < max(same)
        assert kid(draw(60), draw(60, seed=1, shift=1), generator=rng(), subsets=1)[0] > 10 * np.std(same)

    def test_subsets_are_the_generators(self) -> None:
        real, fake = draw(50), draw(70, seed=1)
        assert kid(real, fake, generator=rng(), subset_size=20) == kid(real, fake, generator=rng(), subset_size=20)
        one, other = (kid(real, fake, generator=rng(seed), subset_size=20) for seed in (0, 1))
        assert one != other
        assert one[1] > 0


def brute_prdc(real: Tensor, fake: Tensor, k: int) -> Prdc:
    """The definitions, point by point."""

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b.double()).norm())

    def reach(points: Tensor) -> list[float]:
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    around_real, around_fake = reach(real), reach(fake)
    holders = [sum(distance(r, f) < around for r, around in zip(real, around_real, strict=True)) for f in fake]
    recalled = [any(distance(r, f) < around for f, around in zip(fake, around_fake, strict=True)) for r in real]
    covered = [min(distance(r, f) for f in fake) < around for r, around in zip(real, around_real, strict=True)]
    precision = float(np.mean([h > 0 for h in holders]))
    return Prdc(precision, float(np.mean(recalled)), float(np.mean(holders)) / k, float(np.mean(covered)))


class TestPrdc:
    @pytest.mark.parametrize("block", [1, 50, 1 << 24])
    @pytest.mark.parametrize("k", [1, 3])
    def test_is_the_definition_in_blocks_of_any_size(self, k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics, "BLOCK", block)
        real, fake = draw(23, 2), draw(17, 2, seed=1, shift=0.8, scale=0.6)
        found = prdc(real, fake, k)
        assert asdict(found) == pytest.approx(asdict(brute_prdc(real, fake, k)))
        assert len(set(asdict(found).values())) == 4  # so that no two can be mistaken for each other

    def test_identical_and_disjoint_sets(self) -> None:
        real = draw(40)
        assert prdc(real, real.flip(0)) == Prdc(1, 1, 1, 1)
        assert prdc(real, real + 100) == Prdc(0, 0, 0, 0)

    def test_one_mode_of_two_is_precise_but_not_recalled(self) -> None:
        modes = torch.cat([draw(200, seed=1), draw(200, seed=2, shift=50)])
        found = prdc(modes, draw(200, seed=3))
        assert found.precision > 0.9
        assert found.recall < 0.55
        assert found.coverage < 0.55

    def test_wants_more_images_than_neighbours(self) -> None:
        with pytest.raises(ValueError, match=r"at least 6, not \[5, 5\] and \[9, 5\]"):
            prdc(draw(5), draw(9), 5)


class TestVendi:
    @pytest.mark.parametrize("count", [1, 6])
    def test_alike_and_orthogonal(self, count: int) -> None:
        assert vendi(torch.ones(count, 4)) == pytest.approx(1)
        assert vendi(torch.eye(count) * 3) == pytest.approx(count)

    def test_counts_kinds_whatever_their_length_and_number(self) -> None:
        assert vendi(torch.eye(3).repeat(5, 1) * torch.arange(1, 16)[:, None]) == pytest.approx(3)

    @pytest.mark.parametrize("shape", [(12, 5), (5, 12)])
    def test_is_the_entropy_of_the_kernels_eigenvalues(self, shape: tuple[int, int]) -> None:
        rows = draw(*shape).double()
        unit = rows / rows.norm(dim=1, keepdim=True)
        values = np.linalg.eigvalsh((unit @ unit.T / len(rows)).numpy())
        values = values[values > 1e-12]
        assert vendi(rows) == pytest.approx(np.exp(-(values * np.log(values)).sum()))


class TestMemory:
    def test_nearest_by_brute_force(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(metrics, "BLOCK", 40)
        images, train = draw(13), draw(19, seed=1)
        expected = [min(float((i - t).norm()) for t in train) for i in images]
        assert nearest_training(images, train).tolist() == pytest.approx(expected)

    def test_copies_are_told_from_fresh_images(self) -> None:
        train, held_out, fresh = draw(400), draw(2000, seed=1), draw(2000, seed=2)
        found = memorised(fresh, train, held_out)
        assert found.nearer == pytest.approx(0.5, abs=0.03)
        assert found.copies == pytest.approx(0.01, abs=0.01)
        assert found.distance == pytest.approx(found.distance_held_out, rel=0.05)
        copied = memorised(train + 1e-3, train, held_out)
        assert copied.nearer == copied.copies == 1
        assert copied.distance == pytest.approx(1e-3 * 5**0.5, rel=1e-2)
        half = memorised(torch.cat([train, fresh[:400]]), train, held_out)
        assert half.copies == pytest.approx(0.505, abs=0.01)

    def test_nearer_is_the_share_of_pairs_with_ties_half(self) -> None:
        train, held_out = torch.zeros(1, 1), torch.tensor([[1.0], [2.0], [3.0]])
        assert memorised(torch.tensor([[2.0], [9.0]]), train, held_out).nearer == pytest.approx((1.5 + 0) / 6)


class TestDescribe:
    def test_images_to_json(self) -> None:
        torch.manual_seed(0)
        images = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=rng())
        space = FeatureSpace(name="small CNN with random weights", network=SmallCNN(3).eval(), batch_size=7)
        real, fake, train = space(images[:20]), space(images[20:36]), space(images[36:])
        found = json.loads(json.dumps(describe(real, fake, train, space.name, generator=rng()), allow_nan=False))
        assert found["features"] == "small CNN with random weights"
        assert found["images"] == {"real": 20, "fake": 16, "train": 24}
        assert found["fid"] == fid(real, fake)
        assert found["kid"]["mean"] == kid(real, fake, generator=rng())[0]
        assert found["kid"]["subset_size"] == 16
        assert found["prdc"] == {**asdict(prdc(real, fake)), "k": 5}
        assert found["vendi"] == {"real": vendi(real), "fake": vendi(fake)}
        assert found["nearest_training"] == asdict(memorised(fake, train, real))

    def test_the_network_sees_pixels_from_minus_one_to_one_in_batches(self) -> None:
        class Seen:
            sizes: list[int] = []  # noqa: RUF012

            def features(self, pixels: Tensor) -> Tensor:
                self.sizes.append(len(pixels))
                return pixels.flatten(1)

        images = torch.tensor([0, 255, 51], dtype=torch.uint8).repeat(5, 1)[:, :, None, None]
        features = FeatureSpace(name="pixels", network=Seen(), batch_size=2)(images)
        assert Seen.sizes == [2, 2, 1]
        torch.testing.assert_close(features, torch.tensor([-1, 1, -0.6]).repeat(5, 1))


@pytest.mark.parametrize(
    ("real", "fake", "words"),
    [
        (draw(5), draw(5, 4), r"\[5, 5\] and \[5, 4\]"),
        (draw(1), draw(5), "at least 2"),
        (draw(5).flatten(), draw(5), r"\[25\]"),
        (draw(5), draw(5) * torch.nan, "finite"),
    ],
)
def test_bad_features(real: Tensor, fake: Tensor, words: str) -> None:
    for metric in (fid, lambda real, fake: kid(real, fake, generator=rng())):
        with pytest.raises(ValueError, match=words):
            metric(real, fake)
