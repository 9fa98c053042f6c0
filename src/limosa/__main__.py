"""`python -m limosa` is the command line."""

import sys

from limosa.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
