"""The configuration of a report."""

from dataclasses import field

from molstream.config import configuration


@configuration
class ReportConfig:
    """Write a self-contained HTML page with plots of one run, or of several side by side."""

    run_dir: list[str] = field(default_factory=list)
    """The pretraining runs; usually given as plain arguments."""
    output: str | None = None
    """HTML file; `report.html` inside the run directory by default, of several runs in the working folder."""
    evaluation: str | None = None
    """JSON of `molstream evaluate vectors`; `eval.json` inside the run directory is taken where it exists. One run
    only."""
    embeddings: str | None = None
    """Parquet of `molstream embed`, whose rows are counted. One run only."""
