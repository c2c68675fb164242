"""``molstream preprocess input=... output=...``: the command that makes a dataset."""

import sys
from collections.abc import Callable, Sequence

from pipeline.build import build
from pipeline.config import compose
from pipeline.inspect import inspect_dataset
from pipeline.plan import PreprocessConfig
from preprocessing.errors import ConfigError, MolstreamError


def main(argv: Sequence[str]) -> int:
    """The command; exit code 0 done, 1 failed, 2 usage, 130 interrupted (the same command continues)."""

    def work() -> None:
        config = compose("preprocess", PreprocessConfig, argv)
        build(config)
        print(inspect_dataset(config.output))

    return reported(work)


def reported(work: Callable[[], None]) -> int:
    """Do it; its errors go to stderr in a sentence, and become the exit code."""
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
