"""Processes that each hold one model of deepface, for models that take one image at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from pipeline.errors import UserError

CHUNK = 8
"""Images that a process is given at once: few, so that all processes end at about the same time."""


class ModelProcesses:
    """A pool of processes that each run `pipeline.anonymity.faces.worker`; `close` or any failure ends them all.

    The pools of `multiprocessing` do not serve: their processes import the parent's main script, and torch with it, and
    a daemon, such as an engine's worker, may not start them.
    """

    def __init__(self, task: str, name: str, *, workers: int) -> None:
        """Starts the processes. Raises `UserError` where the model cannot be built."""
        if workers < 1:
            raise UserError(f"{task} {name}: workers is {workers}; a number of processes is expected")
        self.owner = f"{task} {name}"
        self._busy = threading.Lock()
        self._processes: dict[Connection, subprocess.Popen[bytes]] = {}
        weakref.finalize(self, _end, self._processes)
        try:
            for _ in range(workers):
                connection, process = _start(task, name)
                self._processes[connection] = process
            facts: list[tuple[str, int]] = [self._receive(connection) for connection in self._processes]
            self.weights, self.dimensions = facts[0]
        except BaseException:
            self.close()
            raise

    def map(self, items: Sequence[Any]) -> list[Any]:
        """Returns one result for each item, in order.

        Raises `UserError` where a process fails or dies; the pool is closed then.
        """
        with self._busy:
            if not self._processes:
                raise UserError(f"{self.owner}: its processes have ended already")
            try:
                return self._map(items)
            except BaseException:
                self.close()
                raise

    @property
    def ended(self) -> bool:
        """Whether there are no processes any more."""
        return not self._processes

    def close(self) -> None:
        """Ends the processes and waits for them; it may be called more than once."""
        _end(self._processes)

    def _map(self, items: Sequence[Any]) -> list[Any]:
        chunks = [items[i : i + CHUNK] for i in range(0, len(items), CHUNK)]
        done: list[list[Any]] = [[] for _ in chunks]
        waiting, under_way = iter(enumerate(chunks)), {}
        idle = list(self._processes)
        while True:
            for connection, (i, chunk) in zip(idle, waiting, strict=False):
                self._send(connection, chunk)
                under_way[connection] = i
            if not under_way:
                return [result for chunk in done for result in chunk]
            idle = [connection for connection in wait(list(under_way)) if isinstance(connection, Connection)]
            for connection in idle:
                done[under_way.pop(connection)] = self._receive(connection)

    def _send(self, connection: Connection, chunk: Sequence[Any]) -> None:
        try:
            connection.send(chunk)
        except OSError:
            raise self._death(connection) from None

    def _receive(self, connection: Connection) -> Any:
        try:
            sound, content = connection.recv()
        except (EOFError, OSError):
            raise self._death(connection) from None
        if not sound:
            raise UserError(content)
        return content

    def _death(self, connection: Connection) -> UserError:
        process = self._processes[connection]
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        how = f"ended with status {process.poll()}"
        return UserError(f"{self.owner}: a worker process {how}; where memory is short, fewer workers help")


def _end(processes: dict[Connection, subprocess.Popen[bytes]]) -> None:
    for connection, process in processes.items():
        connection.close()
        process.terminate()
    for process in processes.values():
        process.wait()
    processes.clear()


def _start(task: str, name: str) -> tuple[Connection, subprocess.Popen[bytes]]:
    ours, theirs = Pipe()
    # One thread each: there are as many processes as cores.
    threads = {"OMP_NUM_THREADS": "1", "OPENCV_FOR_THREADS_NUM": "1"}
    environment = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    # -P: nothing in the working folder stands for a module.
    command = [sys.executable, "-P", "-m", "pipeline.anonymity.faces.worker", str(theirs.fileno()), task, name]
    with theirs:
        process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
    return ours, process
