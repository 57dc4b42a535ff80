"""Install Parley as a deployment has it: the packages of a hashed lock and the wheel, in an environment of its own.

The Dockerfile runs these commands, and so does the test that starts every deployable outside the checkout; what one of
them installs is what the other has tried. Like `environment` it runs on a bare Python: the standard library alone.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from dev.tools import environment

IMAGE_LOCKS = ("image", "image-sentence-transformers")
"""What the two targets of the Dockerfile hold: without torch, and with it."""
_BUILD_LOCK = environment.ROOT / "requirements" / "run.lock"
"""Pins, with hashes, what building the wheel needs."""


def install_libraries(lock: Path, home: Path) -> None:
    """Make a virtual environment at ``home`` that holds the packages of ``lock`` and nothing else, compiled."""
    venv.create(home, symlinks=True, with_pip=False, clear=True)
    for command in environment.library_commands(lock):
        _uv("pip", *command, "--python", str(home / "bin" / "python"))


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this checkout into ``folder``, with the pinned build backend; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    # Of its own, so that an older wheel in the folder is not taken for this one.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".wheel-") as made:
        command = ["build", "--quiet", "--wheel", "--out-dir", made, "--python", sys.executable]
        _uv(*command, "--require-hashes", "--build-constraints", str(_BUILD_LOCK), str(environment.ROOT))
        (wheel,) = Path(made).glob("*.whl")
        return wheel.replace(folder / wheel.name)


def install_project(wheel: Path, home: Path) -> None:
    """Install the wheel into the environment at ``home``, compiled; what it requires has to be there."""
    python = str(home / "bin" / "python")
    _uv("pip", "install", "--quiet", "--no-deps", "--compile-bytecode", "--python", python, str(wheel))


def main(arguments: Sequence[str]) -> int:
    """Run one step."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.deployment", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    libraries = steps.add_parser("libraries", help="make an environment from a lock")
    libraries.add_argument("lock", choices=IMAGE_LOCKS)
    libraries.add_argument("home", type=Path)
    wheel = steps.add_parser("wheel", help="build the wheel of this checkout")
    wheel.add_argument("folder", type=Path)
    project = steps.add_parser("project", help="install the one wheel in a folder into an environment")
    project.add_argument("folder", type=Path)
    project.add_argument("home", type=Path)
    chosen = parser.parse_args(arguments)
    try:
        if chosen.step == "libraries":
            install_libraries(environment.ROOT / "requirements" / f"{chosen.lock}.lock", chosen.home)
        elif chosen.step == "wheel":
            print(build_wheel(chosen.folder))
        else:
            install_project(_only_wheel(chosen.folder), chosen.home)
    except subprocess.CalledProcessError as error:
        print(f"{chosen.step}: {error.cmd[0]} ended with status {error.returncode}", file=sys.stderr)
        return 1
    return 0


def _only_wheel(folder: Path) -> Path:
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SystemExit(f"{folder} holds {len(wheels)} wheels, and one is meant: {[wheel.name for wheel in wheels]}")
    return wheels[0]


def _uv(*arguments: str) -> None:
    with environment.alone("deployment"):
        uv = environment.ensure_uv()
        settings = environment.uv_environment()
    subprocess.run([str(uv), *arguments], check=True, env=settings, cwd=environment.ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
