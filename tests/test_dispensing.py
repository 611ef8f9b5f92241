"""The queue of shards: nothing lost, nothing twice, only the guilty set aside."""

import random

import pytest

from pipeline.engine.dispensing import Dispenser
from pipeline.streams.asides import Aside


def test_each_shard_is_given_once_in_order() -> None:
    queue = Dispenser(["a", "b", "c"], tries=3)
    assert [queue.give(1), queue.give(2), queue.give(1)] == ["a", "b", "c"]
    assert (queue.held(1), queue.held(2), queue.left, queue.over) == (("a", "c"), ("b",), False, False)
    assert queue.give(2) is None
    for worker, shard in ((1, "a"), (2, "b"), (1, "c")):
        queue.done(worker, shard)
    assert (queue.over, queue.set_aside) == (True, [])


def test_a_suspect_is_alone_and_comes_last() -> None:
    queue = Dispenser("abcd", tries=3)
    assert [queue.give(1), queue.give(1)] == ["a", "b"]
    assert queue.lost(1, "killed") == ("a", "b")
    assert [queue.give(2), queue.give(2)] == ["c", "d"]
    assert queue.give(2) is None  # it holds others
    assert queue.give(3) == "a"
    assert queue.give(3) is None  # it holds a suspect
    queue.done(2, "c")
    queue.done(2, "d")
    assert queue.give(2) == "b"
    queue.done(2, "b")
    queue.done(3, "a")
    assert (queue.over, queue.set_aside) == (True, [])


@pytest.mark.parametrize("tries", [1, 3])
def test_a_shard_that_kills_each_time_is_set_aside(tries: int) -> None:
    queue, workers = Dispenser(["poison", "good"], tries=tries), iter(range(100))
    first = next(workers)
    assert [queue.give(first), queue.give(first)] == ["poison", "good"]
    deaths = 1
    queue.lost(first, "killed")
    while not queue.over:
        worker = next(workers)
        shard = queue.give(worker)
        assert shard is not None
        if shard == "good":
            queue.done(worker, shard)
        else:
            deaths += 1
            queue.lost(worker, f"killed {deaths}")
    assert queue.set_aside == [Aside(shard="poison", tries=max(2, tries), reason=f"killed {max(2, tries)}")]


def test_a_worker_that_leaves_blames_nothing() -> None:
    queue = Dispenser("abc", tries=1)
    queue.give(1)
    queue.give(1)
    queue.put_back(1)
    assert [queue.give(2) for _ in range(4)] == ["a", "b", "c", None]
    assert queue.lost("nobody", "killed") == ()


def test_in_order_a_suspect_does_not_wait() -> None:
    queue = Dispenser("abc", tries=2, in_order=True)
    queue.give(1)
    queue.lost(1, "killed")
    assert [queue.give(2), queue.give(3), queue.give(3)] == ["a", "b", "c"]


def test_a_suspect_stays_one_when_its_worker_leaves() -> None:
    queue = Dispenser("ab", tries=3)
    queue.give(1)
    queue.lost(1, "killed")
    assert [queue.give(2), queue.give(3)] == ["b", "a"]
    queue.put_back(3)
    assert queue.give(2) is None
    assert queue.give(3) == "a"


def test_whatever_dies_the_innocent_are_done_and_the_guilty_aside() -> None:
    for seed in range(200):
        dice = random.Random(seed)
        names = [str(i) for i in range(dice.randrange(1, 12))]
        guilty = {name for name in names if dice.random() < 0.2}
        queue, done, worker = Dispenser(names, tries=3), list[str](), 0
        alive = [-1, -2, -3]
        while not queue.over:
            which = dice.randrange(3)
            for _ in range(dice.randrange(1, 3)):
                queue.give(alive[which])
            held = queue.held(alive[which])
            if not held:
                continue
            if held[0] in guilty:
                worker += 1
                queue.lost(alive[which], "killed")
                alive[which] = worker
            else:
                queue.done(alive[which], held[0])
                done.append(held[0])
        assert sorted(done) == sorted(set(names) - guilty)
        assert sorted(aside.shard for aside in queue.set_aside) == sorted(guilty)


def test_what_somebody_else_claims_is_passed_over() -> None:
    queue = Dispenser("abcd", tries=2, claim=lambda name: name not in "ac")
    assert [queue.give(1), queue.give(2), queue.give(3)] == ["b", "d", None]
    queue.done(1, "b")
    assert not queue.over
    queue.done(2, "d")
    assert queue.over
