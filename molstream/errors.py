"""Errors for users. Messages say what is wrong, where, what was found and expected, and what to do."""


class MolstreamError(Exception):
    """Base class of errors in the input or configuration, as opposed to bugs of molstream."""


class ConfigError(MolstreamError, ValueError):
    """The configuration is invalid: an unknown key, a wrong type, or values that contradict each other."""


class DataError(MolstreamError, ValueError):
    """Input files or a dataset cannot be used: missing, empty, truncated, damaged, or of another schema."""


class RemoteError(DataError):
    """A server does not answer, or with an error; a retry may help."""


class CheckpointError(MolstreamError, ValueError):
    """A checkpoint or export cannot be loaded, or belongs to another model or dataset."""


class TrainingError(MolstreamError, RuntimeError):
    """A run cannot continue, for example because its loss is no longer finite."""


def in_words(problem: object) -> str:
    """What a library says of a problem, as a clause: one line without a full stop, for a sentence of ours."""
    return " ".join(str(problem).split()).rstrip(".")


class MoleculeError(MolstreamError):
    """A molecule cannot be featurized; ``featurize`` converts this error to a ``Rejection``."""

    def __init__(self, stage: str, reason: str, detail: str):
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail
