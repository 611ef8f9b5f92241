"""The public docstrings: everything has one, and none is a bare fragment."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [file for package in ("pipeline", "training") for file in sorted((ROOT / package).rglob("*.py"))]
SHORTEST = 12
"""Characters; "K." and "Seconds." say nothing of their own."""
NEVER = re.compile(r"(Of|That|And|Or|But|Its|Beside|Per)\b")
"""A docstring that begins so leans on the name above it."""
WITH_A_COMMA = re.compile(r"(In|By|For|As|At(?! least| most)|To|With|From|On|Over|Until|If|While)\b")
"""A docstring may begin so where a comma and a clause follow: "With `source`, grey images stay grey."."""

Definition = ast.FunctionDef | ast.ClassDef


def is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def definitions(body: list[ast.stmt]) -> Iterator[Definition]:
    """The public functions and classes in a body, with the methods of the classes."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and (node.name[:2] == "__" or node.name[0] != "_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node.body)


def attributes(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    """(name, docstring) of the public constants and fields in a body that have one."""
    for above, below in pairwise(body):
        name = ""
        if isinstance(above, ast.Assign | ast.AnnAssign):
            name = ast.unparse(above.targets[0] if isinstance(above, ast.Assign) else above.target).strip("()")
        if name and not name.startswith("_") and is_text(below):
            yield name, ast.literal_eval(below.value)  # type: ignore[attr-defined]


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name, docstring) of a module and of everything public in it that has one."""
    yield "the module", ast.get_docstring(tree) or ""
    yield from attributes(tree.body)
    for node in definitions(tree.body):
        if text := ast.get_docstring(node):
            yield node.name, text
        if isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{name}", text) for name, text in attributes(node.body))


def fault(text: str) -> str | None:
    """What makes a docstring a bare fragment, or None."""
    first = " ".join(text.strip().split("\n\n")[0].split())
    sentence = re.split(r"[.?] (?=[A-Z`])", first)[0]
    if len(text.strip()) < SHORTEST:
        return "it is too short to say anything"
    if not first.endswith((".", "?", ":", "…")):
        return "its first paragraph does not end like a sentence"
    if NEVER.match(sentence) or (WITH_A_COMMA.match(sentence) and "," not in sentence):
        return f"it begins in the middle of a sentence, {sentence.split()[0]!r}"
    return None


@pytest.mark.parametrize(
    "text",
    [
        "K.", "Seconds.", "`[R]`", "2103.10158, table 1", "Of the contact sheet.", "That the model saw at once.",
        "By deepface's name.", "In half precision: `config.json`.", "For the provenance.", "As in a job; others not.",
        "From transformed rows to encoded samples.", "Its weights, as a hash.", "At the end of a shard.",
    ],
)  # fmt: skip
def test_fragments_are_found(text: str) -> None:
    assert fault(text)


@pytest.mark.parametrize(
    "text",
    [
        "With `source`, grey images stay grey.", "Seconds that a process has.", "At most so many people.",
        "uint8 `[H, W, 3]`, RGB.", "By recogniser, how many faces are within its threshold.",
        "What is wrong with a release?\n\nOf all files, the first.", "The order is:\n\n- one\n- two",
    ],
)  # fmt: skip
def test_sentences_are_let_pass(text: str) -> None:
    assert fault(text) is None


def test_no_public_docstring_is_a_fragment() -> None:
    found = ((file, *named) for file in FILES for named in docstrings(ast.parse(file.read_text())))
    assert [(str(file.relative_to(ROOT)), name, why) for file, name, text in found if (why := fault(text))] == []


def test_public_functions_and_classes_have_docstrings() -> None:
    """A function that only passes needs none."""
    missing = [
        f"{file.relative_to(ROOT)}: {node.name}"
        for file in FILES
        for tree in [ast.parse(file.read_text())]
        for node in definitions(tree.body)
        if node in tree.body and not isinstance(node.body[0], ast.Pass) and ast.get_docstring(node) is None
    ]
    assert missing == []
