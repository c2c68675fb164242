"""``molstream supervise``: keep a job of many hosts running on those that are left."""

import shlex
from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.errors import ConfigError
from molstream.training.launch.config import SuperviseConfig

EXAMPLES = (
    "molstream supervise deepspeed --hostfile hostfile training/pretrain.py data.path=datasets/mine run_dir=runs/mine",
    "molstream supervise restarts=10 deepspeed --num_accelerators 8 training/pretrain.py data.path=d run_dir=r",
)


USAGE = "molstream supervise [key=value ...] deepspeed [--hostfile FILE ...] training/pretrain.py [key=value ...]"


def supervise(config: SuperviseConfig, words: Sequence[str], job: Sequence[str]) -> int:
    """Run the job until it is done; exit code 0 done, 1 given up, 2 usage, 130 stopped with a checkpoint."""
    from molstream.training.launch.supervisor import Supervisor, parse_command

    return Supervisor(config, parse_command(job), shlex.join(["molstream", "supervise", *words])).run()


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    position = list(words).index("deepspeed") if "deepspeed" in words else len(words)
    own, job = words[:position], words[position + 1 :]

    def run(config: SuperviseConfig) -> int:
        if position == len(words):
            raise ConfigError(f"no job is given: {USAGE}.")
        return supervise(config, words, job)

    return run_command("supervise", SuperviseConfig, run, own, examples=EXAMPLES)
