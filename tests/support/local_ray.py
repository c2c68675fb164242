"""A local Ray inside the tests' process."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from molstream.pipeline.config import RayConfig
from molstream.pipeline.executor.ray import cluster

TOKEN = secrets.token_hex(32)
"""A process can use one token for all its life."""


@contextmanager
def local_ray(num_cpus: int) -> Iterator[None]:
    """A Ray for the body; what is set for it does not reach other tests."""
    handler, environment = signal.getsignal(signal.SIGTERM), dict(os.environ)
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    try:
        with cluster(RayConfig(num_cpus=num_cpus)):
            yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        os.environ.clear()
        os.environ.update(environment)
