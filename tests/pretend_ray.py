"""A Ray cluster that is no cluster: actors are threads of this process, and die when a test says so."""

from __future__ import annotations

import pickle
import queue
import threading
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

END = object()


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class ActorDiedError(RayError):
    pass


class Stream:
    """What a streaming method yields: references, here the things themselves."""

    def __init__(self) -> None:
        self.items: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __next__(self) -> Any:
        item = self.items.get()
        if item is END:
            self.items.put(END)
            raise StopIteration
        return item


class Actor:
    def __init__(self, cluster: PretendRay, kind: type) -> None:
        self._cluster, self._self = cluster, kind()
        self.begin, self.dead, self.stream = threading.Event(), False, Stream()
        self.said = list[Any]()

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(
            remote=lambda *given: self._call(method, given),
            options=lambda num_returns: SimpleNamespace(remote=lambda *given: self._start(given)),
        )

    def _call(self, method: str, given: Any) -> Any:
        if not self.dead:
            return getattr(self._self, method)(*pickle.loads(pickle.dumps(given)))
        return None

    def _start(self, given: Any) -> Stream:
        threading.Thread(target=self._stream, args=(pickle.loads(pickle.dumps(given)),), daemon=True).start()
        return self.stream

    def _stream(self, given: Any) -> None:
        self.begin.wait()
        if self._cluster.stillborn:
            self.die()
            return
        for message in self._self.work(*given):
            if self.dead:
                return
            self.said.append(message)
            self.stream.items.put(pickle.loads(pickle.dumps(message)))
            if self._cluster.fatal(self, message):
                self.die()
                return
        self.stream.items.put(END)

    def die(self) -> None:
        if not self.dead:
            self.dead = True
            self.stream.items.put(ActorDiedError("The actor died"))
            self._self.drop()
            self._cluster.fill()


class PretendRay(ModuleType):
    """Stands in for the module `ray`; `slots` actors run at once, and others wait."""

    def __init__(self, slots: int, gpus: int = 0) -> None:
        super().__init__("ray")
        self.slots, self.gpus, self.actors = slots, gpus, list[Actor]()
        self.stillborn = False
        """Whether actors die before they say anything."""
        self.most = 0
        """As many actors were there at once, those that wait among them."""
        self.fatal: Callable[[Actor, Any], bool] = lambda actor, message: False
        """Whether an actor dies once it has said something."""
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    @property
    def living(self) -> list[Actor]:
        return [actor for actor in self.actors if not actor.dead]

    def fill(self) -> None:
        for actor in self.living[: self.slots]:
            actor.begin.set()

    def remote(self, **options: Any) -> Callable[[type], Any]:
        assert options["max_restarts"] == 0
        return lambda kind: SimpleNamespace(remote=lambda: self._new(kind))

    def _new(self, kind: type) -> Actor:
        self.actors.append(Actor(self, kind))
        self.most = max(self.most, len(self.living))
        self.fill()
        return self.actors[-1]

    def wait(
        self, streams: list[Stream], num_returns: int = 1, timeout: float = 0
    ) -> tuple[list[Stream], list[Stream]]:
        until = time.monotonic() + timeout
        while not (ready := [stream for stream in streams if not stream.items.empty()]) and time.monotonic() < until:
            time.sleep(0.002)
        return ready[:num_returns], ready[num_returns:]

    def get(self, reference: Any) -> Any:
        if isinstance(reference, RayError):
            raise reference
        return reference

    def kill(self, actor: Actor) -> None:
        actor.die()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.slots, "GPU": self.gpus} if self.gpus else {"CPU": self.slots}
