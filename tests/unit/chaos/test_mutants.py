import pytest

from dev.home import ROOT
from tests.chaos.mutants import MUTANTS, Mutant


def test_there_are_enough_of_them_with_names_of_their_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 12


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_still_applies(mutant: Mutant) -> None:
    assert mutant.problems(ROOT) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_still_python(mutant: Mutant) -> None:
    for path in {edit.path for edit in mutant.edits}:
        source = (ROOT / path).read_text(encoding="utf-8")
        for edit in mutant.edits:
            source = source.replace(edit.old, edit.new) if edit.path == path else source
        compile(source, path, "exec")
