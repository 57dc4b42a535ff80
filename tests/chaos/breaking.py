"""`make chaos-mutants`: runs broken copies of the checkout until the suite notices, or three seeds have passed."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.home import ROOT
from tests.chaos.check import Violation, summary
from tests.chaos.mutants import Mutant
from tests.chaos.run import Options, arena

SEEDS: Final = (11, 12, 13)
FAULTS_S: Final = 35.0


CONTROL: Final = Mutant("(none: the product as it is)", frozenset(f"I{number}" for number in range(1, 11)), ())
"""Has to pass all seeds, or what catches the mutants is noise."""


@dataclass(frozen=True, slots=True)
class Catch:
    """What became of a mutant.

    Attributes:
        seeds: that were run.
        violations: of the last one; empty when the mutant survived.
    """

    mutant: Mutant
    seeds: int
    violations: Sequence[Violation]
    took_s: float

    @property
    def is_right(self) -> bool:
        """Whether the suite said what it should."""
        return self.is_caught is (self.mutant is not CONTROL)

    @property
    def is_caught(self) -> bool:
        """Whether what it breaks was seen to be broken."""
        return is_caught(self.mutant, self.violations)


async def hunt(mutant: Mutant, *, rate: float, folder: Path, say: Callable[[str], None]) -> Catch:
    """Runs one mutant."""
    begun = time.monotonic()
    violations: Sequence[Violation] = ()
    seeds = 0
    with tempfile.TemporaryDirectory(prefix="parley-mutant-") as name:
        tree = copied(Path(name))
        mutant.apply(tree)
        options = Options(faults_s=FAULTS_S, rate=rate, folder=folder, tree=tree, is_hasty=True)
        async with arena(options, say) as field:
            for seed in SEEDS:
                seeds += 1
                violations = (await field.run(seed, options, say)).verdict.violations
                if is_caught(mutant, violations):
                    break
    return Catch(mutant, seeds, violations, time.monotonic() - begun)


def is_caught(mutant: Mutant, violations: Sequence[Violation]) -> bool:
    """Whether the violations tell what the mutant breaks."""
    return any(violation.invariant in mutant.breaks for violation in violations)


def copied(tree: Path) -> Path:
    """A copy of this checkout: what git knows, and what is new and not ignored."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tree / name)
    return tree


def table(catches: Sequence[Catch]) -> str:
    """One line per mutant."""
    width = max(len(catch.mutant.name) for catch in catches)
    lines = [f"{'mutant'.ljust(width)}  caught  seeds  by"]
    for catch in catches:
        by = ", ".join(f"{invariant} ({count})" for invariant, count in summary(catch.violations).items())
        caught = "yes" if catch.is_caught else "no"
        caught = caught if catch.is_right else f"{caught.upper()}!"
        lines.append(f"{catch.mutant.name.ljust(width)}  {caught.ljust(6)}  {catch.seeds:>5}  {by}")
    return "\n".join(lines)
