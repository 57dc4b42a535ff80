from pathlib import Path

import pytest

from services.inference.model import FinishReason
from services.inference.providers.base import Ended, Limits, TokenCounts
from services.inference.providers.scripted import Script, ScriptedProvider, ScriptError, load
from services.mesh.errors import Reason
from tests.support.inference import collect, collect_until, said, task


async def test_script_says_its_pieces_and_usage() -> None:
    provider = ScriptedProvider(load('{"m": {"deltas": ["a", "b"], "input_tokens": 3, "output_tokens": 2}}'))

    events = await collect(provider, task("m"))

    assert said(events) == "ab"
    assert events[-1] == Ended(FinishReason.STOP, TokenCounts(input_tokens=3, output_tokens=2))


async def test_script_may_count_words_instead() -> None:
    events = await collect(ScriptedProvider({"m": Script(tokens=3, delay_ms=1, first_delay_ms=2)}), task("m"))

    assert said(events) == "word1 word2 word3 "


@pytest.mark.parametrize(
    ("script", "text", "reason"),
    [
        (Script(tokens=3, fail_after=0), "", Reason.PROVIDER_UNAVAILABLE),
        (Script(tokens=3, fail_after=2, reason=Reason.RATE_LIMITED), "word1 word2 ", Reason.RATE_LIMITED),
        (Script(tokens=1, fail_after=1), "word1 ", Reason.PROVIDER_UNAVAILABLE),
        (Script(tokens=3, cut_after=1), "word1 ", Reason.PROVIDER_UNAVAILABLE),
        (Script(tokens=3, stall_after=1), "word1 ", Reason.PROVIDER_TIMEOUT),
    ],
)
async def test_script_fails_where_it_is_told(script: Script, text: str, reason: Reason) -> None:
    limits = Limits(first_event_s=5, stall_s=0.05, total_s=5)

    events, error = await collect_until(ScriptedProvider({"m": script}), task("m", limits=limits))

    assert said(events) == text
    assert error.reason is reason


async def test_name_without_a_script_is_unknown() -> None:
    _, error = await collect_until(ScriptedProvider({}), task("m"))

    assert error.reason is Reason.MODEL_UNKNOWN


def test_scripts_may_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "scripts.json"
    file.write_text('{"m": {"tokens": 2}}')

    assert load(str(file)) == {"m": Script(tokens=2)}


@pytest.mark.parametrize("source", ["{", '{"m": {"tokns": 1}}', '{"m": {"tokens": 100001}}', "/no/such/file"])
def test_broken_script_is_refused(source: str) -> None:
    with pytest.raises(ScriptError):
        load(source)
