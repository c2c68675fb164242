"""A run of Weights & Biases; its client finds server, key and mode in the environment (WANDB_API_KEY and others)."""

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from preprocessing.errors import ConfigError
from training.metrics import NOT_METRICS, Record
from training.sinks.base import GRACE_S, RunDescription, SinkError, kinds

if TYPE_CHECKING:
    from wandb import Run, Settings

EXIT_CODE = {"finished": 0, "stopped": 130, "failed": 1}


class WandbSink:
    """A run of the project ``run.project``, continued by its id; what is not uploaded yet is in ``wandb/``.

    W&B refuses steps below the newest one: so a step that is done again after a crash keeps its first values, which
    exact resume makes the same. With WANDB_MODE=offline each launch writes a folder of its own, of the same run id.
    """

    rewinds: ClassVar[bool] = False
    later: ClassVar[str] = "wandb sync {run}/wandb/*run-*"

    def __init__(self, run: RunDescription):
        self._description = run
        self._run: Run | None = None

    @staticmethod
    def check() -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError("log.sinks names wandb, which is not installed: pip install 'molstream[wandb]'.")
        import wandb

        mode = wandb.setup(settings=_settings()).settings.mode
        # Without a key its client would ask for one, in the middle of the job.
        if mode not in ("offline", "disabled") and not wandb.login(prompt=False, verify=False):
            raise ConfigError(
                "log.sinks names wandb, but there is no key: export WANDB_API_KEY, or run `wandb login`; "
                "WANDB_MODE=offline keeps the records in the run directory until `wandb sync`."
            )

    def open(self, run_id: str, step: int) -> int:
        import wandb

        description = self._description
        earlier = any((description.folder / "wandb").glob(f"offline-run-*-{run_id}"))
        config: dict[str, Any] = {**description.parameters, **description.tags}
        with _client():
            if self._run is not None:
                # It failed. Whatever it took is in its file; the run goes on in a new one.
                self._run.finish(exit_code=1)
            self._run = wandb.init(
                project=description.project,
                id=run_id,
                name=description.name,
                dir=str(description.folder),
                resume="allow",
                config=config,
                settings=_settings(),
            )
            return step if self._run.resumed or (self._run.offline and earlier) else 0

    def write(self, records: Sequence[Record]) -> None:
        assert self._run is not None
        with _client():
            for record in records:
                values = {name: value for name, value in record.items() if name not in NOT_METRICS}
                self._run.log(values, step=int(record["step"]))

    def close(self, ended: str) -> None:
        assert self._run is not None
        with _client():
            self._run.finish(exit_code=EXIT_CODE[ended])
        self._run = None


def _settings() -> "Settings":
    import wandb

    return wandb.Settings(
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
        init_timeout=60,
        finish_timeout=GRACE_S,
        finish_timeout_raises=True,
    )


@contextmanager
def _client() -> Iterator[None]:
    import wandb

    try:
        yield
    except (wandb.Error, OSError) as error:
        raise SinkError(kinds(error)) from error
