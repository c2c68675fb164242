"""The console script ``molstream``: one table of commands, each imported only when it is called."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from molstream.io.credentials import redacted


class Command(NamedTuple):
    """A command: the module whose ``main(words) -> exit code`` runs it, and its line in the help."""

    module: str
    summary: str


COMMANDS = {
    "preprocess": Command("molstream.cli.preprocess", "raw molecule files to a sharded dataset"),
    "append": Command("molstream.cli.append", "more files for a dataset, with its own settings"),
    "verify": Command("molstream.cli.verify", "check a dataset's checksums, schema and counts"),
    "inspect": Command("molstream.cli.inspect", "what is this dataset, run, checkpoint or export?"),
    "pretrain": Command("molstream.cli.pretrain", "pretrain, or continue, on one machine"),
    "supervise": Command("molstream.cli.supervise", "keep a job of many hosts running on those that are left"),
    "diagnose": Command("molstream.cli.diagnose", "what a run has learned, beyond its loss"),
    "report": Command("molstream.cli.report", "an HTML page with plots, of one run or several side by side"),
    "sync": Command("molstream.cli.sync", "send a finished run's records to MLflow or W&B"),
    "export": Command("molstream.cli.export", "a checkpoint as a folder that can be published"),
    "embed": Command("molstream.cli.embed", "vectors for a file of molecules"),
    "generate": Command("molstream.cli.generate", "conformers of bond graphs, or bonds of conformers"),
    "evaluate": Command("molstream.cli.evaluate", "what frozen vectors, or what a run generates, are worth"),
    "doctor": Command("molstream.cli.doctor", "versions, devices, disk; what a model would cost"),
}


def commands() -> dict[str, Command]:
    """The commands of molstream, and those that other packages add."""
    from molstream.extensions import extended

    return extended(COMMANDS, "commands")


def usage() -> str:
    """The help text: every command on a line."""
    known = commands()
    width = max(map(len, known))
    lines = "\n".join(f"  {name:{width}}  {command.summary}" for name, command in known.items())
    return (
        "usage: molstream COMMAND [key=value ...]\n\n"
        f"{lines}\n\n"
        "molstream COMMAND --help lists the keys of a command; molstream --version prints the version.\n"
        "exit codes: 0 done, 1 failed, 2 usage, 130 interrupted"
    )


def main(words: Sequence[str] | None = None) -> int:
    """Dispatch; exit codes 0 done, 1 failed, 2 usage, 130 interrupted."""
    words = list(sys.argv[1:] if words is None else words)
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(usage(), file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    name, *rest = words
    if name == "--version":
        from molstream.cli.command import version_line

        print(version_line())
        return 0
    known = commands()
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        message = f"error: unknown command '{name}'. {hint}Choose one of {', '.join(known)}."
        print(redacted(message), file=sys.stderr)
        return 2
    return importlib.import_module(known[name].module).main(rest)


if __name__ == "__main__":
    sys.exit(main())
