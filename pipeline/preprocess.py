"""``molstream preprocess input=... output=...``: the command that makes a dataset, or says what that would cost."""

import sys
from collections.abc import Callable, Sequence

from molstream.config import compose
from molstream.errors import ConfigError, DataError, MolstreamError
from molstream.pipeline.build import build
from molstream.pipeline.executor.ray import interrupt_on_sigterm
from molstream.pipeline.plan import PreprocessConfig
from molstream.pipeline.reports.estimate import DryRunConfig, command_line, estimate
from molstream.pipeline.reports.inspect import inspect_dataset

DRY_RUN = "--dry-run"


def main(argv: Sequence[str]) -> int:
    """The command; exit code 0 done, 1 failed, 2 usage, 130 interrupted (the same command continues)."""

    def work() -> None:
        config = compose("preprocess", PreprocessConfig, argv)
        build(config)
        print(inspect_dataset(config.output))

    return reported(lambda: _dry_run(argv) if DRY_RUN in argv else work())


def _dry_run(argv: Sequence[str]) -> None:
    """Say what the job would cost.

    Raises:
        DataError: it would fail, since too many rows are rejected.
    """
    overrides = [argument for argument in argv if argument != DRY_RUN]
    config = compose("preprocess", DryRunConfig, overrides)
    found = estimate(config)
    print(found.text(command_line([item for item in overrides if not item.startswith("sample=")])))
    if found.too_many_rejected:
        rejected = sum(found.sample.rejected.values())
        raise DataError(
            f"{rejected} of the {found.sample.rows} rows that were tried are rejected, more than "
            f"max_rejected_fraction={config.max_rejected_fraction} allows: the job would fail. Look at the examples, "
            "or give a larger max_rejected_fraction."
        )


def reported(work: Callable[[], None]) -> int:
    """Do it; its errors go to stderr in a sentence, and become the exit code. SIGTERM counts as Ctrl-C."""
    interrupt_on_sigterm()
    try:
        work()
    except MolstreamError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    except OSError as error:
        print(f"error: {error}. The same command continues.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    return 0
