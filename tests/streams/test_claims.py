"""Claims expire by the clock of whoever looks; clocks of two machines are never compared."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.streams.claims import BEATS, CLAIMS, RELEASE, RUN, SCAN, WHOLE_JOB, Claim, Claims, claims_in, new_owner
from pipeline.streams.names import safe_component, text_of
from pipeline.streams.store import DiskStore, Entry

LEASE = 60.0


class Shelf:
    """What claims need of a store, in memory. `between` is called between the read and the delete of a take-over."""

    def __init__(self) -> None:
        self.files = dict[str, bytes]()

    def read(self, path: str) -> bytes | None:
        return self.files.get(path)

    def put(self, path: str, content: bytes) -> None:
        self.files[path] = content

    def put_if_absent(self, path: str, content: bytes) -> bool:
        return self.files.setdefault(path, content) is content

    def delete(self, path: str) -> None:
        self.files.pop(path, None)

    def list(self, folder: str) -> Iterator[Entry]:
        for path, content in list(self.files.items()):
            if path.startswith(f"{folder}/"):
                yield Entry(path=path, bytes=len(content), mark="")


class Machine:
    """A process on a machine whose clock began at another time than those of others."""

    def __init__(self, shelf: Shelf, began: float) -> None:
        self.began, self.now = began, 0.0
        self.claims = Claims(shelf, new_owner(), lease=LEASE, clock=lambda: self.began + self.now)  # type: ignore[arg-type]


def machines(*began: float) -> tuple[Shelf, list[Machine]]:
    shelf = Shelf()
    return shelf, [Machine(shelf, at) for at in began]


def later(seconds: float, *some: Machine) -> None:
    for machine in some:
        machine.now += seconds


def test_one_of_two_gets_a_name_and_the_other_gets_it_after_its_release() -> None:
    shelf, (a, b) = machines(0, -600)
    assert a.claims.take("x")
    assert a.claims.take("x")  # it is ours already
    assert not b.claims.take("x")
    assert b.claims.take("y")
    (x, y) = claims_in(shelf)  # type: ignore[arg-type]
    assert (x.name, x.owner, x.beat) == ("x", a.claims.owner, 0)
    assert y.place == b.claims.owner.rpartition(":")[0]
    b.claims.release("x")  # not ours
    assert shelf.files.keys() == {f"{CLAIMS}/x.json", f"{CLAIMS}/y.json"}
    a.claims.release("x")
    assert b.claims.take("x")
    assert (a.claims.held, b.claims.held) == (set(), {"x", "y"})


@pytest.mark.parametrize("began", [(0, 300), (300, 0), (1e6, 0)])
def test_clocks_that_disagree_neither_keep_nor_lose_a_claim(began: tuple[float, float]) -> None:
    _, (a, b) = machines(*began)
    assert a.claims.take("x")
    for _ in range(100):
        later(LEASE / BEATS, a, b)
        assert not a.claims.beat()
        assert not b.claims.take("x")
    for _ in range(BEATS):  # a is dead
        assert not b.claims.take("x")
        later(LEASE / BEATS, b)
    assert b.claims.take("x")


def test_a_claim_is_never_taken_for_older_than_it_is() -> None:
    _, (a, b) = machines(0, 0)
    assert a.claims.take("x")
    later(1e4, a, b)
    assert not b.claims.take("x"), "nobody knows how old it is that sees it for the first time"
    a.claims.beat()
    later(1e4, b)  # b sleeps, and a has beaten meanwhile
    assert not b.claims.take("x")
    later(LEASE + 1, b)
    assert b.claims.take("x")


def test_an_owner_that_wakes_up_sees_that_it_has_lost_its_claim_and_leaves_the_other_alone() -> None:
    shelf, (a, b) = machines(0, 0)
    assert a.claims.take("x")
    assert not b.claims.take("x")
    later(LEASE, b)
    assert b.claims.take("x")
    assert a.claims.beat() == {"x"}
    assert not a.claims.beat()
    a.claims.release("x")
    (claim,) = claims_in(shelf)  # type: ignore[arg-type]
    assert claim.owner == b.claims.owner


def test_of_two_that_take_over_at_once_one_learns_that_it_has_lost() -> None:
    shelf, (a, b, c) = machines(0, 0, 0)
    assert a.claims.take("x")
    for other in (b, c):
        assert not other.claims.take("x")
    later(LEASE, b, c)
    read = shelf.read

    def then_b(path: str) -> bytes | None:
        shelf.read = read  # type: ignore[method-assign]
        found = read(path)
        assert b.claims.take("x")  # after c has read, before it deletes
        return found

    shelf.read = then_b  # type: ignore[method-assign]
    assert c.claims.take("x"), "a double claim is possible, and only costs time"
    assert (b.claims.beat(), c.claims.beat()) == ({"x"}, set())
    assert (b.claims.held, c.claims.held) == (set(), {"x"})


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 9}', b"\xff" * 10])
def test_what_is_no_claim_expires_as_one_does(content: bytes) -> None:
    shelf, (a,) = machines(0)
    shelf.put(f"{CLAIMS}/x.json", content)
    assert not a.claims.take("x")
    assert claims_in(shelf) == []  # type: ignore[arg-type]
    later(LEASE, a)
    assert a.claims.take("x")


def test_who_insists_learns_of_an_owner_that_lives_and_outlives_one_that_is_dead() -> None:
    _, (a, b) = machines(0, 1e5)
    assert a.claims.take(WHOLE_JOB)
    slept = list[float]()

    def sleep(seconds: float) -> None:
        later(seconds, a, b)
        slept.append(seconds)
        if len(slept) == 5:
            a.claims.beat()

    living = b.claims.insist(WHOLE_JOB, sleep)
    assert living is not None
    assert (living.owner, living.beat, len(slept)) == (a.claims.owner, 1, 5)
    assert b.claims.insist(WHOLE_JOB, lambda seconds: later(seconds, b)) is None
    assert b.claims.held == {WHOLE_JOB}


def test_who_outlives_an_owner_claims_nothing() -> None:
    shelf, (a, b) = machines(0, 1e5)
    assert b.claims.outlive(WHOLE_JOB, lambda seconds: None) is None
    a.claims.take(WHOLE_JOB)
    living = b.claims.outlive(WHOLE_JOB, lambda seconds: (later(seconds, a, b), a.claims.beat())[0])
    assert living is not None
    assert living.owner == a.claims.owner
    assert b.claims.outlive(WHOLE_JOB, lambda seconds: later(seconds, b)) is None
    assert (shelf.files, b.claims.held) == ({}, set())


def test_the_dead_are_buried_after_a_lease_also_those_who_left_no_claim() -> None:
    shelf, (a, b) = machines(0, 1e5)
    a.claims.take("x")
    assert b.claims.names() == {"x"}
    assert [b.claims.bury("x"), b.claims.bury("y")] == [False, False]
    later(LEASE / 2, b)
    a.claims.beat()
    assert [b.claims.bury("x"), b.claims.bury("y")] == [False, False]
    later(LEASE / 2, b)
    assert [b.claims.bury("x"), b.claims.bury("y")] == [False, True]
    later(LEASE / 2, b)
    assert b.claims.bury("x")
    assert (shelf.files, b.claims.names()) == ({}, set())


def test_who_is_alone_clears_away_what_the_dead_have_left() -> None:
    _, (a, b) = machines(0, 1e5)
    for name in (f"{RUN}a", "x"):
        a.claims.take(name)
    assert b.claims.take(WHOLE_JOB)
    living = b.claims.alone(lambda seconds: (later(seconds, a, b), a.claims.beat())[0])
    assert living is not None
    assert living.owner == a.claims.owner
    assert b.claims.alone(lambda seconds: later(seconds, b)) is None
    assert b.claims.names() == {WHOLE_JOB}


def test_names_of_ours_are_no_shards() -> None:
    for name in (WHOLE_JOB, RELEASE, SCAN, f"{RUN}0123456789abcdef"):
        assert safe_component(name) != name
        with pytest.raises(ValueError, match="is the name of no text"):
            text_of(name)


def test_on_a_disk_a_thread_beats_and_all_is_released(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, tmp_path / ".parts")
    mine, other = (Claims(store, new_owner(), lease=0.4) for _ in range(2))
    with mine.beating():
        assert mine.take("x")
        assert not other.take("x")
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            assert not other.take("x")
            time.sleep(0.02)
        (claim,) = claims_in(store)
        assert claim.beat > 0
        assert claim.held > 0
    assert list(tmp_path.glob("claims/*")) == []
    assert list(tmp_path.glob(".parts/*")) == []


def test_of_many_threads_one_gets_a_name(tmp_path: Path) -> None:
    owners = [Claims(DiskStore(tmp_path, tmp_path / f".parts/{i}"), new_owner(), lease=LEASE) for i in range(4)]
    got = dict[str, list[int]]()
    start = threading.Barrier(len(owners))

    def work(number: int) -> None:
        start.wait()
        for name in map(str, range(20)):
            if owners[number].take(name):
                got.setdefault(name, []).append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(owners))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(some) for some in got.values()] == [1] * 20


def test_a_claim_is_a_record_that_can_be_read_again() -> None:
    shelf, (a,) = machines(0)
    a.claims.take("x")
    content = shelf.files[f"{CLAIMS}/x.json"]
    assert json.loads(content)["version"] == 1
    assert Claim.from_json(content, "x").to_json().encode() == content


class Owners(RuleBasedStateMachine):
    """Machines with clocks of their own that claim, beat, sleep, wake up and die in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf, self.all = machines(0, 1e4, -300)
        self.asleep = set[int]()
        self.time = self.freed = 0.0

    @rule(who=st.integers(0, 2), name=st.sampled_from("xy"))
    def take(self, who: int, name: str) -> None:
        if who not in self.asleep:
            self.all[who].claims.take(name)

    @rule(who=st.integers(0, 2), name=st.sampled_from("xy"))
    def release(self, who: int, name: str) -> None:
        if who not in self.asleep:
            self.all[who].claims.release(name)

    @rule(seconds=st.floats(0.1, LEASE / BEATS))
    def later(self, seconds: float) -> None:
        """Time passes for all machines; those that are awake beat."""
        self.time += seconds
        later(seconds, *self.all)
        for who, machine in enumerate(self.all):
            if who not in self.asleep:
                machine.claims.beat()

    @rule(who=st.integers(0, 2))
    def sleep(self, who: int) -> None:
        self.asleep.add(who)

    @precondition(lambda self: self.asleep)
    @rule()
    def wake(self) -> None:
        """As after SIGCONT: the thread of beats is the first to run."""
        self.all[self.asleep.pop()].claims.beat()

    @invariant()
    def those_who_are_awake_never_hold_the_same(self) -> None:
        held = [name for who, m in enumerate(self.all) if who not in self.asleep for name in m.claims.held]
        assert len(held) == len(set(held))

    @invariant()
    def what_is_held_is_claimed(self) -> None:
        owners = {claim.name: claim.owner for claim in claims_in(self.shelf)}  # type: ignore[arg-type]
        for who, machine in enumerate(self.all):
            if who not in self.asleep:
                assert all(owners[name] == machine.claims.owner for name in machine.claims.held)

    def teardown(self) -> None:
        """Whoever waits gets everything, whatever happened before."""
        latecomer = Machine(self.shelf, 55.0)
        for _ in range(2):
            for name in "xy":
                latecomer.claims.take(name)
            later(LEASE, latecomer)
        assert latecomer.claims.take("x")
        assert latecomer.claims.take("y")


TestOwners = Owners.TestCase
TestOwners.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
