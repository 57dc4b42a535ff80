"""See `cli.py`."""

import sys

from services.auth.cli import main

main(sys.argv[1:])
