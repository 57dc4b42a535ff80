"""Writes what the chart ships of monitoring, or checks that it is what the sources say."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dev.errors import DevError
from dev.home import ROOT
from dev.observe.boards import BOARDS
from dev.observe.objectives import alert_groups, burn_groups, ratio_groups, read, yaml_of
from dev.observe.panels import text_of

CHART: Final = ROOT / "helm" / "parley"


def files() -> Mapping[Path, str]:
    """Every generated file with its text."""
    objectives, alerts = read()
    made = {
        CHART / "alerts" / "slo-ratios.yaml": yaml_of(ratio_groups(objectives)),
        CHART / "alerts" / "slo-alerts.yaml": yaml_of(burn_groups(objectives)),
        CHART / "alerts" / "parley.yaml": yaml_of(alert_groups(alerts)),
    }
    return made | {CHART / "dashboards" / f"{board.name}.json": text_of(board) for board in BOARDS}


def write(*, is_check: bool) -> None:
    """Write what differs.

    Raises:
        DevError: with `is_check`, when something differs or is there that nothing writes.
    """
    wanted = files()
    there = {path for folder in ("alerts", "dashboards") for path in (CHART / folder).glob("*") if path.is_file()}
    changed = [path for path, text in wanted.items() if path not in there or path.read_text("utf-8") != text]
    surplus = sorted(there - wanted.keys())
    if is_check and (changed or surplus):
        names = ", ".join(str(path.relative_to(ROOT)) for path in [*changed, *surplus])
        raise DevError(f"{names}: not what the sources say; run `make monitoring` and commit the result")
    for path in surplus:
        path.unlink()
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], "utf-8")
