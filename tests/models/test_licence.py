"""What a card says about the licence, and that no card is a crash."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.licence import LARGEST_CARD, NONCOMMERCIAL, Licence, read_licence


def card(folder: Path, front: str, body: str = "# A model\n") -> Licence:
    (folder / "README.md").write_bytes(f"---\n{front}\n---\n{body}".encode())
    return read_licence(folder)


FREE = [
    "openrail++", "openrail", "apache-2.0", "creativeml-openrail-m", "bigscience-openrail-m", "mit", "cc-by-4.0",
    "cc-by-sa-4.0", "cc0-1.0", "ncsa", "bsd-3-clause", "stabilityai-ai-community", "unlicense", "cc-by-nd-4.0",
    "gpl-3.0", "playground-v2dot5-community",
]  # fmt: skip
BOUND = [
    "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-nd-4.0", "CC BY-NC 4.0", "flux-1-dev-non-commercial-license",
    "stabilityai-nc-research-community", "sai-nc-community", "deepfloyd-if-license", "research-only",
    "Non Commercial", "fair-noncommercial-research-license", "research_use_only",
]  # fmt: skip


@pytest.mark.parametrize("name", FREE)
def test_licences_that_allow_commerce(tmp_path: Path, name: str) -> None:
    assert card(tmp_path, f"license: {name}") == Licence(name=name, link=None, noncommercial=False)


@pytest.mark.parametrize("name", BOUND)
def test_licences_that_forbid_it(tmp_path: Path, name: str) -> None:
    assert card(tmp_path, f"license: {name}") == Licence(name=name, link=None, noncommercial=True)


def test_every_pattern_is_needed() -> None:
    import re

    for pattern, reason in NONCOMMERCIAL:
        others = [p for p, _ in NONCOMMERCIAL if p != pattern]
        plain = [re.sub(r"[\s_]+", "-", name.lower()) for name in BOUND]
        assert any(re.search(pattern, n) and not any(re.search(p, n) for p in others) for n in plain), reason


def test_other_is_told_by_its_own_name_and_link(tmp_path: Path) -> None:
    front = "license: other\nlicense_name: flux-1-dev-non-commercial-license\nlicense_link: LICENSE.md\ntags: [a]"
    found = card(tmp_path, front)
    assert found == Licence(name="flux-1-dev-non-commercial-license", link="LICENSE.md", noncommercial=True)
    assert card(tmp_path, "license: other").name == "other"
    assert card(tmp_path, "license_name: mine").name == "mine"


def test_several_licences_are_all_named_and_one_is_enough_to_forbid(tmp_path: Path) -> None:
    front = "license:\n- mit\n- cc-by-nc-4.0\nlicense_link: [one, two]"
    assert card(tmp_path, front) == Licence(name="mit, cc-by-nc-4.0", link="one", noncommercial=True)
    assert not card(tmp_path, "license: [mit, apache-2.0]").noncommercial


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_windows_wrote_it(tmp_path: Path, newline: str, mark: bytes) -> None:
    text = newline.join(["---", "license: mit", "---", "text with --- and", "---", "license: no"])
    (tmp_path / "README.md").write_bytes(mark + text.encode())
    assert read_licence(tmp_path).name == "mit"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"# no front matter\nlicense: mit\n", b"---\nlicense: mit\n", b"---\nlicense: [\n---\n", b"---\n---\n",
        b"---\n- license\n---\n", b"---\nlicense: 3\n---\n", b"---\nlicense: !!python/name:os.system\n---\n",
        b"---\nlicense: 2024-13-45\nx: !!timestamp y\n---\n", b"---\nx: " + b"[" * 5000 + b"\n---\n",
        b"---\nlicense: \n---\n", b"---\nlicense: {mit: 1}\n---\n", b"text\n---\nlicense: mit\n---\n",
        b"---\n" + b"#" * LARGEST_CARD + b"\nlicense: mit\n---\n",
    ],
    ids=range(14),
)  # fmt: skip
def test_a_card_that_is_damaged_or_silent_is_unknown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "README.md").write_bytes(content)
    assert read_licence(tmp_path) == Licence(name="unknown", link=None, noncommercial=False)


def test_no_card_is_unknown(tmp_path: Path) -> None:
    assert read_licence(tmp_path) == Licence()
    (tmp_path / "README.md").mkdir()
    assert read_licence(tmp_path) == Licence()


TAGS = st.sampled_from(
    ["!!int", "!!float", "!!timestamp", "!!binary", "!!set", "!!omap", "&a", "*a", "<<:", "?", "=", ""]
)


@given(front=st.binary(max_size=60), tag=TAGS, value=st.text(max_size=8))
def test_no_front_matter_is_a_crash(
    front: bytes, tag: str, value: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("card")
    for text in (front, f"license: {tag} {value}".encode(errors="replace")):
        (folder / "README.md").write_bytes(b"---\n" + text + b"\n---\n")
        assert isinstance(read_licence(folder), Licence)
