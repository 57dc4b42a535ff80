"""Make one of the two virtual environments: ``run`` (what a deployment needs) or ``dev`` (everything).

Runs on the user's own Python with nothing installed, so it imports the standard library alone. It is the whole
bootstrap: a venv with a pinned uv, which then installs a hashed lock and the project itself.
"""

# So that a Python that is too old gets as far as saying so.
from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".state"
UV_HOME = STATE / "uv"
BOOTSTRAP_LOCK = ROOT / "requirements" / "bootstrap.lock"
PYTHON_MIN = (3, 11)

# Two environments, because `make run` must not wait for torch, and `make test` must not pull packages from under a
# running stack. Both are hard links into uv's cache, so what they share costs disk once.
ENVIRONMENTS = {"run": ROOT / ".venv-run", "dev": ROOT / ".venv"}

# uv's own variable: `cpu`, `cu130`, `auto`. PyPI's torch for Linux is the CUDA build; PyTorch's index has the others.
TORCH_BACKEND = "UV_TORCH_BACKEND"
_OF_TORCH = re.compile(r"^(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==(\S+)")

# pip's setting -> the variable by which uv knows the same; uv does not read pip's configuration.
_FROM_PIP = {"index-url": "UV_DEFAULT_INDEX", "cert": "SSL_CERT_FILE"}


def ensure(name: str) -> bool:
    """Bring the environment ``name`` in line with its lock; return whether anything had to be done."""
    with alone(name):
        stamp = STATE / f"{name}.stamp"
        wanted = fingerprint(name)
        if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted and _python(ENVIRONMENTS[name]).exists():
            return False
        stamp.unlink(missing_ok=True)
        _install(name)
        stamp.write_text(wanted, encoding="utf-8")
    return True


def fingerprint(name: str) -> str:
    """Digest everything that the content of an environment depends on, its place on disk included."""
    digest = hashlib.sha256()
    for part in (sys.version, sys.base_prefix, str(ENVIRONMENTS[name]), os.environ.get(TORCH_BACKEND, "")):
        digest.update(part.encode() + b"\0")
    for path in (BOOTSTRAP_LOCK, _lock(name), ROOT / "pyproject.toml"):
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def without_torch(lock: str) -> tuple[str, str | None]:
    """Split the text of a lock: what is left without torch and its CUDA libraries, and torch's own pin."""
    kept: list[str] = []
    pin = None
    dropping = False
    for line in lock.splitlines(keepends=True):
        if not line.startswith((" ", "#")):
            match = _OF_TORCH.match(line)
            dropping = match is not None
            if match and match[1] == "torch":
                pin = f"torch=={match[2]}"
        if not dropping:
            kept.append(line)
    return "".join(kept), pin


def uv_settings(pip_settings: str) -> dict[str, str]:
    """Translate the output of ``pip config list`` into environment variables of uv.

    Variables that are set already win: whoever set them meant uv.
    """
    found = {}
    for line in pip_settings.splitlines():
        key, _, value = line.partition("=")
        variable = _FROM_PIP.get(key.rpartition(".")[2])
        if variable and variable not in os.environ:
            found[variable] = value.strip("'\"")
    return found


def main(arguments: list[str]) -> int:
    """Ensure the environments that ``arguments`` name."""
    if sys.version_info < PYTHON_MIN:
        version = sys.version.split()[0]
        print(f"Parley needs Python {PYTHON_MIN[0]}.{PYTHON_MIN[1]} or newer, and {sys.executable} is {version}.")
        print("Name another one: make PYTHON=/path/to/python3")
        return 1
    for name in arguments:
        try:
            ensure(name)
        except subprocess.CalledProcessError as error:
            print(f"\nThe {name} environment is incomplete: {error.cmd[0]} ended with status {error.returncode}.")
            print("Run the same command again to continue; packages fetched so far are kept.")
            return 1
    return 0


def _install(name: str) -> None:
    uv = ensure_uv()
    home = ENVIRONMENTS[name]
    print(f"setup: {home.name} from requirements/{name}.lock", flush=True)
    if not _belongs_to_this_python(home):
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, symlinks=True, with_pip=False)
    # Without isolation the build takes hatchling from the lock and fetches nothing.
    ours = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--editable", str(ROOT)]
    environment = uv_environment()
    for command in (*library_commands(_lock(name)), ours):
        arguments = [str(uv), "pip", *command, "--python", str(_python(home))]
        subprocess.run(arguments, check=True, env=environment, cwd=ROOT)


def library_commands(lock: Path) -> list[list[str]]:
    """Return what makes an environment hold exactly the packages of ``lock``, as arguments of ``uv pip``."""
    torch = _torch_from_elsewhere(lock)
    # Compiled once here, or by each of a dozen processes at its first start, or at every one in a read-only place.
    commands = [["sync", "--compile-bytecode", "--require-hashes", str(torch[0] if torch else lock)]]
    if torch:
        # PyTorch's index publishes other files than the lock has hashes for; the version is still the lock's.
        commands.append(["install", "--no-deps", "--torch-backend", os.environ[TORCH_BACKEND], torch[1]])
    return commands


def _torch_from_elsewhere(lock: Path) -> tuple[Path, str] | None:
    """Where another build of torch is asked for, write a lock without torch and return it with torch's pin."""
    if not os.environ.get(TORCH_BACKEND):
        return None
    text, pin = without_torch(lock.read_text(encoding="utf-8"))
    if pin is None:
        return None
    STATE.mkdir(exist_ok=True)
    rest = STATE / lock.name
    rest.write_text(text, encoding="utf-8")
    return rest, pin


def ensure_uv() -> Path:
    """Install the pinned uv below ``.state/`` unless it is there, and return its path."""
    uv = UV_HOME / "bin" / "uv"
    stamp = UV_HOME / "lock.sha256"
    wanted = hashlib.sha256(BOOTSTRAP_LOCK.read_bytes() + str(UV_HOME).encode()).hexdigest()
    if uv.exists() and stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return uv
    print("setup: uv, the installer", flush=True)
    shutil.rmtree(UV_HOME, ignore_errors=True)
    try:
        venv.create(UV_HOME, symlinks=True, with_pip=True)
    except subprocess.CalledProcessError:
        print("This Python has no ensurepip. On Debian and Ubuntu: apt-get install python3-venv", file=sys.stderr)
        raise
    pip = [str(_python(UV_HOME)), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--require-hashes", "-r", str(BOOTSTRAP_LOCK)], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return uv


def uv_environment() -> dict[str, str]:
    """Return the environment for uv: this process's own, with pip's registry settings in uv's terms."""
    listed = subprocess.run(
        [str(_python(UV_HOME)), "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    )
    environment = {**os.environ, **uv_settings(listed.stdout), "UV_PYTHON_DOWNLOADS": "never"}
    for name in ("VIRTUAL_ENV", TORCH_BACKEND):
        environment.pop(name, None)
    return environment


def _belongs_to_this_python(home: Path) -> bool:
    settings = home / "pyvenv.cfg"
    if not settings.is_file() or not _python(home).exists():
        return False
    lines = dict(line.split(" = ", 1) for line in settings.read_text(encoding="utf-8").splitlines() if " = " in line)
    return lines.get("version") == sys.version.split()[0]


def _python(home: Path) -> Path:
    return home / "bin" / "python"


def _lock(name: str) -> Path:
    return ROOT / "requirements" / f"{name}.lock"


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold the set-up of this clone, so that two targets started together do not install over each other."""
    STATE.mkdir(exist_ok=True)
    with (STATE / "setup.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"setup: {name} waits for another set-up of this clone", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
