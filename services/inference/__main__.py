"""See `cli.py`."""

import sys

from services.inference.cli import main

main(sys.argv[1:])
