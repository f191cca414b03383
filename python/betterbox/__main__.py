"""``python -m betterbox`` is the program ``betterbox``."""

import sys

from betterbox._cli import main

if __name__ == "__main__":
    sys.exit(main())
