"""A web server in front of another one, which answers some requests with an error in its place."""

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "date", "server"}
"""Headers of an answer that are of one connection only."""


@contextmanager
def failing_server(port: int, answer: Callable[[int], int | None]) -> Iterator[tuple[int, list[int]]]:
    """Forward requests to ``port`` of the loopback, but for those that ``answer`` has a status for.

    Args:
        answer: takes the number of the request, from 0, and returns the status to answer with, or None to forward it.

    Yields:
        the port of this server, and the statuses that it has answered with itself.
    """
    failed: list[int] = []
    lock, count = threading.Lock(), iter(range(2**62))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.raw_requestline or not self.parse_request():
                self.close_connection = True
                return
            body = self._body()
            with lock:
                status = answer(next(count))
                if status is not None:
                    failed.append(status)
            if status is None:
                self._forward(body)
            else:
                self._send(status, [], b"")

        def _body(self) -> bytes:
            if self.headers.get("Expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _forward(self, body: bytes) -> None:
            server = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            server.request(self.command, self.path, body, headers)
            found = server.getresponse()
            content = found.read()
            kept = [(name, value) for name, value in found.getheaders() if name.lower() not in HOP_BY_HOP]
            self._send(found.status, kept, content)
            server.close()

        def _send(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            if not any(name.lower() == "content-length" for name, _ in headers):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output short."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], failed
    finally:
        server.shutdown()
        server.server_close()
