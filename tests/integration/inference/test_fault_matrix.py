"""Each fault of a provider ends in the whole answer, or in the error that policy asks for: never in a part of it."""

from pathlib import Path

import pytest

from tests.faults.matrix import CASES, TEXT, VENDORS, Case, run, staged
from tests.support.provider_double import Fault

OTHER = {"openai": "anthropic", "anthropic": "openai"}


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
async def test_fault_ends_in_the_whole_answer_or_a_clear_error(case: Case, vendor: str, tmp_path: Path) -> None:
    async with staged(case, (vendor, OTHER[vendor]), tmp_path) as stage:
        row = await run(stage)

    assert row.outcome == ("whole" if case.error is None else case.error.value)
    assert row.first_calls + row.second_calls <= 3


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("after", range(1, 6))
async def test_cut_answer_goes_on_from_the_very_offset_by_prefix(vendor: str, after: int, tmp_path: Path) -> None:
    case = Case(name="cut", fault=Fault.CUT, after=after)
    async with staged(case, (vendor, OTHER[vendor]), tmp_path, has_prefix=True) as stage:
        row = await run(stage)
        last = stage.second.seen[0].body["messages"][-1]

    assert row.outcome == "whole"
    assert (last["role"], last["content"]) == ("assistant", TEXT[: row.switches[0]].rstrip())


async def test_fault_of_both_targets_is_a_clear_error_with_a_time_to_come_back(tmp_path: Path) -> None:
    case = Case(name="both", fault=Fault.CUT)
    async with staged(case, ("openai", "anthropic"), tmp_path) as stage:
        stage.second.fault = Fault.OVERLOADED
        row = await run(stage)

    assert row.outcome == "PROVIDER_UNAVAILABLE"
