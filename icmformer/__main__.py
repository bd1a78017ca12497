"""`python -m icmformer`: the command line."""

import sys

from icmformer.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
