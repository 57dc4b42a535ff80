"""The examples that README.md prints, so that tests run what readers copy."""

import re
from typing import Final

from dev.tools.tidiness import ROOT

_BLOCK: Final = re.compile(r"<!-- example: (\w+) -->\n```\w+\n(.*?)```\n", re.DOTALL)


def examples() -> dict[str, str]:
    """Text of each named example: `environment`, `curl`, `openai`, `grpc`."""
    return dict(_BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
