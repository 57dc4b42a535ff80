"""`python -m dev up | demo | kafka | certificates | archive | backup | restore`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from dev.backup import archive, backup, restore
from dev.certificates import certificates
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
    issue = commands.add_parser("certificates", help="make a CA, and certificates of its workloads; again renews them")
    issue.add_argument("folder", type=Path, metavar="FOLDER")
    commands.add_parser("archive", help="keep the log of the running stack's database until Ctrl-C")
    commands.add_parser("backup", help="copy the running stack's database; needs a running `archive`")
    back = commands.add_parser("restore", help="make a folder with the stack as it was at an instant")
    back.add_argument("--to", help="the instant, such as 2026-11-23T05:00:00Z; without it, the last one known")
    back.add_argument("--into", type=Path, required=True, metavar="FOLDER", help="the new folder")
    chosen = parser.parse_args()
    run: dict[str, Callable[[], None]] = {"up": up, "demo": demo, "kafka": kafka, "archive": archive, "backup": backup}
    run["certificates"] = lambda: certificates(chosen.folder)
    run["restore"] = lambda: restore(to=chosen.to, into=chosen.into)
    try:
        run[chosen.command]()
    except DevError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
