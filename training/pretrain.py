"""Pretraining: ``deepspeed training/pretrain.py data.path=... run_dir=...``, or the same under plain ``python``."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run by path, as the deepspeed launcher does: the repository is not on sys.path then, its training/ folder is.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from molstream.config import compose
from molstream.errors import ConfigError, MolstreamError, TrainingError
from molstream.io.files import FULL
from molstream.training.config import PretrainConfig
from molstream.training.data.datasets import open_data, open_validation
from molstream.training.distributed.context import DistributedContext, end_process, start_processes, stop_processes
from molstream.training.distributed.watchdog import describe_process
from molstream.training.metrics.loggers import check_loggers
from molstream.training.run.directory import RunDirectory
from molstream.training.trainer import Trainer


def pretrain(config: PretrainConfig, context: DistributedContext) -> bool:
    """Run, or continue, the pretraining that ``config`` describes; False when a signal stopped it.

    Raises:
        ConfigError, DataError, CheckpointError: before any training, when something does not fit.
        TrainingError: the loss is lost, or the disk of the run is full.
    """
    data = open_data(config.data)
    run = RunDirectory(config.run_dir)
    run.check(config, data)
    trainer = Trainer(config, context, data, open_validation(config.data, data), run)
    context.barrier()
    if context.rank == 0:
        run.begin(config, data, context)
    context.barrier()
    try:
        return trainer.fit()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise TrainingError(
            f"{error.strerror}: {error.filename}. Make room there: the same command continues from the newest "
            "checkpoint."
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command; exit code 0 done, 1 failed, 2 usage, 130 interrupted with a checkpoint.

    A process that fails among others leaves at once, without a goodbye that they may never answer.
    """
    arguments = [a for a in (sys.argv[1:] if argv is None else argv) if not a.startswith("--local_rank")]
    first = os.environ.get("RANK", "0") == "0"
    context = None
    code = 1
    try:
        config = compose("pretrain", PretrainConfig, arguments)
        if first:
            # The only process that has loggers, and whose environment matters to them.
            check_loggers(config.log.loggers)
        context = start_processes(config.deepspeed.timeout_s)
        code = 0 if pretrain(config, context) else 130
        stop_processes()
    except (ConfigError, TrainingError) as error:
        # All processes find these alike, so one tells; any other error may be known to one process alone.
        code = 2 if isinstance(error, ConfigError) else 1
        if first:
            print(f"error: {error}", file=sys.stderr)
    except MolstreamError as error:
        code = 1
        print(f"error: {error}" if first else f"error: {_who(context)}: {error}", file=sys.stderr)
    finally:
        if context is not None and context.world_size > 1:
            if sys.exc_info()[0] is not None:
                _explain(context)
            end_process(code)
    return code


def _who(context: DistributedContext | None) -> str:
    return describe_process(context) if context else f"rank {os.environ.get('RANK')}"


def _explain(context: DistributedContext) -> None:
    """The traceback of the exception on its way out, and what it means for a process among others."""
    traceback.print_exc()
    print(
        f"error: {describe_process(context)} ends by the exception above. If it tells of a connection, a peer or a "
        "time-out, another process ended first: look for its message. The same command continues from the newest "
        "checkpoint.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    sys.exit(main())
