"""The Dockerfile as BuildKit's own parser reads it."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

import dockerfile

from dev.home import ROOT

PATH = ROOT / "Dockerfile"


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its name in capitals, its flags such as `--from=builder`, and its words."""

    name: str
    flags: tuple[str, ...]
    words: tuple[str, ...]
    is_json: bool


@dataclass(frozen=True, slots=True)
class Stage:
    """What stands between one FROM and the next; `base` is an image or an earlier stage."""

    name: str
    base: str
    instructions: list[Instruction] = field(default_factory=list)

    def every(self, name: str) -> list[Instruction]:
        """Its instructions of one kind."""
        return [instruction for instruction in self.instructions if instruction.name == name]

    def commands(self) -> list[list[str]]:
        """What it runs, as words."""
        return [shlex.split(instruction.words[0]) for instruction in self.every("RUN")]

    def environment(self) -> dict[str, str]:
        """What its ENV instructions set."""
        words = [word for instruction in self.every("ENV") for word in instruction.words]
        return {name: value.strip('"') for name, value in zip(words[::2], words[1::2], strict=True)}


def stages() -> Mapping[str, Stage]:
    """The stages by name, in their order."""
    found: dict[str, Stage] = {}
    for command in dockerfile.parse_file(str(PATH)):
        name = command.cmd.upper()
        if name == "FROM":
            base, _, stage = command.value
            found[stage] = Stage(stage, base)
        elif found:
            words = tuple(str(word) for word in command.value)
            flags = tuple(str(flag) for flag in command.flags)
            list(found.values())[-1].instructions.append(Instruction(name, flags, words, bool(command.json)))
    return found
