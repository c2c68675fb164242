"""A web server on the loopback that keeps what it is asked for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener:
    """A running server, which answers with the objects that it has, by path without the query."""

    def __init__(self, port: int, objects: dict[str, bytes]):
        self.url, self.objects = f"http://127.0.0.1:{port}", objects
        self.broken = False
        """Whether it answers requests for a content with an error of its own."""
        self.asked: list[str] = []
        """Path and query of every request."""


@contextmanager
def listening(objects: dict[str, bytes] | None = None) -> Iterator[Listener]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            listener.asked.append(self.path)
            content = listener.objects.get(self.path.partition("?")[0])
            self.send_response(500 if listener.broken and self.command == "GET" else 404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", '"one"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content or b"")

        do_HEAD = do_GET  # noqa: N815 - named by the base class

        def log_message(self, format: str, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listener = Listener(server.server_port, objects or {})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
