"""Noise is a function of (salt, key, operator, copy), and of nothing else."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.diffusion.noise import KeyedNoise

SALT = b"0123456789abcdef"
LIKE = torch.empty(3, 2, 5, 7)


def draw(keys: list[str], salt: bytes = SALT, operator: str = "boomerang", copy: int = 0) -> torch.Tensor:
    return KeyedNoise(salt, keys, operator, copy)(LIKE[: len(keys)])


def test_order_and_batch_mates_do_not_matter() -> None:
    assert torch.equal(draw(["a", "b", "c"]), draw(["c", "a", "b"])[[1, 2, 0]])
    assert torch.equal(draw(["a", "b", "c"])[1:2], draw(["b"]))


def test_every_argument_matters() -> None:
    others = [draw(["b"]), draw(["a"], salt=SALT[::-1]), draw(["a"], operator="sdedit"), draw(["a"], copy=1)]
    assert all(not torch.equal(draw(["a"]), other) for other in others)


def test_draws_go_on_and_are_standard_normal() -> None:
    noise = KeyedNoise(SALT, [str(i) for i in range(64)], "boomerang", 0)
    like = torch.empty(64, 3, 16, 16)
    first, second = noise(like), noise(like)
    assert not torch.equal(first, second)
    both = torch.stack([first, second])
    assert abs(both.mean()) < 0.01
    assert abs(both.std() - 1) < 0.01
    assert abs(torch.corrcoef(both.flatten(1))[0, 1]) < 0.01


def test_level_draws_are_apart_from_the_noise() -> None:
    keys = ["a", "b", "c"]
    noise, fresh = KeyedNoise(SALT, keys, "boomerang", 0), KeyedNoise(SALT, keys, "boomerang", 0)
    uniform = noise.uniform()
    assert torch.equal(uniform, fresh.uniform())
    assert torch.equal(noise(LIKE), fresh(LIKE))  # whether or not levels were drawn
    assert len(set(uniform.tolist())) == 3
    many = KeyedNoise(SALT, [str(i) for i in range(4000)], "boomerang", 0).uniform()
    assert abs(many.mean() - 0.5) < 0.02
    assert many.min() >= 0
    assert many.max() < 1


def test_the_global_generator_is_untouched() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    draw(["a", "b"])
    assert torch.equal(before, torch.get_rng_state())


def test_dtype_follows_and_values_do_not() -> None:
    noise = KeyedNoise(SALT, ["a"], "boomerang", 0)(LIKE[:1].double())
    assert noise.dtype == torch.float64
    assert torch.equal(noise.float(), draw(["a"]))


@given(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5), st.text(max_size=5))
def test_parts_do_not_run_into_one_another(key: str, operator: str, key2: str, operator2: str) -> None:
    same = (key, operator) == (key2, operator2)
    assert torch.equal(draw([key], operator=operator), draw([key2], operator=operator2)) == same
