"""The model that the stack asks: its answer shows which prompt it was given, and it falls ill on demand.

An answer names the keys of all questions in the prompt, so a prompt that lacks one, or holds a stranger's, is visible
in what is stored. Every second request is worded differently, as a real model would, so that two attempts that are
mixed up give a text that nobody ever said.
"""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Final

from tests.chaos.history import Notes
from tests.support.asgi import Receive, Scope, Send, body_of, listening
from tests.support.provider_double import Fault, ProviderDouble

MODEL: Final = "openai/chaos"
PREFIXED: Final = "rack/chaos"
"""The same under another name; it is given the beginning of an answer and writes on."""
PROVIDERS: Final = """
[[provider]]
name = "rack"
kind = "openai-compatible"
base_url = "{url}"
quirks = {{ assistant_prefix = true }}
"""
_KEY: Final = re.compile(r"Question (\S+)\.")
_WORDS: Final = ("Wind", "wave", "Küste", "phare", "灯台", "маяк", "sea🌊", "gull", "🧑‍🚀", "tide", "rope", "night")
_PIECE_S: Final = (0.15, 0.45)
"""Few and slow: every piece costs all processes on its way, and time is what faults need, not pieces."""
_SHORT: Final = (1, 3)
_LONG: Final = (10, 15)
"""Pieces of an answer: most are over before anything can happen to them, some take four seconds."""
_LONG_SHARE: Final = 0.35
PROBE: Final = "probe"
"""The last part of a key whose answer is short: how soon the platform is well, not how much the model says."""


def question(key: str) -> str:
    """A question that the model recognizes."""
    return f"Question {key}. What do you see?"


_GO_ON: Final = "Your last message broke off in transmission"
"""How the message begins by which inference has a model go on."""
_REPEATED: Final = 60
"""Characters of the answer that the model is told to repeat before it goes on."""


def keys_of(text: str) -> list[str]:
    """Keys of the questions in a text, in their order."""
    return _KEY.findall(text)


def answer(keys: list[str], wording: int) -> tuple[str, ...]:
    """The pieces of the answer to the last question, after those before it."""
    alike = random.Random(keys[-1])
    is_long = alike.random() < _LONG_SHARE and not keys[-1].endswith(PROBE)
    size = alike.randint(*(_LONG if is_long else _SHORT))
    parts_at = alike.randrange(size) if wording else size
    other = random.Random(f"{keys[-1]} {wording}")
    words = [(alike if number < parts_at else other).choice(_WORDS) for number in range(size)]
    return (f"You asked {' '.join(keys)}; ", *(f"{word} " for word in words), "end.")


class ChaosProvider:
    """An OpenAI-compatible server.

    Args:
        history: gets every prompt and what was said to it.

    Attributes:
        illness: what goes wrong in every second request.
        port: where it listens.
    """

    def __init__(self, history: Notes) -> None:
        self._history = history
        self._numbers = count(1)
        self._chance = random.Random(0)
        self._said: dict[str, list[tuple[str, ...]]] = {}
        self.illness = Fault.NONE
        self.port = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI application."""
        content = await body_of(receive)
        if not content:  # the caller died while it asked
            return
        body: dict[str, Any] = json.loads(content)  # Any: the vendor's JSON
        asked, standing = _asked(body["messages"], is_prefixed=body.get("continue_final_message", False))
        keys = [key for text in asked for key in keys_of(text)]
        number = next(self._numbers)
        pieces = self._going_on(keys[-1], standing) or answer(keys, number % 2 * number)
        self._said.setdefault(keys[-1], []).append(pieces)
        fault = self.illness if self._chance.random() < 0.5 else Fault.NONE
        self._history.add("served", key=keys[-1], number=number, fault=fault.value, text="".join(pieces))
        left = _left(pieces, standing, repeated=0 if body.get("continue_final_message", False) else _REPEATED)
        double = ProviderDouble(pieces=left, fault=fault, after=self._chance.randrange(max(1, len(left))))

        async def slowly(message: Any) -> None:  # Any: as in ASGI
            if message["type"] == "http.response.body":
                await asyncio.sleep(self._chance.uniform(*_PIECE_S))
            await send(message)

        await double._answer(scope["path"], body, receive, slowly)

    def _going_on(self, key: str, standing: str) -> tuple[str, ...]:
        """The answer to this question that begins as `standing` does; none when none was given."""
        found = (pieces for pieces in self._said.get(key, []) if standing and "".join(pieces).startswith(standing))
        return next(found, ())


def _asked(messages: list[dict[str, Any]], *, is_prefixed: bool) -> tuple[list[str], str]:  # Any: the vendor's JSON
    """What people asked, and the answer that is to be gone on with, as inference shows it after a stream broke off."""
    said = [(message["role"], str(message["content"])) for message in messages]
    standing = ""
    if is_prefixed:
        standing = said.pop()[1]
    elif len(said) > 1 and said[-2][0] == "assistant" and said[-1][1].startswith(_GO_ON):
        standing = said[-2][1]
        said = said[:-2]
    return [text for role, text in said if role == "user"], standing


def _left(pieces: tuple[str, ...], standing: str, *, repeated: int) -> tuple[str, ...]:
    """What is left to say after `standing`, its last words first where the model is told to repeat them."""
    if not standing:
        return pieces
    left, length = [standing[-repeated:].lstrip()] if repeated else [], 0
    for piece in pieces:
        left += [piece[max(0, len(standing) - length) :]] if length + len(piece) > len(standing) else []
        length += len(piece)
    return tuple(left)


@asynccontextmanager
async def running_provider(history: Notes) -> AsyncIterator[ChaosProvider]:
    """The provider on a free port while the body runs."""
    provider = ChaosProvider(history)
    async with listening(provider, "provider", log_level="critical") as provider.port:
        yield provider
