"""The console script ``molstream``: one table of commands, each imported only when it is called."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A command: the module whose ``main(argv) -> exit code`` does it, and its line in the help."""

    module: str
    help: str


COMMANDS = {
    "preprocess": Command(
        "molstream.pipeline.preprocess", "input=FILE output=FOLDER   raw molecule files to a sharded dataset"
    ),
    "append": Command(
        "molstream.pipeline.append", "input=FILE output=DATASET   more files for a dataset, with its own settings"
    ),
    "inspect": Command("molstream.cli.inspect", "PATH   what is this dataset, run, checkpoint or export?"),
    "verify": Command("molstream.pipeline.shards.verify", "DATASET   checksums, schema and counts; exit 1 on damage"),
    "pretrain": Command(
        "molstream.training.pretrain", "data.path=DATASET run_dir=FOLDER   pretrain, or continue, on one machine"
    ),
    "supervise": Command(
        "molstream.training.launch.supervisor",
        "deepspeed [--hostfile FILE] training/pretrain.py key=value   restart on the hosts left",
    ),
    "export": Command(
        "molstream.training.inference.export", "run_dir=RUN   checkpoint to a folder that can be published"
    ),
    "embed": Command(
        "molstream.training.inference.embed_files",
        "export=EXPORT input=FILE output=FILE   vectors for a file of molecules",
    ),
    "generate": Command(
        "molstream.training.inference.generate_files",
        "conformers|bonds run_dir=RUN input=FILE output=SDF   2D to 3D, or 3D to 2D",
    ),
    "evaluate": Command(
        "molstream.training.evaluation.probe",
        "export=EXPORT input=CSV target=COLUMN   ridge on frozen vectors, scaffold split; "
        "conformers|bonds run_dir=RUN dataset=DATASET   what is generated",
    ),
    "diagnose": Command(
        "molstream.training.evaluation.diagnose",
        "run_dir=RUN [dataset=DATASET]   what a run has learned, beyond its loss",
    ),
    "report": Command(
        "molstream.training.report.page", "RUN...   self-contained HTML with plots, of one run or several side by side"
    ),
    "sync": Command(
        "molstream.cli.sync", "run_dir=RUN [loggers=[NAME,...]]   hand to MLflow or W&B what they have not got"
    ),
    "doctor": Command(
        "molstream.cli.doctor", "[model=PRESET objective=NAME]   versions, devices, disk; what a model would cost"
    ),
}


def usage() -> str:
    """The help text: every command on a line."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:{width}}  {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: molstream COMMAND [key=value ...]\n\n"
        f"{lines}\n\nkeys and defaults are in configs/; exit codes: 0 done, 1 failed, 2 usage, 130 interrupted"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch; exit codes 0 done, 1 failed, 2 usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: unknown command '{name}'. Choose one of: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        return importlib.import_module(COMMANDS[name].module).main(rest)
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our stdout (head, less) has gone: not an error, but Python would complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        if error.name in EXTRAS:
            print(f"error: '{name}' needs {error.name}: pip install 'molstream[{EXTRAS[error.name]}]'", file=sys.stderr)
            return 1
        raise


EXTRAS = {
    "ray": "preprocess",
    "webdataset": "preprocess",
    "deepspeed": "train",
    "tensorboard": "train",
    "matplotlib": "report",
    "jinja2": "preprocess",
}
"""Optional packages and the extra that brings each."""


if __name__ == "__main__":
    sys.exit(main())
