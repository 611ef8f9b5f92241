"""A web server on this machine that fails as it is told."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Served:
    """One file of the server."""

    content: bytes
    failures: list[int | str] = field(default_factory=list)
    """What the next requests with GET get: a status, `cut` (the body ends early) or `drop` (no answer)."""
    head_failures: list[int | str] = field(default_factory=list)
    """The same for HEAD."""
    ranges: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """The requests, as method and range."""


class Quiet(http.server.ThreadingHTTPServer):
    """Says nothing of clients that hang up."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@contextmanager
def unsteady_server(files: dict[str, Served]) -> Iterator[str]:
    """Yields the URL of a server of these files, which runs until the block ends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *given: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            served = files.get(self.path.partition("?")[0])
            if served is None:
                return self.status(404)
            wanted = self.headers.get("Range", "")
            served.asked.append(f"{self.command} {wanted}".strip())
            queue = served.failures if body else served.head_failures
            failure = queue.pop(0) if queue else None
            if failure == "drop":
                self.close_connection = True
                return None
            if isinstance(failure, int):
                return self.status(failure)
            content, code = served.content, 200
            if wanted and served.ranges:
                first, last = wanted.removeprefix("bytes=").split("-")
                content, code = served.content[int(first) : int(last) + 1], 206
            self.send_response(code)
            if code == 206:
                self.send_header(
                    "Content-Range", f"bytes {first}-{int(first) + len(content) - 1}/{len(served.content)}"
                )
            self.send_header("Content-Length", str(len(content)))
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[: len(content) // 2] if failure == "cut" else content)
                self.close_connection = self.close_connection or failure == "cut"
            return None

        def status(self, code: int) -> None:
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
