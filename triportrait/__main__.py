"""`python -m triportrait` is the command `triportrait`."""

import sys

from triportrait.cli import main

if __name__ == "__main__":
    sys.exit(main())
