"""Every oddity that an input may hold, through the real job: nothing lost, nothing twice, nothing outside.

By default each case is written in one output format; the slow tests write it in the others, too.
"""

import zlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.config import validate
from pipeline.engine.planning import make_plan
from pipeline.engine.running import run_job
from pipeline.job.config import JobConfig
from pipeline.job.plan import Plan
from tests import builders, faults

pytest.register_assert_rewrite("tests.corpus.running")

from tests.corpus import CASES, again, running  # noqa: E402
from tests.corpus.case import Case  # noqa: E402


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The plan of a job that passes images through: all cases share what it knows of code, devices and salt."""
    root = tmp_path_factory.mktemp("plan")
    recipe = builders.recipe(builders.shard(root / "a.tar", 1), root / "out", None)
    return make_plan(validate(JobConfig, recipe, "test"))


def mine(case: Case) -> str:
    """The output format that the case is written in by default."""
    return case.outputs[zlib.crc32(case.name.encode()) % len(case.outputs)]


FORMATS = ("webdataset", "parquet", "folder")
PLAIN = ["tar behind a tar", "image turned to the right", "member of JSON", "rows with labels", "folder plain"]
"""Cases that every library reads; keys with dots, say, only we read as they are."""
OTHERS = [
    pytest.param(case, format, id=f"{case.name}-{format}")
    for case in CASES
    for format in case.outputs
    if format != mine(case)
]


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 170


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_oddity(case: Case, tmp_path: Path, plan: Plan) -> None:
    running.run(case, mine(case), tmp_path, plan)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "format"), OTHERS)
def test_oddity_in_the_other_formats(case: Case, format: str, tmp_path: Path, plan: Plan) -> None:
    """There the job also runs twice, and what it wrote is read again."""
    job = running.run(case, format, tmp_path, plan)
    if case.error:
        return
    out = tmp_path / "out"
    again.by_us(case, format, out / "data")
    before = faults.settled(out)
    assert job().complete
    assert faults.difference(faults.settled(out), before) == []


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", PLAIN)
def test_libraries_read_what_was_written(name: str, format: str, tmp_path: Path, plan: Plan) -> None:
    (case,) = (case for case in CASES if case.name == name)
    running.run(case, format, tmp_path, plan)
    again.by_us(case, format, tmp_path / "out" / "data")
    again.by_others(format, tmp_path / "out" / "data", case.written(format))


@pytest.mark.parametrize("format", ["webdataset", "parquet"])
def test_one_key_in_two_shards_is_two_samples(format: str, tmp_path: Path, plan: Plan) -> None:
    """Only a folder has no place for both; see the case of that name."""
    for name in "ab":
        builders.tar(tmp_path / "in" / f"{name}.tar", [("s.png", builders.picture(ord(name)))])
    content = builders.recipe(tmp_path / "in" / "*.tar", tmp_path / "out", None, **{"output.format": format})
    manifest = run_job(replace(plan, config=validate(JobConfig, content, "test")))
    assert (manifest.counts.read, manifest.counts.written) == (2, 2)
    for name in "ab":
        (file,) = (tmp_path / "out" / "data").glob(f"{name}.*")
        found = builders.members_of(file)["s.png"] if format == "webdataset" else pq.read_table(file).to_pylist()[0]
        image = found if isinstance(found, bytes) else found["image"]["bytes"]
        assert running.pixels(image) == running.pixels(builders.picture(ord(name)))
