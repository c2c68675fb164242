"""``python -m molstream``: the console script."""

import sys

from molstream.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
