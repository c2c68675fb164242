"""What every command is run by: help, configuration, one place for errors, one table of exit codes."""

import errno
import importlib.metadata
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from molstream.cli.help import command_help
from molstream.compose import compose
from molstream.config import known_keys, to_yaml
from molstream.errors import ConfigError, MolstreamError, in_words
from molstream.io.credentials import redacted

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: done; failed; a command line that cannot be run; interrupted, with what was done kept."""

HELP = ("-h", "--help")
EXTRAS = {
    "ray": "preprocess",
    "deepspeed": "train",
    "psutil": "train",
    "tensorboard": "train",
    "matplotlib": "report",
    "jinja2": "report",
    "posebusters": "evaluate",
    "s3fs": "s3",
    "mlflow": "mlflow",
    "wandb": "wandb",
}
"""Optional packages, and the extra of molstream that brings each."""

T = TypeVar("T")


def run_command(
    name: str,
    schema: type[T],
    function: Callable[[T], int | None],
    words: Sequence[str],
    *,
    examples: Sequence[str] = (),
    positional: str | None = None,
    flags: Mapping[str, str] | None = None,
    config_name: str | None = None,
    speaks: bool = True,
) -> int:
    """Run a command by its command line.

    Args:
        name: as it is called, behind ``molstream``.
        schema: configuration of the command, a dataclass made by :func:`molstream.config.configuration`.
        function: does the work; returns an exit code, None for 0.
        words: what stands behind the name: ``key=value``, ``--help [SECTION]``, ``--cfg``, ``--version``.
        examples: command lines for the help.
        positional: key that words without ``=`` are values of.
        flags: options that the caller has handled, with their help.
        config_name: file of ``configs/`` with what is chosen by default; the name by default.
        speaks: whether this process prints errors; of several processes with the same error one should.

    Returns:
        Exit code, see :data:`DONE`.
    """
    file = config_name or name

    def work() -> int | None:
        if any(word in HELP for word in words):
            sections = [word for word in words if word not in HELP and "=" not in word and not word.startswith("-")]
            about = sections[0] if sections else None
            print(command_help(name, file, schema, examples, positional, flags or {}, about))
            return DONE
        if "--version" in words:
            print(version_line())
            return DONE
        settings = [word for word in words if word != "--cfg"]
        if positional is not None:
            settings = _with_positional(settings, schema, positional)
        config = compose(file, schema, settings)
        if "--cfg" in words:
            print(to_yaml(config), end="")
            return DONE
        return function(config)

    return guarded(name, work, speaks=speaks)


def _with_positional(words: Sequence[str], schema: type, positional: str) -> list[str]:
    """The words with plain ones, URLs and names of existing files, as values of the positional key."""
    keys = known_keys(schema)
    plain = [w for w in words if not w.startswith("-") and ("=" not in w or _is_file_name(w, keys))]
    settings = [word for word in words if word not in plain]
    kind = schema.__dataclass_fields__[positional].type  # pyright: ignore[reportAttributeAccessIssue]
    if str(kind).startswith("list"):
        import json

        return settings + ([f"{positional}={json.dumps(plain)}"] if plain else [])
    if len(plain) > 1:
        raise ConfigError(f"unexpected argument '{plain[1]}': expected one {positional}, got {shlex.join(plain)}.")
    return settings + [f"{positional}={word}" for word in plain]


def _is_file_name(word: str, keys: Sequence[str]) -> bool:
    name = word.partition("=")[0]
    # A URL may have an equal sign in its query.
    return "://" in name or (name not in keys and Path(word).exists())


def guarded(name: str, work: Callable[[], int | None], *, speaks: bool = True) -> int:
    """Do the work of a command; whatever a user can cause becomes one message on stderr, and the exit code."""
    try:
        return work() or DONE
    except KeyboardInterrupt:
        _complain("interrupted; run the same command again to continue", speaks)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our stdout (head, less) has gone: not an error, but Python would complain when it exits.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except MolstreamError as error:
        _complain(f"error: {error}", speaks)
        return USAGE if isinstance(error, ConfigError) else FAILED
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        _complain(f"error: '{name}' needs {package}: pip install 'molstream[{EXTRAS[package]}]'.", speaks)
        return FAILED
    except OSError as error:
        _complain(f"error: {os_error(error)}", speaks)
        return FAILED
    except Exception:  # noqa: BLE001 - what is left is a bug, and said to be one
        if speaks:
            traceback.print_exc()
        _complain(
            f"error: '{name}' has met a bug of molstream, not a fault of yours. Please report the lines above with the "
            "command and the output of `molstream doctor`.",
            speaks,
        )
        return FAILED


def _complain(text: str, speaks: bool) -> None:
    if speaks:
        print(_printable(redacted(text)), file=sys.stderr, flush=True)


def _printable(text: str) -> str:
    """The text with escapes for what would break a line or steer a terminal, as a damaged file's content may."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


ADVICE = {
    errno.ENOSPC: "Make room there and run the same command again.",
    errno.EDQUOT: "Make room there and run the same command again.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.EACCES: "Choose a place that you may read and write, or change its permissions.",
    errno.EPERM: "Choose a place that you may read and write, or change its permissions.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file, not a folder.",
    errno.EISDIR: "Give the path of a file, not of a folder.",
    errno.EEXIST: "There is a file where a folder is expected: choose another path.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


def os_error(error: OSError) -> str:
    """What the system could not do, where, and what to do."""
    where = f"{error.filename}: " if error.filename else ""
    # Libraries put the whole story into the text, with temporary names; the system's words are enough.
    what = os.strerror(error.errno) if error.errno in ADVICE else in_words(error.strerror or error)
    return f"{where}{what[:1].lower()}{what[1:]}. {ADVICE.get(error.errno or 0, 'Run the same command again.')}"


def version_line() -> str:
    """``molstream 0.1.0``, as ``--version`` prints it."""
    return f"molstream {importlib.metadata.version('molstream')}"


def run_choice(
    name: str, summaries: Mapping[str, str], run: Callable[[str, Sequence[str]], int], words: Sequence[str]
) -> int:
    """Run a command whose first word chooses what it does.

    Args:
        summaries: the choices, each with its line in the help.
        run: runs one of them with the remaining words; returns the exit code.
    """
    choices = " or ".join(summaries)
    if words and words[0] in summaries:
        return run(words[0], words[1:])
    if words and words[0] in HELP:
        lines = "\n".join(f"  {choice:12}{summary}" for choice, summary in summaries.items())
        choice = "|".join(summaries)
        print(f"usage: molstream {name} {choice} [key=value ...]\n\n{lines}\n\nmolstream {name} {choice} --help")
        return DONE

    def refuse() -> None:
        got = f"'{words[0]}'" if words else "nothing"
        raise ConfigError(f"{name}: expected {choices}, then key=value; got {got}.")

    return guarded(name, refuse)
