"""The run directory: configuration, dataset, environment, commands and log of one pretraining run."""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from molstream.config import load, read_tree, to_yaml
from molstream.errors import CheckpointError, ConfigError, DataError, TrainingError
from molstream.io.files import UNFINISHED, write_atomically
from molstream.io.locks import exclusive
from molstream.io.reading import Natural, read_json
from molstream.io.remote import shown
from molstream.pipeline.order.mixture import Mixture
from molstream.training.checkpoint.store import CheckpointStore, open_store
from molstream.training.checkpoint.upgrade import upgraded
from molstream.training.config import PretrainConfig, differences
from molstream.training.distributed.context import DistributedContext
from molstream.training.optim.schedule import same_so_far

PACKAGES = ("torch", "deepspeed", "torch-geometric", "rdkit", "numpy", "pyarrow", "safetensors", "hydra-core")
COMMAND_VARIABLE = "MOLSTREAM_COMMAND"
"""Environment variable with the command line that the user gave, set by a supervisor that starts this program."""
TRUSTED_VARIABLE = "MOLSTREAM_TRUSTED_URLS"
"""Environment variable with the URLs, or beginnings of them, that the configurations of runs may refer to."""
RESTORE = "Restore it from a copy of the run."
DATASET = {
    "schema_version": int,
    "versions": {"rdkit": str},
    "config": {"featurize": dict},
    "counts": {**dict.fromkeys(("in", "written", "duplicates"), Natural), "rejected": dict[str, Natural]},
    "histograms": dict[str, dict[str, Natural]],
    "fingerprint": str,
}
"""What of a dataset.json is used."""
OWN_FILES = {"environment.json", "dataset.json", "command.txt", "log.txt"}
"""Files that a run may leave behind if it is killed before its config.yaml is written."""


def require_trusted(path: Path, urls: Iterable[str | None]) -> None:
    """Check that the user's environment allows the URLs that a run's configuration names; None is none.

    Raises:
        ConfigError: a URL is neither in :data:`TRUSTED_VARIABLE` nor below one that is.
    """
    beginnings = [text.rstrip("/") for text in os.environ.get(TRUSTED_VARIABLE, "").split()]
    for url in urls:
        if url is not None and not any(url == each or url.startswith(f"{each}/") for each in beginnings if each):
            raise ConfigError(
                f"the configuration of {path} refers to {shown(url)}. The configuration of a run from elsewhere could "
                f"name any address, so that this one is contacted only if you trust it: export {TRUSTED_VARIABLE}="
                f"{shown(url)} (several with spaces between them; the beginning of a URL up to a slash is enough)."
            )


class RunDirectory:
    """Reads and writes the files of a run directory.

    Args:
        path: the run directory, which need not exist.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"

    def config(self) -> PretrainConfig:
        """The configuration that the run was started with.

        Raises:
            ConfigError: the folder has no config.yaml, or this version of molstream cannot read it.
        """
        if not self.config_file.is_file():
            raise ConfigError(
                f"{self.path} is not a run directory: it has no config.yaml. Give the run_dir of a pretraining run."
            )
        tree = read_tree(self.config_file)
        try:
            tree = upgraded(tree)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(
                f"{self.config_file} cannot be used: it looks like one of an older molstream, but has no {error}. "
                "Restore it from a copy; checkpoints have one, too."
            ) from error
        return load(PretrainConfig, tree, str(self.config_file))

    def checkpoints(self, config: PretrainConfig) -> CheckpointStore:
        """The store of the run's checkpoints: at ``config.checkpoint_url``, or in the run directory.

        Args:
            config: given by the user, who has named the URL; :meth:`stored_checkpoints` is for the run's own.
        """
        return open_store(config.checkpoint_url, self.path / "checkpoints")

    def stored_checkpoints(self, config: PretrainConfig) -> CheckpointStore:
        """The same for a run that may be from elsewhere: a URL in its configuration is only contacted with consent.

        Args:
            config: the run's own, see :meth:`config`.

        Raises:
            ConfigError: the user does not trust the URL, see :func:`require_trusted`.
        """
        require_trusted(self.path, [config.checkpoint_url])
        return self.checkpoints(config)

    def dataset(self) -> dict[str, Any]:
        """Description of the training data, as made by :meth:`Mixture.record`.

        Raises:
            DataError: the file is missing or damaged.
        """
        return read_json(self.path / "dataset.json", DATASET, RESTORE)

    def environment(self) -> dict[str, Any]:
        """Package versions, platform and devices of the run's first launch.

        Raises:
            DataError: the file is missing or damaged.
        """
        return read_json(self.path / "environment.json", {"python": str, "packages": dict}, RESTORE)

    @contextmanager
    def locked(self, context: DistributedContext) -> Iterator[None]:
        """Hold the run for one launch (collective): the first process locks the folder, and creates it if need be.

        Raises:
            TrainingError: another launch holds the run; the same on every process.
            OSError: the folder cannot be created; on the other processes a TrainingError.
        """
        with ExitStack() as stack:
            problem: DataError | OSError | None = None
            if context.rank == 0:
                try:
                    stack.enter_context(exclusive(self.path))
                except (DataError, OSError) as error:
                    problem = error
            [failed] = context.any_rank(problem is not None)
            if isinstance(problem, OSError):
                raise problem
            if failed:
                raise TrainingError(str(problem or f"{self.path} is locked by another process."))
            yield

    def check(self, config: PretrainConfig, data: Mixture) -> None:
        """Check that the folder is empty or holds this run. Writes nothing, so that every rank can call it.

        Raises:
            ConfigError: the folder holds a run of another configuration (every differing key is named), or other files.
            CheckpointError: the run was trained on another dataset.
        """
        if not self.config_file.is_file():
            names = {p.name for p in self.path.iterdir()} if self.path.is_dir() else set()
            foreign = {name for name in names - OWN_FILES if not fnmatch(name, UNFINISHED)}
            if foreign:
                names = ", ".join(sorted(foreign)[:5])
                raise ConfigError(f"run_dir={self.path} holds other files ({names}). Give a new or empty folder.")
            return
        old = self.config()
        if changed := differences(old, config):
            raise ConfigError(
                f"{self.path} holds a run of another configuration: {'; '.join(changed)}. "
                "Choose another run_dir, or undo the change; init_from=... starts a new run from its weights."
            )
        if config.steps != old.steps:
            self._check_length(old, config)
        before = self.dataset()["fingerprint"]
        if before != data.fingerprint:
            raise CheckpointError(
                f"{self.path} was trained on the dataset {before[:12]}, but {data.path} is {data.fingerprint[:12]}. "
                "Give the same dataset (for several, the same weights and order), or another run_dir."
            )

    def _check_length(self, old: PretrainConfig, new: PretrainConfig) -> None:
        """Check that the run may have another number of steps.

        Raises:
            ConfigError: fewer steps, or the steps done so far would have had other learning rates.
        """
        change = f"{self.path} is a run of steps={old.steps}, got steps={new.steps}"
        if new.steps < old.steps:
            raise ConfigError(f"{change}: a run cannot be shortened. Give stop_at={new.steps} to stop it earlier.")
        done = max(self.checkpoints(new).steps(), default=0)
        if not new.extend and not same_so_far(new.optim, done, old.steps, new.steps):
            raise ConfigError(
                f"{change}: with optim.schedule={new.optim.schedule} the {done} steps that are done had the learning "
                "rates of the shorter run. Give extend=true to follow the longer schedule from here on, or start a new "
                "run; optim.schedule=wsd lets a run be extended before its decay begins."
            )

    def begin(self, config: PretrainConfig, data: Mixture, context: DistributedContext) -> None:
        """Write the files of a new run, and append the command line to command.txt (rank 0, when locked)."""
        if not self.config_file.is_file():
            for name, record in (("environment.json", _environment(context)), ("dataset.json", data.record())):
                write_atomically(self.path / name, (json.dumps(record, indent=1) + "\n").encode())
            # config.yaml marks a run directory, so it is written last.
            write_atomically(self.config_file, to_yaml(config).encode())
        elif (old := self.config()).steps != config.steps:
            write_atomically(self.config_file, to_yaml(replace(old, steps=config.steps)).encode())
        with (self.path / "command.txt").open("a", encoding="utf-8") as file:
            file.write(command(context) + "\n")

    def log(self, text: str) -> None:
        """Print a line to stderr and append it to log.txt."""
        print(text, file=sys.stderr, flush=True)
        self.keep(text)

    def keep(self, text: str) -> None:
        """Append a line to log.txt; errors of the file system are ignored."""
        # A full disk ends the run when metrics.jsonl is written, with an error of its own.
        with suppress(OSError), (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def command(context: DistributedContext) -> str:
    """The command line that resumes this run with the same number of processes."""
    if outer := os.environ.get(COMMAND_VARIABLE):
        return outer
    program = Path(sys.argv[0]).name
    arguments = [a for a in sys.argv[1:] if not a.startswith("--local_rank")]
    if program in ("molstream", "main.py", "__main__.py"):
        return shlex.join(["molstream", *arguments])
    launcher = ["deepspeed", "--num_accelerators", str(context.world_size)] if context.world_size > 1 else ["python"]
    return shlex.join([*launcher, sys.argv[0], *arguments])


def _environment(context: DistributedContext) -> dict[str, object]:
    """Package versions, platform and devices, for environment.json."""
    return {
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "device": str(context.device.type),
        "world_size": context.world_size,
    }
