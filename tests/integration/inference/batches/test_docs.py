"""The example of docs/batches.md, run as printed."""

import re
from pathlib import Path

from dev.tools.tidiness import ROOT
from tests.integration.inference.batches.conftest import Served
from tests.integration.inference.prompts.test_docs import bash
from tests.support.edge import running_edge
from tests.support.fakes.auth import API_KEY


async def test_example_does_what_the_page_says(served: Served, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(.*?)```\n", page, re.DOTALL)
    (tmp_path / ".dev").mkdir()
    async with running_edge(listens=True, inference=served.servicers) as edge:
        credentials = f"PARLEY_URL={edge.url}\nPARLEY_API_KEY={API_KEY}\n"
        (tmp_path / ".dev" / "credentials.env").write_text(credentials, encoding="utf-8")
        printed = await bash(script, tmp_path)
    assert re.findall(r'"custom_id":"(review-\d)"', printed) == ["review-1", "review-2"]
    assert printed.count('"text":"Fine."') == 2
