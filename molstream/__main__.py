"""``python -m molstream``: the console script."""

import sys

from molstream.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
