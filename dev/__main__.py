"""`python -m dev up | demo | kafka`."""

import argparse
import sys

from dev.demo import demo
from dev.errors import DevError
from dev.kafka import kafka
from dev.up import up


def main() -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m dev", description="Parley on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start everything and keep it running until Ctrl-C")
    commands.add_parser("demo", help="ask the running stack a question about Parley's own documentation")
    commands.add_parser("kafka", help="start Apache Kafka and keep it running until Ctrl-C (needs Java, Maven)")
    chosen = parser.parse_args().command
    try:
        {"up": up, "demo": demo, "kafka": kafka}[chosen]()
    except DevError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
