"""A run of Weights & Biases; its client finds server, key and mode in the environment (WANDB_API_KEY and others)."""

import importlib.util
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from molstream.errors import ConfigError
from molstream.training.metrics.loggers.base import GRACE_S, LoggerError, RunDescription, kinds
from molstream.training.metrics.records import NOT_METRICS, Record

if TYPE_CHECKING:
    from wandb import Run, Settings

EXIT_CODE = {"finished": 0, "stopped": 130, "failed": 1}


class WandbLogger:
    """A run of the project ``run.project``, continued by its id.

    W&B refuses steps below the newest one: so a step that is done again after a crash keeps its first values, which
    exact resume makes the same. With WANDB_MODE=offline each launch writes a folder of its own into ``wandb/`` of the
    run directory, of the same run id. Otherwise its client's files stay out of it, because they hold the address.
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
        # Without a key its client would ask for one, in the middle of the job.
        if not _is_offline() and not _client_module().login(prompt=False, verify=False):
            raise ConfigError(
                "log.loggers names wandb, but there is no key: export WANDB_API_KEY, or run `wandb login`; "
                "WANDB_MODE=offline keeps the records in the run directory until `wandb sync`."
            )

    def open(self, run_id: str, step: int) -> int:
        description, offline = self._description, _is_offline()
        kept = description.folder if offline else Path(tempfile.gettempdir(), f"molstream-wandb-{run_id}")
        kept.mkdir(exist_ok=True)
        earlier = any((kept / "wandb").glob(f"offline-run-*-{run_id}"))
        config: dict[str, Any] = {**description.parameters, **description.tags}
        wandb = _client_module()
        with self._client():
            if self._failed:
                # Its service keeps the id of a run that failed; whatever the run took is in its file.
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
            # What a client that died had not uploaded, the server does not have: it tells its next step.
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
        """Whatever its client raises, be it an exception of its internals, W&B takes no records now."""
        try:
            yield
        except Exception as error:
            self._failed = True
            raise LoggerError(kinds(error)) from error


def _client_module() -> ModuleType:
    # It would print the address. It reads this when it is imported.
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    return wandb


def _is_offline() -> bool:
    return _client_module().setup().settings.mode in ("offline", "dryrun", "disabled")


def _settings() -> "Settings":
    return _client_module().Settings(
        silent=True,
        console="off",
        # What it would find out by itself holds user and host names, paths, source code and arguments.
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
