"""Pretraining job with small blocks, so that a few molecules fill as many blocks as a real batch."""

import sys

from molstream.cli import pretrain
from molstream.training.models import graph, layers

if __name__ == "__main__":
    layers.ROWS_OF_BLOCK, graph.ATOMS_OF_BLOCK = 16, 20
    sys.exit(pretrain.main())
