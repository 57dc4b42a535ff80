"""`python -m edge serve | config | openapi`."""

import argparse
import asyncio
import sys
from typing import Final

import uvloop

from edge.server import serve
from edge.settings import EdgeSettings
from edge.transcoding.openapi import document
from services.mesh import files, garbage, telemetry
from services.mesh.effective import effective
from services.mesh.policy import PolicyError
from services.mesh.server import ServerError
from services.mesh.settings import SettingsError, load
from services.mesh.tracing import exporting

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def main() -> int:
    """Runs a command: 0 done, 1 failed, 2 wrong usage or settings.

    Not `services.mesh.cli`, whose commands all begin with settings: `openapi` is for machines that have none.
    """
    parser = argparse.ArgumentParser(prog="python -m edge", description="Parley's edge.")
    parser.add_argument("command", choices=["serve", "config", "openapi"], help="what to do or show")
    command = parser.parse_args().command
    if command == "openapi":
        sys.stdout.buffer.write(document())
        return 0
    try:
        settings = load(EdgeSettings)
    except SettingsError as error:
        return _fail(str(error), EXIT_USAGE)
    if command == "config":
        for setting in effective(settings):
            sys.stdout.write(f"{setting.variable}={setting.value}  # {setting.origin}. {setting.description}\n")
        return 0
    telemetry.configure_logging("edge", level=settings.log_level, form=settings.log_format)
    files.raise_limit()
    garbage.spare()
    try:
        with exporting(settings, service="edge"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except (PolicyError, ServerError) as error:
        return _fail(f"edge serve: {error}", EXIT_FAILED)
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(message + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
