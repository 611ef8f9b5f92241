"""`doppel status` tells from the folder of a job alone how far it is, also while others work at it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline.cli import BAD_INPUT, main
from pipeline.commands.status import Status, lines, status
from pipeline.media.output_keys import Shape
from pipeline.streams.asides import Aside, Asides
from pipeline.streams.claims import WHOLE_JOB, Claims
from pipeline.streams.job_records import Counts, Job, ShardRecord
from pipeline.streams.ledger import Ledger
from pipeline.streams.places import open_store

EMPTY = Job(config={}, hashes={}, outputs=Shape(), licences={})
NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(tmp_path / "out")
    with ledger.open(EMPTY):
        return ledger


def done(ledger: Ledger, name: str, minutes: float | None, images: int = 60, quarantined: int = 0) -> None:
    """A finished shard that ended so many minutes after noon and took 20 s."""
    counts = Counts(read=images + quarantined, written=images, images=images, quarantined=quarantined)
    ended = "" if minutes is None else (NOON + timedelta(minutes=minutes)).isoformat(timespec="seconds")
    ledger.commit(
        ShardRecord(
            shard=name, fingerprint="", input_hash="", code="", hashes={}, counts=counts, files={}, seconds=20,
            ended=ended,
        )
    )  # fmt: skip


def test_rates_and_what_is_left_come_from_the_records(ledger: Ledger) -> None:
    ledger.note_input(10)
    for number, minutes in enumerate((0, 55, 58, 59)):
        done(ledger, str(number), minutes, quarantined=number)
    found = status(str(ledger.store.local), NOON + timedelta(hours=1))
    assert (found.finished, found.total, found.complete) == (4, 10, False)
    assert found.counts.in_quarantine == 6
    assert found.images_per_second == pytest.approx(120 / 240)  # of the last 10 minutes; the first for its end only
    assert found.images_per_second_of_one == 3
    assert found.seconds_left == pytest.approx(6 * 60 / 0.5)
    assert Status.from_json(found.to_json(), "") == found
    assert lines(found) == [
        f"{ledger.shown}: 4 of 10 shards done, 0 claimed, 0 set aside; 240 images from 246 samples, 6 in quarantine",
        "0.5 images/s over the last 10 minutes of work",
        "3 images/s of one run, the mean of all shards",
        "about 12 min left (shards left × images of a finished shard, at the rate of late)",
    ]


def test_what_is_not_known_is_not_made_up(ledger: Ledger) -> None:
    found = status(str(ledger.store.local))
    assert (found.total, found.complete, found.seconds_left) == (None, False, None)
    assert (found.images_per_second, found.images_per_second_of_one) == (None, None)
    assert len(lines(found)) == 1
    done(ledger, "a", None)
    done(ledger, "b", 1)
    found = status(str(ledger.store.local))
    assert (found.images_per_second, found.images_per_second_of_one) == (None, 3)
    ledger.note_input(2)
    assert status(str(ledger.store.local)).complete


def test_who_works_where_and_what_is_set_aside(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    place = str(ledger.store.local)
    ledger.note_input(3)
    now = [0.0]
    claims = Claims(open_store(place), "node7:4321:token", lease=60, clock=lambda: now[0])
    for name in (WHOLE_JOB, "%run~token", "b"):
        assert claims.take(name)
    now[0] = 130
    claims.beat()
    Asides(ledger.store).put(Aside(shard="a", tries=3, reason="it was killed by SIGSEGV"))
    found = status(place)
    (running,) = found.running
    assert (running.shard, running.at, running.seconds, running.old) == ("b", "node7:4321", 130, False)
    assert lines(found)[1:] == [
        "  b at node7:4321 for 2 min",
        "  a set aside after 3 tries: it was killed by SIGSEGV",
    ]
    old = status(place, datetime.now(UTC) + timedelta(minutes=10))
    assert old.running[0].old
    assert lines(old)[1] == "  b at node7:4321 for 2 min; no sign of life for 10 min, if its calendar is right"
    ahead = status(place, datetime.now(UTC) - timedelta(minutes=10))
    assert (ahead.running[0].silent, ahead.running[0].old) == (0, False)
    assert main(["status", place, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == 1
    assert told["aside"][0]["shard"] == "a"
    assert "token" not in json.dumps(told)


def test_where_there_is_no_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == BAD_INPUT
    assert capsys.readouterr().err == (
        f"doppel: {tmp_path} holds no doppel job; the folder of output.path is expected\n"
    )
    assert main(["status", "nothing://at/all"]) == BAD_INPUT
