"""Logger for an MLflow tracking server, whose address is in MLFLOW_TRACKING_URI."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, TypeVar

from molstream.io.mlflow import require_server, set_defaults
from molstream.training.metrics.loggers.base import LoggerError, RunDescription, kinds
from molstream.training.metrics.records import NOT_METRICS, Record

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

RUN_TAG = "molstream.run"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
MAX_METRICS, MAX_PARAMETERS, MAX_VALUE = 1000, 100, 6000
"""The server's limits: metrics and parameters per request, characters per parameter."""
T = TypeVar("T")


class MLflowLogger:
    """Writes to a run of the experiment ``run.project``, which it finds by a tag.

    The server cannot remove values, and plots values that are logged twice as a zigzag. So a step that is repeated
    after a crash keeps its first values, which equal the new ones since resume is exact. Repeating a request whose
    answer was lost is harmless: the server ignores equal values of equal step and time.
    """

    rewinds: ClassVar[bool] = False
    later: ClassVar[str] = "molstream sync run_dir={run}"

    def __init__(self, run: RunDescription):
        self._run = run
        self._client: MlflowClient | None = None
        self._id = ""

    @staticmethod
    def check() -> None:
        require_server("log.loggers names")

    def open(self, run_id: str, step: int) -> int:
        set_defaults()
        from mlflow.entities import Param, RunTag
        from mlflow.tracking import MlflowClient

        with _server():
            self._client = client = MlflowClient()
            experiment = client.get_experiment_by_name(self._run.project)
            where = experiment.experiment_id if experiment else client.create_experiment(self._run.project)
            found = client.search_runs([where], f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
            run = found[0] if found else client.create_run(where, tags={RUN_TAG: run_id}, run_name=self._run.name)
            self._id = run.info.run_id
            client.update_run(self._id, "RUNNING")
            # Parameters cannot be changed; add those that an interrupted request left out.
            names = [name for name in self._run.parameters if name not in run.data.params]
            for part in _parts(names, MAX_PARAMETERS):
                parameters = [Param(name, str(self._run.parameters[name])[:MAX_VALUE]) for name in part]
                client.log_batch(self._id, params=parameters)
            tags = [RunTag(name, value) for name, value in self._run.tags.items()]
            for part in _parts(tags, MAX_PARAMETERS):
                client.log_batch(self._id, tags=part)
        return step if found else 0

    def write(self, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        assert self._client is not None
        metrics = [
            Metric(name, value, int(1000 * record.get("time", 0)), int(record["step"]))
            for record in records
            for name, value in record.items()
            if name not in NOT_METRICS
        ]
        with _server():
            for part in _parts(metrics, MAX_METRICS):
                self._client.log_batch(self._id, metrics=part)

    def close(self, ended: str) -> None:
        assert self._client is not None
        with _server():
            self._client.set_terminated(self._id, STATUS[ended])


@contextmanager
def _server() -> Iterator[None]:
    """Convert the client's exceptions into :class:`LoggerError` with the server's error code."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    try:
        yield
    except MlflowException as error:
        raise LoggerError(f"{error.error_code}, {kinds(error)}") from error
    except (RequestException, OSError) as error:
        raise LoggerError(kinds(error)) from error


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    """Split items into lists of at most ``size``."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part
