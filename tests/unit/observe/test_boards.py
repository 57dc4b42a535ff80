"""Dashboards a person can read: each panel says what it shows, in which unit, and asks for something."""

import json

import pytest

from dev.observe.boards import BOARDS
from dev.observe.panels import Board, text_of
from dev.observe.promql import Matcher, selectors

_OF_INSTALLATION = Matcher("namespace", "=~", "$namespace")


def test_there_are_eight_with_names_of_their_own() -> None:
    assert len({board.name for board in BOARDS}) == 8


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_every_panel_has_unit_description_and_queries(board: Board) -> None:
    dashboard = json.loads(text_of(board))

    assert dashboard["uid"] == f"parley-{board.name}"
    assert dashboard["description"].endswith(".")
    assert len({panel["title"] for panel in dashboard["panels"]}) == len(dashboard["panels"]) >= 6
    for panel in dashboard["panels"]:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            found = list(selectors(target["expr"]))
            assert found, target["expr"]
            assert all(_OF_INSTALLATION in each.matchers for each in found), target["expr"]
            assert target["legendFormat"]


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_panels_lie_beside_each_other(board: Board) -> None:
    places = [panel["gridPos"] for panel in json.loads(text_of(board))["panels"]]
    corners = {(place["x"], place["y"]) for place in places}

    assert len(corners) == len(places)
    assert all(place["x"] + place["w"] <= 24 for place in places)
