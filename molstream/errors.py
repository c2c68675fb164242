"""The errors a user can meet, in one place: each message says what, where, got, expected, what to do."""


class MolstreamError(Exception):
    """Base of every error that is the input's or the configuration's fault, not a bug of molstream."""


class ConfigError(MolstreamError, ValueError):
    """A configuration that cannot be run: unknown key, wrong type, values that contradict each other."""


class DataError(MolstreamError, ValueError):
    """Input files or a dataset that cannot be used: missing, empty, truncated, damaged, of another schema."""


class RemoteError(DataError):
    """A server that does not answer, or not what it should: trying again may help."""


class CheckpointError(MolstreamError, ValueError):
    """A checkpoint or export that cannot be loaded, or that belongs to another model or dataset."""


class TrainingError(MolstreamError, RuntimeError):
    """A run that cannot go on, such as one whose loss is no longer finite."""


def in_words(problem: object) -> str:
    """What a library says of a problem, as a clause: one line without a full stop, for a sentence of ours."""
    return " ".join(str(problem).split()).rstrip(".")


class MoleculeError(MolstreamError):
    """One molecule cannot be featurized; ``featurize`` turns it into a ``Rejection``."""

    def __init__(self, stage: str, reason: str, detail: str):
        super().__init__(f"{stage}: {reason}: {detail}")
        self.stage = stage
        self.reason = reason
        self.detail = detail
