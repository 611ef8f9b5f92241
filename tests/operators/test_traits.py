"""What an operator says of itself is what it does."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.diffusion.noise import KeyedNoise
from pipeline.errors import UserError
from pipeline.job.outputs import shape_of
from pipeline.models.gaussian import ClosedForm
from pipeline.operators import DDIB, OPERATORS, Given, Interpolate, Mosaic, Operator, PromptToPrompt, TileMorph
from tests import test_operators as contract
from tests.latent_model import Cells

OPERATOR_CASES = [
    pytest.param(OPERATORS[name](name=name, **settings), id=f"{name}-{i}")
    for name, several in contract.ALL.items()
    for i, settings in enumerate(several)
]
every_setting = pytest.mark.parametrize("operator", OPERATOR_CASES)
CLASSES: dict[str, Any] = {
    "denoise": contract.MODEL.denoise, "levels": contract.LEVELS, "size": (12, 12),
    "by_class": contract.MODEL.by_class, "class_names": contract.MODEL.class_names,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Clips(ClosedForm):
    frames: int = 2
    most_frames: int = 4


def refusal(operator: Operator, model: Any) -> str | None:
    try:
        operator.check(model, None)
    except UserError as error:
        return str(error)
    return None


@every_setting
def test_what_draws_nothing_is_declared_invertible(operator: Operator) -> None:
    """The gate refuses invertible operators: a map without noise is never taken for anonymous."""
    assert operator.stochastic or operator.invertible


@every_setting
def test_keys_of_further_images_can_be_told_apart(operator: Operator) -> None:
    assert shape_of(operator).names == operator.further_images


@every_setting
def test_another_copy_is_another_image_where_it_is_declared(operator: Operator) -> None:
    one, other = (contract.apply(operator, [0, 1], False, copy=copy) for copy in (0, 1))
    walks = bool(one.sigmas[:, 0].any())  # from level 0 there is nothing to draw for
    assert torch.equal(one.pixels, other.pixels) != (operator.stochastic and walks)


def made_of(operator: Operator, model: Any, z: Tensor) -> Tensor:
    guide = contract.GUIDE if "guide" in operator.needs else None
    given = Given(captions=contract.CAPTIONS, labels=contract.LABELS, guide=guide)
    assert operator.invertible
    return operator(model, z, given, KeyedNoise(b"salt", contract.KEYS, operator.name, 0)).pixels


@pytest.mark.parametrize(
    ("model", "there", "back"),
    [
        (contract.MODEL, DDIB(source="a", target="b", steps=60), DDIB(source="b", target="a", steps=60)),
        (
            contract.MODEL,
            Interpolate(condition="a", towards="b", share=1, steps=60),  # type: ignore[arg-type]
            Interpolate(condition="b", towards="a", share=1, steps=60),  # type: ignore[arg-type]
        ),
        (
            contract.PROMPTED,
            PromptToPrompt(source="cat", target="dog", invert=True, guidance=1, steps=200, solver="heun"),  # type: ignore[arg-type]
            PromptToPrompt(source="dog", target="cat", invert=True, guidance=1, steps=200, solver="heun"),  # type: ignore[arg-type]
        ),
    ],
    ids=["ddib", "interpolate", "prompt_to_prompt"],
)
def test_the_operator_itself_undoes_it(model: Any, there: Operator, back: Operator) -> None:
    made = made_of(there, model, contract.Z)
    assert (made - contract.Z).abs().mean() > 0.1, "nothing to be undone"
    assert (made_of(back, model, made) - contract.Z).abs().max() < 0.03


@pytest.mark.parametrize(
    "operator",
    [Mosaic(tiles=4), TileMorph(tiles="pixels", conditions=("a", "b"), source="image", steps=4)],  # type: ignore[arg-type]
    ids=["mosaic", "tile_morph"],
)
def test_moved_tiles_are_all_still_there(operator: Operator) -> None:
    made = made_of(operator, contract.MODEL, contract.Z)
    assert not torch.equal(made, contract.Z)
    assert torch.equal(made.flatten(2).sort(2).values, contract.Z.flatten(2).sort(2).values)


@pytest.mark.parametrize("name", [name for name, kind in OPERATORS.items() if name in contract.SETTINGS])
def test_unmasked_pixels_stay_where_it_is_declared(name: str) -> None:
    operators = [case.values[0] for case in OPERATOR_CASES if case.values[0].name == name]  # type: ignore[union-attr]
    kept, stay = (contract.MASK < 0.5).expand(-1, 3, -1, -1), []
    for operator in operators:
        assert isinstance(operator, Operator)
        takes_mask = "mask" in operator.needs | operator.accepts
        assert takes_mask or not operator.keeps_unmasked
        if takes_mask:
            made = contract.apply(operator, [0, 1, 2], True).pixels
            stay.append(torch.equal(made[kept], contract.Z[kept]))
    assert all(stay) if operators[0].keeps_unmasked else not stay or not all(stay)  # type: ignore[union-attr]


@every_setting
def test_it_is_refused_where_it_says_it_does_not_run(operator: Operator) -> None:
    for model, why in ((Clips(**CLASSES), operator.not_on_clips), (Cells(**CLASSES), operator.not_on_latents)):
        works_on = "latents" if model.space == "latent" else "clips"
        said = refusal(operator, model) or ""
        assert said.endswith(f", and the model works on {works_on}") == (why is not None)
        assert said.startswith(f"operator {operator.name} {why}, ") == (why is not None)
        assert "\n" not in said
    said = refusal(operator, replace(contract.PROMPTED, attention=False)) or ""
    assert ("the model has no attention" in said) == operator.edits_attention
    assert "\n" not in said


@every_setting
def test_tiles_that_move_are_in_the_details(operator: Operator) -> None:
    done = contract.apply(operator, [0, 1], False)
    told = [{"sources", "made"} <= {*row} for row in done.details or [{}]]
    assert all(told) if operator.moves_tiles else not any(told)


@every_setting
def test_the_cheapest_is_one_copy_in_one_step(operator: Operator) -> None:
    once = operator.model_copy(update={"copies": 7}).cheapest()
    assert type(operator).model_validate(once.model_dump(mode="json")) == once
    assert once.copies == 1
    done = contract.apply(once, [0, 1], False)
    assert done.sigmas.shape[1] <= 2
    assert (*done.others, *done.beside) == (*operator.further_images, *operator.images_beside)


@every_setting
def test_all_copies_are_kept_unless_it_selects(operator: Operator) -> None:
    scores = {"before": 0.9, "after": 0.9, "direction": 0.9, "images": 0.9}
    kept = operator.choose([{"scores": scores | {"images": 0.9 - i}} for i in range(3)])
    assert kept == ([0] if operator.selects else [0, 1, 2])


# --- nobody else asks ---

ROOMS = [Path(__file__).resolve().parents[2] / room for room in ("pipeline", "training")]
CONCRETE = {kind.__name__ for kind in OPERATORS.values()}


def questions(tree: ast.AST) -> Iterator[int]:
    """Lines that ask for an operator's class, or look its name up."""

    def of_name(node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "name" and "operator" in ast.unparse(node.value).lower()

    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)) if module.startswith("pipeline.operators"):
                if CONCRETE & {alias.name for alias in node.names}:
                    yield node.lineno
            case ast.Compare() if any(map(of_name, [node.left, *node.comparators])):
                yield node.lineno
            case ast.Subscript() if of_name(node.slice):
                yield node.lineno
            case ast.Call(func=ast.Attribute(attr="get" | "removeprefix" | "startswith")):
                if any(map(of_name, [node.func.value, *node.args])):  # type: ignore[attr-defined]
                    yield node.lineno


@pytest.mark.parametrize(
    "line",
    [
        "from pipeline.operators import Given, DDIB",
        "operator.name == 'ddib'",
        "if self.operator.name not in ONCE: pass",
        "WHY[operator.name]",
        "WHY.get(config.operator.name)",
        "operator.name.startswith('tile')",
    ],
)
def test_a_question_is_found(line: str) -> None:
    assert list(questions(ast.parse(line)))


def test_nobody_asks_for_an_operators_name_or_class() -> None:
    asked = [
        f"{file}:{line}"
        for room in ROOMS
        for file in room.rglob("*.py")
        if file.parent.name != "operators" or file.name.startswith("on_")
        for line in questions(ast.parse(file.read_text()))
    ]
    assert not asked


MOVING = {"anagram", "factorized", "interpolate", "mosaic", "pairs", "tile_morph"}


@every_setting
def test_boxes_are_true_only_where_things_stay_in_place(operator: Operator) -> None:
    """Those that claim it: at the lowest level, or from a whole image, the output lies where the input lay."""
    if operator.name in MOVING:
        assert not operator.keeps_places
    elif operator.name in ("compose", "prompt_to_prompt"):
        from_noise = operator.start.high == 1 and not getattr(operator, "invert", False)  # type: ignore[attr-defined]
        assert operator.keeps_places != from_noise
    else:
        turns = any(s.name == "rotate" for s in (*getattr(operator, "image", ()), *getattr(operator, "latent", ())))
        assert operator.keeps_places != turns
