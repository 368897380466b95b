"""``python -m invsolve``: see `invsolve.cli`."""

import sys

from invsolve.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
