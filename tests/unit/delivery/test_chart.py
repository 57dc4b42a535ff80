"""What a release takes for granted of the chart."""

from typing import Final

import yaml

from dev.home import ROOT
from dev.tools import release
from dev.tools.canary import CANARY_VALUES, COMPONENTS
from tests.support import dockerfile

CHART: Final = ROOT / "helm" / "parley"


def test_the_chart_says_the_version_of_the_project() -> None:
    chart = (CHART / "Chart.yaml").read_text(encoding="utf-8")
    said = release.problems(f"v{release.version()}", "", chart)
    assert not [problem for problem in said if problem.startswith("Chart.yaml")]


def test_the_chart_knows_every_value_that_a_canary_is_given() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert set(COMPONENTS) == values["components"].keys()
    for path in CANARY_VALUES:
        found = values
        for name in path.split("."):
            assert name in found, path
            found = found[name]


def test_the_chart_runs_the_image_as_the_image_s_own_user() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    (user,) = dockerfile.stages()["runtime"].every("USER")
    assert user.words[0].split(":")[0] == str(values["pod"]["runAsUser"])
