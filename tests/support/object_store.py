"""An S3 server on the loopback, and an unreliable network in front of it."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import fsspec
import pytest


class Store:
    """A running S3 server with the bucket ``data``."""

    def __init__(self, log: Path, port: int):
        self.log, self.port = log, port

    def put(self, name: str, content: bytes) -> None:
        """Store an object of the bucket ``data``."""
        self._put({name: content})

    def put_folder(self, name: str, folder: Path) -> str:
        """Store the files of a folder; returns its URL."""
        self._put({f"{name}/{file.name}": file.read_bytes() for file in folder.iterdir()})
        return f"s3://data/{name}"

    def _put(self, objects: dict[str, bytes]) -> None:
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        if not system.exists("data"):
            system.mkdir("data")
        for name, content in objects.items():
            system.pipe_file(f"data/{name}", content)

    def fetched(self, name: str) -> int:
        """Number of requests for the content of an object."""
        return len(re.findall(rf'"GET /data/{re.escape(name)} HTTP', self.log.read_text()))


@contextmanager
def serving(folder: Path) -> Iterator[Store]:
    """Run Moto's server in a process on the loopback, and point the S3 backend to it by the environment."""
    pytest.importorskip("moto.server", reason="needs moto[server]")
    pytest.importorskip("s3fs")
    log = folder / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], stdout=stream, stderr=stream
        )
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"Running on http://127.0.0.1:(\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "moto's server does not start"
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
                patch.setenv(name, "us-east-1")
            with endpoint(int(found.group(1))):
                yield Store(log, int(found.group(1)))
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def endpoint(port: int) -> Iterator[None]:
    """Point the S3 backend to a port of the loopback."""
    import s3fs

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def failing_network(port: int, seed: int, share: float) -> Iterator[tuple[int, list[int]]]:
    """Forward a new port to ``port``, but cut every connection: a ``share`` of them at once or in the first answer.

    Other connections are cut after about the size of some shards of a test. Yields the port, and the number of bytes
    after which each connection was to be cut.
    """
    random, cuts = Random(seed), []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, target: socket.socket, most: int) -> None:
        with suppress(OSError):
            while most > 0 and (data := source.recv(4096)):
                target.sendall(data[:most])
                most -= len(data)
        for side in (source, target):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                early = random.choice([0, random.randrange(1, 6000)])
                most = early if random.random() < share else random.randrange(20_000, 80_000)
                server = socket.create_connection(("127.0.0.1", port))
                cuts.append(most)
                threading.Thread(target=pump, args=(client, server, 2**40), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, most), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], cuts
    finally:
        listener.close()
