"""``molstream pretrain`` and ``deepspeed training/pretrain.py``: start or continue a pretraining run."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from molstream.cli.command import DONE, FAILED, INTERRUPTED, run_command
from molstream.errors import ConfigError, MolstreamError, TrainingError
from molstream.training.config import PretrainConfig

if TYPE_CHECKING:
    from molstream.training.distributed.context import DistributedContext

EXAMPLES = (
    "molstream pretrain data.path=datasets/mine run_dir=runs/mine",
    "deepspeed --num_accelerators 8 training/pretrain.py data.path=datasets/mine run_dir=runs/mine model=base",
    "molstream pretrain experiment=paper data.path=datasets/mine run_dir=runs/paper",
    "molstream pretrain data.path=datasets/mine run_dir=runs/gin model=small model/encoder_2d=gin model.gin.hidden=256",
)


def main(words: Sequence[str] | None = None) -> int:
    """The command; exit code 0 done, 1 failed, 2 usage, 130 interrupted with a checkpoint.

    A process that fails among others leaves at once: its peers may never answer a goodbye.
    """
    words = [word for word in (sys.argv[1:] if words is None else words) if not word.startswith("--local_rank")]
    first = os.environ.get("RANK", "0") == "0"
    context: DistributedContext | None = None

    def run(config: PretrainConfig) -> int:
        nonlocal context
        from molstream.training.distributed.context import start_processes, stop_processes
        from molstream.training.metrics.loggers import check_loggers
        from molstream.training.pretrain import pretrain

        if first:
            # The only process that has loggers, and whose environment matters to them.
            check_loggers(config.log.loggers)
        context = start_processes(config.deepspeed.timeout_s)
        try:
            code = DONE if pretrain(config, context) else INTERRUPTED
            stop_processes()
        except (ConfigError, TrainingError):
            # All processes find these alike: the first one prints it.
            raise
        except Exception as error:
            if context.world_size == 1 or (first and isinstance(error, MolstreamError)):
                raise
            _explain(context, error)
            return FAILED
        return code

    code = run_command("pretrain", PretrainConfig, run, words, examples=EXAMPLES, speaks=first)
    if context is not None and context.world_size > 1:
        from molstream.training.distributed.deepspeed_compat import end_process

        end_process(code)
    return code


def _explain(context: "DistributedContext", error: Exception) -> None:
    """Print what ended a process among others, and which one it is."""
    from molstream.training.distributed.watchdog import describe_process

    if isinstance(error, MolstreamError):
        print(f"error: {describe_process(context)}: {error}", file=sys.stderr)
        return
    traceback.print_exc()
    print(
        f"error: {describe_process(context)} ends by the exception above. If it names a connection, a peer or a "
        "time-out, another process ended first: look for its message. The same command continues from the newest "
        "checkpoint.",
        file=sys.stderr,
    )
