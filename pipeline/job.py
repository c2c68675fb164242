"""The Ray job: the only module that imports ray. One split is one task; Ray retries lost nodes, never molecules."""

import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pyarrow.parquet as pq

from pipeline.dedupe import keep_first
from pipeline.files import UNFINISHED, exclusive, written_whole
from pipeline.plan import WORK, Plan, PreprocessConfig, RayConfig, make_plan
from pipeline.progress import JobProgress
from pipeline.shards.manifest import NAME as MANIFEST
from pipeline.shards.manifest import Account, Manifest
from pipeline.shards.reader import ShardDataset
from pipeline.stages import (
    DUPLICATES_SCHEMA,
    REJECTED_SCHEMA,
    SplitCommit,
    SplitTask,
    key_split,
    read_commit,
    read_keys,
    write_split,
)
from preprocessing.errors import ConfigError, DataError, MolstreamError

IN_FLIGHT_PER_CPU = 2
"""Tasks that are handed to Ray per core: enough to keep every core busy, few enough to bound the driver's memory."""

OBJECT_STORE_BYTES = 128 << 20
"""Shared memory of a local Ray: only plans and accounts pass through it, molecules never do."""

CONNECT_S = 10.0
"""Patience with a cluster that does not answer."""

Result = TypeVar("Result")


def preprocess(config: PreprocessConfig) -> Manifest:
    """Make the dataset, or what is missing of it; the same bytes however often it was interrupted.

    Raises:
        DataError: an unusable input, or more rejected rows than ``max_rejected_fraction``.
        ConfigError: the output folder holds something else.
    """
    plan = make_plan(config)
    output = Path(config.output)
    with exclusive(output):
        if (output / MANIFEST).is_file():
            print(f"{output} is finished already: nothing to do", file=sys.stderr)
        else:
            _make(plan, config, output)
        shutil.rmtree(output / WORK, ignore_errors=True)
    # Opening it checks that the shards are there.
    return ShardDataset(output).manifest


def _make(plan: Plan, config: PreprocessConfig, output: Path) -> None:
    """Do the work that is missing and commit the dataset."""
    tasks = _tasks(plan, config)
    _clean(output)
    commits = _run(tasks, config)
    _join(tasks, "rejected.parquet", REJECTED_SCHEMA, output)
    _join(tasks, "duplicates.parquet", DUPLICATES_SCHEMA, output)
    manifest = _manifest(plan, config, tasks, commits)
    _bear(manifest, config.max_rejected_fraction, output)
    manifest.write(output)


def _tasks(plan: Plan, config: PreprocessConfig) -> list[SplitTask]:
    output = Path(config.output).resolve()
    return [
        SplitTask(
            index=index,
            split=split,
            folder=str(output),
            work=str(output / WORK),
            container=config.container,
            block_rows=config.block_rows,
            featurize=config.featurize,
            sandbox=config.sandbox,
        )
        for index, split in enumerate(plan.splits)
    ]


def _clean(output: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for folder in (output, output / WORK):
        for stale in folder.glob(UNFINISHED):
            stale.unlink()


def _run(tasks: Sequence[SplitTask], config: PreprocessConfig) -> list[SplitCommit]:
    """Both stages on Ray, and the duplicates between them; Ray is not started when all splits are committed."""
    commits = {task.index: commit for task in tasks if (commit := read_commit(task)) is not None}
    if len(commits) == len(tasks):
        return [commits[task.index] for task in tasks]
    with _ray(config.ray):
        with _progress("standardize", tasks, config) as progress:

            def keyed(task: SplitTask, rejected: int) -> None:
                progress.advance(task.split.rows, {"rows": rejected} if rejected else {})

            _map(key_split, [(task,) for task in tasks], keyed, progress)
        masks = keep_first([read_keys(task) for task in tasks])
        todo = [(task, mask) for task, mask in zip(tasks, masks, strict=True) if task.index not in commits]
        with _progress("conformers", tasks, config) as progress:
            for index in commits:
                progress.skip(tasks[index].split.rows)

            def written(task: SplitTask, commit: SplitCommit) -> None:
                commits[task.index] = commit
                progress.advance(task.split.rows, commit.account.rejected)

            _map(write_split, todo, written, progress)
    return [commits[task.index] for task in tasks]


def _progress(stage: str, tasks: Sequence[SplitTask], config: PreprocessConfig) -> JobProgress:
    return JobProgress(stage, len(tasks), sum(task.split.rows for task in tasks), config.log_interval_s)


@contextmanager
def _ray(config: RayConfig) -> Iterator[None]:
    """A Ray of our own, which leaves nothing behind, or a connection to one that runs.

    Raises:
        ConfigError: no Ray answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if config.address == "local":
        # Ray would write a token to the user's home, and warn about it; one in the environment serves as well.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray
    from ray.exceptions import AuthenticationError

    root = str(Path(__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    runtime_env = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    options: dict[str, Any] = {"runtime_env": runtime_env, "logging_level": "error", "log_to_driver": False}
    with ExitStack() as stack:
        if config.address == "local":
            # A folder of our own: Ray's default belongs to whoever came first on a machine of several users.
            folder = stack.enter_context(TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True))
            options |= {
                "num_cpus": config.num_cpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": folder,
                # Loopback: a Ray of one machine must not depend on, or be reachable through, its network.
                "_node_ip_address": "127.0.0.1",
            }
        try:
            # What Ray itself would look at first.
            address = os.environ.get("RAY_ADDRESS", "auto") if config.address == "auto" else config.address
            if ":" in address:
                # Asked to join what is not there, Ray waits for a minute and then ends the process.
                host, port = address.removeprefix("ray://").rsplit(":", 1)
                socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
            ray.init(address=address, **options)
        except (OSError, ValueError, AuthenticationError) as error:
            raise ConfigError(
                f"ray.address={config.address}: no Ray cluster answers ({error}). Start one (`ray up "
                "infra/cluster.yaml`, or `ray start --head`), or leave the address out to use this machine."
            ) from error
        stack.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            # End as on Ctrl-C; Ray's own handler exits with the code 15.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        yield


def _map(
    function: Callable[..., Result],
    calls: Sequence[tuple[Any, ...]],
    done: Callable[[Any, Result], None],
    progress: JobProgress,
) -> None:
    """Call ``function`` on every tuple as a Ray task; ``done(first argument, result)`` as each one ends."""
    import ray
    from ray.exceptions import RayTaskError

    # Without bound, because only a lost node counts here: an exception in a task is ours, and is raised at once.
    remote = ray.remote(num_cpus=1, max_retries=-1, retry_exceptions=False)(function)
    bound = IN_FLIGHT_PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
    waiting, running = iter(calls), {}
    # Nothing is cancelled on the way out: with its driver, Ray ends the tasks by itself, and a forced cancel that meets
    # the answer of its task aborts the process (a failed check in Ray's task manager).
    while True:
        while len(running) < bound and (call := next(waiting, None)) is not None:
            running[remote.remote(*call)] = call[0]
        if not running:
            return
        finished, _ = ray.wait(list(running), timeout=1.0)
        for reference in finished:
            try:
                result = ray.get(reference)
            except RayTaskError as error:
                if isinstance(error.cause, MolstreamError):
                    raise error.cause from None
                raise
            done(running.pop(reference), result)
        progress.tick()


def _join(tasks: Sequence[SplitTask], kind: str, schema: Any, output: Path) -> None:
    """All splits' rows of one kind in one Parquet file, in input order, one split in memory at a time."""
    with (
        written_whole(output / kind) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for task in tasks:
            table = pq.read_table(task.path(kind))
            if table.num_rows:
                writer.write_table(table)


def _manifest(
    plan: Plan, config: PreprocessConfig, tasks: Sequence[SplitTask], commits: Sequence[SplitCommit]
) -> Manifest:
    status: Counter[str] = Counter()
    histograms: dict[str, Counter[str]] = {}
    for commit in commits:
        status.update(commit.conformer_status)
        for name, histogram in commit.histograms.items():
            histograms.setdefault(name, Counter()).update(histogram)
    settings = plan.record["settings"]
    return Manifest(
        container=config.container,
        block_rows=config.block_rows,
        hydrogens=config.featurize.hydrogens,
        target_names=tuple(config.target_columns),
        config={"featurize": settings["featurize"], "sources": plan.record["sources"], "settings": settings},
        versions=plan.record["versions"],
        counts=Account.total([commit.account for commit in commits]),
        splits=tuple((task.split.name, commit.account) for task, commit in zip(tasks, commits, strict=True)),
        shards=tuple(commit.shard for commit in commits if commit.shard is not None),
        conformer_status=dict(sorted(status.items())),
        histograms={name: dict(sorted(counts.items())) for name, counts in histograms.items()},
    )


def _bear(manifest: Manifest, fraction: float, output: Path) -> None:
    """Make sure that not too many rows were rejected.

    Raises:
        DataError: they were; everything is kept, so that a larger bound finishes at once.
    """
    counts = manifest.counts
    rejected = sum(counts.rejected.values())
    if rejected > fraction * counts.rows_in:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.rejected.items())
        raise DataError(
            f"{rejected} of {counts.rows_in} rows were rejected ({reasons}), more than "
            f"max_rejected_fraction={fraction} allows. They are listed in "
            f"{output / 'rejected.parquet'}. The work is kept: if this is what you expect, give the same command with "
            "a larger max_rejected_fraction and it finishes at once."
        )
    if manifest.num_rows == 0:
        raise DataError(
            f"no molecule of {counts.rows_in} rows is left: a dataset needs one. The reasons are in "
            f"{output / 'rejected.parquet'}."
        )
