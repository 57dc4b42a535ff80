"""`python -m dev.observe write | run`."""

import argparse
import sys

from dev.errors import DevError
from dev.observe import written
from dev.observe.prometheus import observe


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev.observe", description="What watches Parley.")
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write alerts and dashboards of the chart")
    write.add_argument("--check", action="store_true", help="only compare what is committed")
    commands.add_parser("run", help="start Prometheus beside the running stack, until Ctrl-C")
    chosen = parser.parse_args()
    try:
        if chosen.command == "run":
            observe()
        else:
            written.write(is_check=chosen.check)
    except DevError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
