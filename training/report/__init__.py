"""HTML report of one or several runs, and text overviews of datasets, runs, checkpoints and exports."""
