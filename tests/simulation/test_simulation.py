"""The first seeds of the simulation, and proof that it is deterministic and can fail."""

import pytest

from tests.simulation.mutants import MUTANTS
from tests.simulation.run import simulate

BLOCK = 20


@pytest.mark.parametrize("first", range(0, 200, BLOCK))
def test_every_turn_ends_once_as_it_was_seen_whatever_strikes(first: int) -> None:
    results = [simulate(seed) for seed in range(first, first + BLOCK)]

    failed = [
        f"make simulate SEED={each.seed}\n  " + "\n  ".join(each.violations) for each in results if each.violations
    ]
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)
    assert all(result.turns for result in results)


def test_a_seed_is_always_the_same_history() -> None:
    once, again = simulate(3), simulate(3)

    assert once.trace == again.trace
    assert (once.steps, once.virtual_s, once.faults) == (again.steps, again.virtual_s, again.faults)


@pytest.mark.parametrize(
    "mutant",
    [
        "the end is announced before the commit",
        "a takeover ignores the journal",
        "the reaper sleeps",
        "waiters never move up",
        "time runs while a turn waits",
        "who shall cancel only waits",
        "regenerate overwrites the old answer",
        "an edit hangs off what it edits",
        "a delete leaves the messages",
        "what is handed back is not published",
    ],
)
def test_a_broken_program_is_noticed(mutant: str) -> None:
    assert any(simulate(seed, MUTANTS[mutant]).violations for seed in range(2 * BLOCK))
