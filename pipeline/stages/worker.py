"""What the tasks of one worker process share: its sandbox, and how many molecules go through it at a time."""

import functools

from molstream.pipeline.config import SandboxConfig
from molstream.pipeline.sandbox.parent import Sandbox
from molstream.pipeline.stages.task import SplitTask
from molstream.preprocessing.config import FeaturizeConfig

PORTION = 512
"""Molecules that a task sends through the sandbox at a time, which bounds the memory of the task."""


def task_sandbox(task: SplitTask) -> Sandbox:
    """The sandbox of this process; a new one only if a task has other settings than the one before."""
    scaffolds = task.decontamination is not None and task.decontamination.by == "scaffold"
    return _process_sandbox(task.sandbox, task.featurize, scaffolds)


@functools.lru_cache(maxsize=1)
def _process_sandbox(config: SandboxConfig, featurize: FeaturizeConfig, scaffolds: bool) -> Sandbox:
    """One sandbox per process, since the start of a child costs as much as ten conformers."""
    return Sandbox(config, featurize, scaffolds)
