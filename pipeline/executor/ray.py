"""Tasks on Ray, in the only module that imports ray. A task that is lost is repeated."""

import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from molstream.config import PACKAGE
from molstream.errors import ConfigError, DataError, MolstreamError
from molstream.pipeline.config import RayConfig
from molstream.pipeline.executor.local import MARK, end_processes, environment, interruptible
from molstream.pipeline.stages.bisect import Attempt, Call, died, survived

IN_FLIGHT_PER_CPU = 2
"""Tasks in flight per core: enough to keep every core busy, few enough to bound the driver's memory."""

OBJECT_STORE_BYTES = 128 << 20
"""Shared memory of a local Ray: only tasks and accounts pass through it, no molecules."""

CONNECT_S = 10.0
"""Seconds to wait for a cluster that does not answer."""

STARTS = 4
"""Attempts to start Ray on this machine; each may take a bit more than half a minute."""

GCS_S = 10
"""Seconds that the first attempt waits for Ray's server, the next ones twice as long each. Ray's C++ waits with the
interpreter locked: no interrupt is seen meanwhile."""

STARTED_WITH = {
    # Every sandbox has its own bound, and the system ends a sandbox first; Ray would end a whole worker.
    "RAY_memory_monitor_refresh_ms": "0",
    # Ray gives up on what does not come up in half a minute.
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_raylet_start_wait_time_s": "120",
}
"""Environment of the processes of a local Ray, unless the user's has other values."""

QUIET: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}


def interrupt_on_sigterm() -> None:
    """Make SIGTERM end the command as Ctrl-C does. Ray changes the handler as it starts and stops: call this again."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextmanager
def cluster(config: RayConfig, prepare: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A Ray for the body: one started on this machine, which leaves nothing behind, or a connection to a running one.

    Args:
        prepare: what every worker of a local Ray does first, before the clock of any stage runs.

    Raises:
        ConfigError: no Ray answers at the address.
        DataError: Ray does not start on this machine.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # The first driver would wait for the first workers, and for ever if one dies as it starts (ray#40131).
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    if config.address == "local":
        # Ray would write a token to the user's home, and warn about it; one in the environment serves as well.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray._private import ray_constants
    from ray.exceptions import RayError

    # Where there are no clusters, Ray takes the loopback as the address of the machine, and listens on nothing else. It
    # reads the variable when it is imported, which may have been long ago.
    ray_constants.ENABLE_RAY_CLUSTER = config.address != "local"
    with ExitStack() as stack:
        if config.address == "local":
            # A folder of our own: Ray's default belongs to whoever came first on a machine of several users.
            folder = stack.enter_context(TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True))
            stack.callback(end_processes, folder)
            _start(config, folder)
        else:
            _join(config.address)
        stack.callback(interrupt_on_sigterm)
        stack.callback(ray.shutdown)
        interrupt_on_sigterm()
        if config.address == "local":
            # What fails here fails again in the tasks, which know how to say it.
            with suppress(RayError):
                ray.get([ray.remote(_do).remote(prepare, (), {}) for _ in range(_num_cpus(ray))])
        yield


def _variables() -> dict[str, str]:
    """Environment of the workers."""
    paths = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


def _start(config: RayConfig, folder: str) -> None:
    """Start Ray on this machine; again if it does not come up, as happens where the machine is very busy.

    Args:
        folder: for its files, which nobody else can enter; also the mark of its processes.

    Raises:
        DataError: it has not come up after STARTS attempts.
    """
    import ray

    def end() -> None:
        end_processes(folder)
        shutil.rmtree(folder, ignore_errors=True)

    started = {name: os.environ.get(name, value) for name, value in STARTED_WITH.items()}
    for attempt in range(1, STARTS + 1):
        begun = time.monotonic()
        patience = {"RAY_gcs_server_port_wait_time_s": str(GCS_S << (attempt - 1))}
        with environment({**started, **patience, **_variables(), MARK: folder}), interruptible(end):
            try:
                ray.init(
                    address="local",
                    num_cpus=config.num_cpus,
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    # Ray opens its own folder to everybody, hence one inside of ours.
                    _temp_dir=str(Path(folder) / str(attempt)),
                    _node_ip_address="127.0.0.1",
                    **QUIET,
                )
                return
            except BaseException as error:
                ray.shutdown()
                end_processes(folder)
                # Ray's own handler of SIGTERM.
                if isinstance(error, SystemExit):
                    raise KeyboardInterrupt from None
                # What does not come up in its time is a plain Exception, or a RuntimeError.
                if type(error) not in (Exception, RuntimeError):
                    raise
                why = " ".join(str(error).split())
        if attempt == STARTS:
            raise DataError(
                f"Ray does not start on this machine, tried {STARTS} times: {why} Nothing has been done yet. Is it "
                "short of memory, of processes, or very busy? `molstream doctor` shows what it has."
            )
        seconds = time.monotonic() - begun
        print(
            f"Ray has not started in {seconds:.0f} s, as happens on a busy machine: attempt {attempt + 1} of {STARTS}",
            file=sys.stderr,
            flush=True,
        )


def _join(address: str) -> None:
    """Connect to a running cluster.

    Raises:
        ConfigError: none answers at the address.
    """
    import ray
    from ray.exceptions import AuthenticationError

    try:
        # Ray itself reads this variable first.
        known = os.environ.get("RAY_ADDRESS", "auto") if address == "auto" else address
        if ":" in known:
            # Where no cluster answers, Ray waits for a minute and then ends the process.
            host, port = known.removeprefix("ray://").rsplit(":", 1)
            socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
        ray.init(address=known, runtime_env={"env_vars": _variables()}, **QUIET)
    except (OSError, ValueError, AuthenticationError) as error:
        raise ConfigError(
            f"ray.address={address}: no Ray cluster answers ({error}). Start one (`ray up "
            "infra/cluster.yaml`, or `ray start --head`), or leave the address out to use this machine."
        ) from error


def run(calls: Iterable[Call], done: Callable[[Call, Any], Iterable[Call]], tick: Callable[[], None]) -> None:
    """Do every call as a Ray task, within :func:`cluster`.

    A bounded number of tasks is in flight. A task whose node is lost is repeated. If the worker of a task dies,
    ``bisect`` searches for the rows that kill it: the function then gets the keyword ``only`` or ``avoid``.

    Args:
        done: called with each call and its result, as it ends; returns the calls that follow from it, which are next.
        tick: called at least once a second.

    Raises:
        MolstreamError, OSError: the first that a task raises.
        DataError: Ray fails, or the workers of a call die for no row in particular.
    """
    import ray
    from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayError, RayTaskError
    from ray.exceptions import WorkerCrashedError as WorkerDiedError

    # One function for all calls: Ray keeps a worker at the function it has, and others would wait.
    remote = ray.remote(num_cpus=1, max_retries=0, retry_exceptions=False)(_do)
    bound = IN_FLIGHT_PER_CPU * _num_cpus(ray)
    waiting, again = iter(calls), deque[Attempt]()
    running: dict[Any, Attempt] = {}
    # Nothing is cancelled on the way out: with its driver, Ray ends the tasks by itself, and a forced cancel that meets
    # the answer of its task aborts the process (a failed check in Ray's task manager).
    while True:
        while len(running) < bound and (attempt := _next(waiting, again)) is not None:
            call = attempt.call
            running[remote.remote(call.function, call.arguments, _keywords(attempt))] = attempt
        if not running:
            return
        finished, _ = ray.wait(list(running), timeout=1.0)
        for reference in finished:
            attempt = running.pop(reference)
            try:
                result = ray.get(reference)
            except (WorkerDiedError, OutOfMemoryError):
                again += died(attempt)
            except (NodeDiedError, ObjectLostError):
                again.append(attempt)
            except RayTaskError as error:
                if isinstance(error.cause, MolstreamError | OSError):
                    raise error.cause from None
                raise
            except RayError as error:
                raise DataError(
                    f"Ray cannot go on: {' '.join(str(error).split())}. The work so far is kept; the same command "
                    "continues."
                ) from error
            else:
                if attempt.only is None:
                    again += map(Attempt, done(attempt.call, result))
                else:
                    again += survived(attempt)
        tick()


def _num_cpus(ray: Any) -> int:
    """Cores of the cluster that we are connected to."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def _do(function: Callable[..., Any], arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Every task."""
    return function(*arguments, **keywords)


def _next(waiting: Iterator[Call], again: deque[Attempt]) -> Attempt | None:
    if again:
        return again.popleft()
    call = next(waiting, None)
    return None if call is None else Attempt(call)


def _keywords(attempt: Attempt) -> dict[str, Any]:
    if attempt.only is not None:
        return {"only": attempt.only}
    return {"avoid": tuple(sorted(attempt.call.culprits))} if attempt.call.culprits else {}
