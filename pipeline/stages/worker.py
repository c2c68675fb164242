"""What the tasks of one worker process share: its sandbox, and how many molecules go through it at a time."""

import functools

from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.stages.task import SplitTask
from molstream.preprocessing.config import FeaturizeConfig

PORTION = 512
"""Molecules that are sent through the sandbox between two looks at the clock."""


def task_sandbox(task: SplitTask) -> Sandbox:
    """The sandbox of this process, started anew only where a task has other settings than the one before."""
    scaffolds = task.decontamination is not None and task.decontamination.by == "scaffold"
    return _process_sandbox(task.sandbox, task.featurize, scaffolds)


@functools.lru_cache(maxsize=1)
def _process_sandbox(config: SandboxConfig, featurize: FeaturizeConfig, scaffolds: bool) -> Sandbox:
    """This process's sandbox, for all of its tasks: a child costs as much to start as ten conformers."""
    return Sandbox(config, featurize, scaffolds)
