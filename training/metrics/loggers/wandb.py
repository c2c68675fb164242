"""Logger for Weights & Biases, whose client reads server, key and mode from the environment (WANDB_API_KEY etc.)."""

import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from molstream.errors import ConfigError
from molstream.io.private import private_folder
from molstream.training.metrics.loggers.base import GRACE_S, LoggerError, RunDescription, kinds
from molstream.training.metrics.records import NOT_METRICS, Record

if TYPE_CHECKING:
    from wandb import Run, Settings

EXIT_CODE = {"finished": 0, "stopped": 130, "failed": 1}
"""Exit code that W&B shows, by the outcome of the run."""


class WandbLogger:
    """Writes to a run of the project ``run.project``, which it continues by its id.

    W&B rejects steps below the newest one. So a step that is repeated after a crash keeps its first values, which equal
    the new ones since resume is exact. With WANDB_MODE=offline each launch writes a folder with the same run id to
    ``wandb/`` in the run directory. Otherwise the client's files are kept elsewhere, because they contain the address.
    """

    rewinds: ClassVar[bool] = False
    later: ClassVar[str] = "molstream sync run_dir={run}"

    def __init__(self, run: RunDescription):
        self._description = run
        self._run: Run | None = None
        self._failed = False

    @staticmethod
    def check() -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError("log.loggers names wandb, which is not installed: pip install 'molstream[wandb]'.")
        # Without a key the client would prompt for one during the job.
        if not _is_offline() and not _client_module().login(prompt=False, verify=False):
            raise ConfigError(
                "log.loggers names wandb, but there is no key: export WANDB_API_KEY, or run `wandb login`; "
                "WANDB_MODE=offline keeps the records in the run directory until `wandb sync`."
            )

    def open(self, run_id: str, step: int) -> int:
        description, offline = self._description, _is_offline()
        kept = description.folder if offline else private_folder(f"wandb-{run_id}")
        earlier = any((kept / "wandb").glob(f"offline-run-*-{run_id}"))
        config: dict[str, Any] = {**description.parameters, **description.tags}
        wandb = _client_module()
        with self._client():
            if self._failed:
                # The client's service blocks the id of a run that failed; its records are in the client's file.
                wandb.teardown(exit_code=1)
            self._run = run = wandb.init(
                project=description.project,
                id=run_id,
                name=description.name,
                dir=str(kept),
                resume="allow",
                config=config,
                settings=_settings(),
            )
            self._failed = False
            if offline:
                return step if earlier else 0
            # The server lacks records that a client had not uploaded when it died; `run.step` is its next step.
            return min(step, max(0, run.step - 1)) if run.resumed else 0

    def write(self, records: Sequence[Record]) -> None:
        assert self._run is not None
        with self._client():
            for record in records:
                values = {name: value for name, value in record.items() if name not in NOT_METRICS}
                self._run.log(values, step=int(record["step"]))

    def close(self, ended: str) -> None:
        assert self._run is not None
        with self._client():
            self._run.finish(exit_code=EXIT_CODE[ended])

    @contextmanager
    def _client(self) -> Iterator[None]:
        """Convert every exception of the client, internal ones included, into :class:`LoggerError`."""
        try:
            yield
        except Exception as error:
            self._failed = True
            raise LoggerError(kinds(error)) from error


def _client_module() -> ModuleType:
    """Import wandb."""
    # The client would print the address. It reads this variable at import.
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def _is_offline() -> bool:
    """Whether the client is configured to contact no server."""
    return _client_module().setup().settings.mode in ("offline", "dryrun", "disabled")


def _settings() -> "Settings":
    """Settings that keep the client quiet and private, and bound its waiting times."""
    return _client_module().Settings(
        silent=True,
        console="off",
        # By default the client collects user and host names, paths, source code and arguments.
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        allow_val_change=True,
        init_timeout=GRACE_S,
        finish_timeout=GRACE_S,
        finish_timeout_raises=True,
    )
