"""`python -m harness VERB ...`, where the command `harness` is not on the path."""

import sys

from harness.main import main

if __name__ == "__main__":
    sys.exit(main())
