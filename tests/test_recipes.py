"""Recipes as files: their kinds, what they extend, and what ships with doppel."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit import AuditConfig
from pipeline.cli import audit_config, build_parser, main
from pipeline.commands.calibrate_faces import CalibrateConfig
from pipeline.commands.edits import EditsConfig
from pipeline.config import dump, load_config
from pipeline.errors import UserError
from pipeline.job.config import JobConfig
from pipeline.recipes import KINDS, SHIPPED, Content, description, merge, read_recipe, read_yaml, shipped
from pipeline.section import Recipe
from tests import builders
from training.calibrate.config import CalibrationConfig
from training.compare.config import CompareConfig
from training.denoiser.config import DenoiserConfig
from training.filter.config import StoreFilterConfig

CLASSES: list[type[Recipe]] = [
    JobConfig, DenoiserConfig, CompareConfig, CalibrationConfig, StoreFilterConfig, EditsConfig, CalibrateConfig,
    AuditConfig,
]  # fmt: skip
BY_KIND = {str(one.model_fields["kind"].default): one for one in CLASSES}
FILES = sorted(SHIPPED.rglob("*.yaml"))


def test_every_kind_has_one_class_and_a_folder() -> None:
    assert BY_KIND.keys() == KINDS.keys() == {path.name for path in SHIPPED.iterdir()}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_shipped_recipes(file: Path) -> None:
    assert load_config(BY_KIND[file.parent.name], file.stem) == load_config(BY_KIND[file.parent.name], str(file))
    assert file.read_text().startswith("# ")
    assert description(file)[-1] in ".?"
    assert len(file.read_text().splitlines()[0]) <= 120


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_resolved_recipe_is_a_recipe_that_extends_nothing(file: Path, tmp_path: Path) -> None:
    config = load_config(BY_KIND[file.parent.name], file.stem)
    (tmp_path / "resolved.yaml").write_text(dump(config))
    content = read_yaml(tmp_path / "resolved.yaml")
    assert content["kind"] == file.parent.name
    assert "extends" not in content
    assert load_config(type(config), str(tmp_path / "resolved.yaml")) == config


def test_the_command_lists_all_by_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    for file in FILES:
        assert f"  {file.stem} " in said
        assert f" {description(file)}\n" in said
    assert len(said.splitlines()) == len(FILES) + len(KINDS)
    assert main(["recipes", "--kind", "compare"]) == 0
    assert capsys.readouterr().out in said
    assert main(["recipes", "--kind", "compares"]) == 2
    assert "--kind is 'compares'; allowed are job, denoiser" in capsys.readouterr().err


def test_an_audit_by_recipe_and_by_options_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    content = {
        "originals": str(tmp_path / "originals"), "release": "there", "output": "private", "salt_file": "salt",
        "identity": "key:(.+)_.*", "fit": "centre 128", "others": "more-*.tar", "model": "unet", "detector": "opencv",
        "recognisers": ["lbph", "small"],
    }  # fmt: skip
    options = ["--out", "private", "--salt-file", "salt", "--identity", "key:(.+)_.*", "--fit", "centre 128"]
    options += ["--others", "more-*.tar", "--model", "unet", "--detector", "opencv", "--recognisers", "lbph", "small"]
    recipe = tmp_path / "audit.yaml"
    recipe.write_text(yaml.safe_dump({"kind": "audit", **content}))
    config = of_audit(str(recipe))
    assert config == of_audit(str(content["originals"]), "there", *options)
    assert config.originals.format == "folder"
    assert config.others is not None
    assert config.others.format == "webdataset"
    bare = of_audit("a.tar", "there")
    assert bare == AuditConfig.model_validate({"originals": "a.tar", "release": "there"})
    recipe.write_text(yaml.safe_dump({"kind": "audit", "originals": content["originals"], "release": "there"}))
    assert of_audit(str(recipe), *options) == config
    changes = ["--set", "workers=0", "--set", "recognisers=[lbph]"]
    assert of_audit(str(recipe), *changes) == of_audit(str(content["originals"]), "there", *changes)
    assert of_audit("lfw_audit").fit == load_config(JobConfig, "lfw_release").image.fit


def of_audit(*arguments: str) -> AuditConfig:
    return audit_config(build_parser().parse_args(["audit", *arguments]))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x.tar", "there", "--identity", "name"], "audit: identity: 'name' does not say where a name is"),
        (
            ["x.tar", "there", "--set", "salt=hunter2hunter2hunter2"],
            "audit: unknown key 'salt' (did you mean 'salt_file'?)",
        ),
        (["x.tar", "there", "--set", "accept=[T2 pixels]"], "accept.0: it is no finding; allowed are "),
        (["x.tar"], "originals need their release behind them"),
        (["ddib"], 'is a recipe of kind job; it belongs to "doppel run"'),
        (["lfw_audit", "--set", "fit=squash"], "lfw_audit.yaml: fit: allowed are resize, crop, pad"),
    ],
)
def test_bad_audits(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert len(complaint.splitlines()) == 1
    assert "hunter" not in complaint


def test_names_are_unique_over_all_folders() -> None:
    assert len(shipped()) == len(FILES) > 60


def test_older_recipes_are_recognised() -> None:
    """Every shipped recipe without its kind is told which it seems to be."""
    for file in FILES:
        content = read_recipe(file, file.parent.name)
        seems = [kind for kind, its in KINDS.items() if its.sections <= content.keys()]
        assert seems[-1] == file.parent.name, file


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: Content | str) -> str:
        file = self.path / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
        return str(file)

    def job(self, name: str, **changes: Any) -> str:
        return self.write(name, builders.recipe("in.tar", Path("out"), Path("model"), **changes))

    def refused(self, name: str, kind: type[Recipe] = JobConfig) -> str:
        with pytest.raises(UserError) as caught:
            load_config(kind, str(self.path / f"{name}.yaml"))
        said = str(caught.value)
        assert "\n" not in said
        assert str(self.path / name) in said
        return said


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_of_another_kind_says_where_it_belongs(kind: str, folder: Folder) -> None:
    for file in (SHIPPED / kind).glob("*.yaml"):
        folder.write("other", file.read_text())
        for name, other in BY_KIND.items():
            if name != kind:
                assert f'of kind {kind}; it belongs to "doppel {KINDS[kind].command}"' in folder.refused("other", other)


def test_a_recipe_of_an_older_version_says_which_line_is_missing(folder: Folder) -> None:
    content = builders.recipe("in.tar", Path("out"), Path("model"))
    del content["kind"]
    folder.write("old", content)
    assert 'add the line "kind: job"' in folder.refused("old")
    folder.write("old", {"something": "else"})
    assert "one of job, denoiser, compare" in folder.refused("old")


@pytest.mark.parametrize(("kind", "said"), [("jop", "(did you mean 'job'?)"), (["job"], "allowed are job, denoiser")])
def test_an_unknown_kind(kind: Any, said: str, folder: Folder) -> None:
    folder.job("odd", kind=kind)
    assert f"unknown kind {kind!r}" in folder.refused("odd")
    assert said in folder.refused("odd")


def test_a_misspelt_name_is_met_with_those_that_come_close() -> None:
    for source in ("ddip", "datasets_cfg/ddib.yaml", "ddib.yml"):
        with pytest.raises(UserError, match=r"did you mean .*ddib") as caught:
            load_config(JobConfig, source)
        assert repr(source) in str(caught.value)
    with pytest.raises(UserError, match=r'"doppel recipes" lists'):
        load_config(JobConfig, "*")


def test_extends_by_name_and_by_path(folder: Folder) -> None:
    folder.job("base/one", **{"operator.guidance": {"scale": 3, "rescale": 0.5}, "limit": 9})
    folder.write("base/two", "kind: job\nextends: one.yaml\noperator: {guidance: {scale: 2}, copies: 3}\n")
    three = folder.write("three", "kind: job\nextends: base/two.yaml\nlimit: null\noperator: {t_boom: [0.2, 0.6]}\n")
    expected = builders.recipe("in.tar", Path("out"), Path("model"), **{
        "operator.guidance": {"scale": 2, "rescale": 0.5}, "operator.copies": 3, "operator.t_boom": [0.2, 0.6],
    })  # fmt: skip
    folder.write("whole", expected)
    assert load_config(JobConfig, three) == load_config(JobConfig, str(folder.path / "whole.yaml"))
    assert load_config(JobConfig, three, ["operator.copies=1"]).operator.copies == 1  # type: ignore[union-attr]
    own = folder.write("own", "kind: job\nextends: demo\noutput: {path: elsewhere}\n")
    demo = load_config(JobConfig, "demo", ["output.path=elsewhere"])
    assert load_config(JobConfig, own) == demo


@pytest.mark.parametrize(
    ("extends", "said"),
    [
        ("ddip", "did you mean"),
        ("nowhere.yaml", "'nowhere.yaml' is neither a file nor a shipped recipe"),
        ("compare_fashion", "which is of kind compare"),
        ("old.yaml", 'add the line "kind: job"'),
        ("odd.yaml", "circle"),
        ("there.yaml", "circle"),
        (["demo"], "the name or the path of one recipe is expected"),
        (None, "the name or the path of one recipe is expected"),
    ],
)
def test_extends_that_cannot_be(extends: Any, said: str, folder: Folder) -> None:
    folder.write("there", "kind: job\nextends: odd.yaml\n")
    folder.write("old", "input: {}\noutput: {}\n")
    folder.write("odd", {"kind": "job", "extends": extends})
    with pytest.raises(UserError) as caught:
        load_config(JobConfig, str(folder.path / "odd.yaml"))
    assert said in str(caught.value)
    assert str(folder.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_variants_differ_from_what_they_extend() -> None:
    """A delta states nothing that its base states alike."""
    for file in FILES:
        content = read_yaml(file)
        if "extends" in content:
            base = read_recipe(shipped()[content["extends"]], file.parent.name)
            del content["extends"], content["kind"]
            for path, value in leaves(content):
                found: Any = base
                for key in path:
                    found = found.get(key) if isinstance(found, dict) else None
                assert found != value or value is None, (file, path)


def leaves(content: Content) -> list[tuple[tuple[str, ...], Any]]:
    return [
        ((key, *path), leaf)
        for key, value in content.items()
        for path, leaf in (leaves(value) if isinstance(value, dict) else [((), value)])
    ]


KEYS = st.sampled_from("abc")
SHAPES = st.recursive(
    st.none(), lambda below: st.fixed_dictionaries({}, optional=dict.fromkeys("abc", below)), max_leaves=9
)
"""`None` where a value stands: contents of one shape have mappings and values in the same places."""
CONTENTS = st.recursive(
    st.integers() | st.lists(st.integers()) | st.none(),
    lambda below: st.dictionaries(KEYS, below, max_size=3), max_leaves=9,
).filter(lambda content: isinstance(content, dict))  # fmt: skip


@st.composite
def of_one_shape(draw: st.DrawFn) -> list[Content]:
    shape = draw(SHAPES.filter(lambda shape: isinstance(shape, dict)))

    def fill(shape: Any) -> Any:
        if shape is None:
            return draw(st.integers() | st.lists(st.integers()))
        return {key: fill(below) for key, below in shape.items() if draw(st.booleans())}

    return [fill(shape) for _ in range(3)]


@given(CONTENTS)
def test_merging_with_nothing_changes_nothing(content: Content) -> None:
    assert merge(content, {}) == merge({}, content) == merge(content, content) == content


@given(CONTENTS, CONTENTS)
def test_the_delta_wins_and_what_it_does_not_name_stays(base: Content, delta: Content) -> None:
    both = merge(base, delta)
    assert both.keys() == base.keys() | delta.keys()
    assert merge(both, delta) == both
    for path, leaf in leaves(delta):
        found: Any = both
        for key in path:
            found = found[key]
        assert found == leaf
    for key in base.keys() - delta.keys():
        assert both[key] == base[key]


@given(of_one_shape())
def test_deltas_can_be_merged_first(contents: list[Content]) -> None:
    base, one, other = contents
    assert merge(merge(base, one), other) == merge(base, merge(one, other))
