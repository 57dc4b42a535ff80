"""The example of docs/prompts.md, run as printed."""

import asyncio
import os
import re
from pathlib import Path

from dev.tools.tidiness import ROOT
from services.mesh.ids import is_id
from tests.integration.inference.prompts.conftest import Served
from tests.support.edge import running_edge
from tests.support.fakes.auth import API_KEY

LIMIT_S = 120.0


async def test_example_does_what_the_page_says(served: Served, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "prompts.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(.*?)```\n", page, re.DOTALL)
    (tmp_path / ".dev").mkdir()
    async with running_edge(listens=True, inference=served.servicers) as edge:
        credentials = f"PARLEY_URL={edge.url}\nPARLEY_API_KEY={API_KEY}\n"
        (tmp_path / ".dev" / "credentials.env").write_text(credentials, encoding="utf-8")
        printed = await bash(script, tmp_path)
    revision = re.search(r'"prompt_revision":"(prm_\w+)/1"', printed)
    assert revision is not None, printed
    assert is_id("prm", revision[1])
    assert '"aliases":{"production":1}' in printed
    assert '"system":"You answer for the shop. Be brief."' in printed
    assert served.provider.tasks[0].system == "You answer for the shop. Be brief."


async def bash(script: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", script),
        cwd=folder,
        env=dict(os.environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT_S):
        printed, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    return printed.decode()
