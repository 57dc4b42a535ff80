"""`python -m dev up | demo`."""

import argparse
import sys

from dev.demo import demo
from dev.errors import DevError
from dev.up import up


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev", description="Parley on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start everything and keep it running until Ctrl-C")
    commands.add_parser("demo", help="ask the running stack a question about Parley's own documentation")
    chosen = parser.parse_args().command
    try:
        {"up": up, "demo": demo}[chosen]()
    except DevError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
