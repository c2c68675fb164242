"""``molstream export``: a run's checkpoint as a folder that can be published."""

import sys
from collections.abc import Sequence

from molstream.cli.command import run_command
from molstream.training.inference.config import ExportConfig

EXAMPLES = (
    "molstream export run_dir=runs/mine",
    "molstream export run_dir=runs/mine output=exports/mine step=2000",
    "molstream export run_dir=runs/mine push=hf://org/name push_tag=v1",
)


def export(config: ExportConfig) -> None:
    """Write the export, push it if asked to, and print its folder and the address of what was pushed."""
    from molstream.training.hubs.source import push_target
    from molstream.training.inference.export import export_run

    # Before the work, which takes longer.
    hub = push_target(config.push, config.push_private, config.push_tag) if config.push else None
    folder = export_run(config)
    print(folder)
    if hub is not None:
        pushed = hub.push(folder, config.push_private, config.push_tag)
        if not pushed.changed:
            print(f"{hub.where} has this export already: nothing was pushed", file=sys.stderr)
        print(pushed.address)


def main(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    return run_command("export", ExportConfig, export, words, examples=EXAMPLES)
