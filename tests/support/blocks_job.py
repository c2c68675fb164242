"""Pretraining with the smallest blocks: as many of them on a few molecules as a real batch has."""

import sys

from molstream.training import pretrain
from molstream.training.models import graph, layers

if __name__ == "__main__":
    layers.ROWS_OF_BLOCK, graph.ATOMS_OF_BLOCK = 16, 20
    sys.exit(pretrain.main())
