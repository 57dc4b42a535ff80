"""`python -m dev.tools.rollout staging | smoke | canary | canary-abort`: a released version on a cluster.

The cluster and what it is given come from the environment, as a workflow has them: KUBECONFIG_CONTENT (a kubeconfig),
HELM_VALUES (values of the chart, YAML), PROMETHEUS_URL and PROMETHEUS_TOKEN. They are written to private files for as
long as the command runs.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from dev.keyfile import write_private
from dev.tools.canary import Ask, Canary, CanaryError, Plan
from dev.tools.release import version

_QUERY_S_MAX = 30.0


def main(arguments: Sequence[str]) -> int:
    """Run one step; 0 when the version is where it should be."""
    parser = argparse.ArgumentParser(prog="python -m dev.tools.rollout", description=__doc__)
    parser.add_argument("step", choices=["staging", "smoke", "canary", "canary-abort"])
    parser.add_argument("--release", default="parley")
    parser.add_argument("--namespace", default="parley")
    parser.add_argument("--chart", default="", help="such as oci://registry/owner/charts/parley")
    parser.add_argument("--version", default=version(), help="of the chart; that of this checkout unless told")
    parser.add_argument("--repository", default="", help="of the image")
    parser.add_argument("--digest", default="", help="of the image")
    parser.add_argument("--weights", default="5,25,50", help="per cent of the requests, step by step")
    parser.add_argument("--watch-s", type=float, default=600.0, help="seconds for which each step is watched")
    chosen = parser.parse_args(arguments)
    try:
        with _given() as values:
            _step(chosen, values)
    except (CanaryError, subprocess.CalledProcessError, OSError) as error:
        print(f"rollout {chosen.step}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"rollout {chosen.step}: interrupted, and taken back", file=sys.stderr)
        return 130
    return 0


def prometheus(url: str, token: str) -> Ask:
    """A function that asks the Prometheus at ``url``."""
    if urlsplit(url).scheme not in {"http", "https"}:
        raise CanaryError(f"PROMETHEUS_URL is {url!r}, and has to be http(s)://…: a canary is judged by what it tells")

    def ask(query: str) -> float | None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = Request(f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': query})}", headers=headers)  # noqa: S310 - see above
        with urlopen(request, timeout=_QUERY_S_MAX) as answer:  # noqa: S310 - the scheme is checked above
            result = json.load(answer)["data"]["result"]
        value = float(result[0]["value"][1]) if result else math.nan
        return None if math.isnan(value) else value

    return ask


def _step(chosen: argparse.Namespace, values: tuple[str, ...]) -> None:
    namespace = ("--namespace", chosen.namespace)
    image = ("--set", f"image.repository={chosen.repository}", "--set", f"image.digest={chosen.digest}")
    chart = (chosen.chart, "--version", chosen.version, *values, *image)
    weights = tuple(int(weight) for weight in chosen.weights.split(","))
    plan = Plan(chosen.release, chosen.namespace, chart, weights=weights, watch_s=chosen.watch_s)
    match chosen.step:
        case "staging":
            wait = ("--wait", "--atomic", "--timeout", "20m")
            _run(["helm", "upgrade", "--install", chosen.release, *chart, *namespace, "--create-namespace", *wait])
        case "smoke":
            _run(["helm", "test", chosen.release, *namespace, "--logs", "--timeout", "5m"])
        case "canary":
            ask = prometheus(os.environ.get("PROMETHEUS_URL", ""), os.environ.get("PROMETHEUS_TOKEN", ""))
            Canary(plan, run=_run, ask=ask).bring()
        case _:
            Canary(plan, run=_run, ask=lambda _: None).take_back()


@contextmanager
def _given() -> Iterator[tuple[str, ...]]:
    """Write kubeconfig and values to private files while the body runs; gives helm's words for the values."""
    with tempfile.TemporaryDirectory(prefix="parley-rollout-") as name:
        words: tuple[str, ...] = ()
        if config := os.environ.get("KUBECONFIG_CONTENT"):
            write_private(Path(name) / "kubeconfig", config)
            os.environ["KUBECONFIG"] = str(Path(name) / "kubeconfig")
        if text := os.environ.get("HELM_VALUES"):
            write_private(Path(name) / "values.yaml", text)
            words = ("--values", str(Path(name) / "values.yaml"))
        yield words


def _run(command: Sequence[str]) -> str:
    print("rollout:", " ".join(command), flush=True)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    if "json" not in command:
        print(done.stdout, end="", flush=True)
    return done.stdout


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    # A cancelled job takes its canary back, as one that failed does.
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main(sys.argv[1:]))
