"""YAML from whoever wrote it: plain values only, bounded in size and depth, and no key twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import UserError

LARGEST = 1 << 18
"""Bytes of a document, at most."""
MOST_NODES = 20_000
"""Values of a document, at most; what an alias stands for counts each time."""
DEEPEST = 50
"""Levels of mappings and lists in one another, at most; what an alias stands for counts."""


def read_yaml_file(file: Path) -> Any:
    """The content of a YAML file. Raises `UserError` where it cannot be read, or is nothing that may be read."""
    try:
        with open(file, "rb") as handle:
            content = handle.read(LARGEST + 1)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    return parse_yaml(content, str(file))


def parse_yaml(content: str | bytes, where: str) -> Any:
    """The value of a YAML document.

    Raises `UserError`, one sentence that begins with `where`, for text that is not YAML, has a key twice in one
    mapping, or exceeds a bound.
    """
    if len(content) > LARGEST:
        raise UserError(f"{where} has more than {LARGEST} bytes, which is more than a recipe may have")
    try:
        return yaml.load(content, Loader=_PlainLoader)  # a SafeLoader: nothing but plain values
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, OverflowError) as error:
        # PyYAML raises whatever Python does for dates, numbers and tags that are none
        raise UserError(f"{where} is not valid YAML ({' '.join(str(error).split())[:300]})") from None


class _PlainLoader(yaml.SafeLoader):
    """Counts nodes while they are composed, before anything is made of them."""

    def __init__(self, stream: str | bytes) -> None:
        super().__init__(stream)
        self._depth = self._composed = 0
        self._measured: dict[yaml.Node, tuple[int, int]] = {}  # nodes and levels, of each node that is complete

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if node not in self._measured:
                raise yaml.YAMLError("an alias stands for something that it lies in")
            return node
        self._depth += 1
        self._composed += 1
        self._check(self._composed, self._depth)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._measured[node] = self._measure(node)
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
            self._check_keys(node)
        elif isinstance(node, yaml.SequenceNode):
            children = node.value
        below = [self._measured[child] for child in children]
        nodes = 1 + sum(count for count, _ in below)
        levels = 1 + max((level for _, level in below), default=0)
        self._check(nodes, levels)
        return nodes, levels

    def _check(self, nodes: int, levels: int) -> None:
        if nodes > MOST_NODES:
            raise yaml.YAMLError(f"it holds more than {MOST_NODES} values, aliases counted in full")
        if levels > DEEPEST:
            raise yaml.YAMLError(f"it has more than {DEEPEST} levels in one another")

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set[Any]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                value = key.value if key.tag == "tag:yaml.org,2002:merge" else self.construct_object(key)
                if value in seen:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {value!r} stands twice in one mapping, again in line {line}")
                seen.add(value)
