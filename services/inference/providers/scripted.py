"""Answers from a script, for tests, demonstrations and load: what to say, how fast, and where to fail.

Off unless a script is configured. A script is JSON, inline or in a file, one entry per model `scripted/<name>`:

    {"long": {"tokens": 200, "delay_ms": 20},
     "flaky": {"deltas": ["One. ", "Two."], "fail_after": 1, "reason": "PROVIDER_UNAVAILABLE"},
     "mute": {"deltas": [], "stall_after": 0}}
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from services.inference.model import FinishReason
from services.inference.prompts.tokens import TokenEstimate
from services.inference.providers import names
from services.inference.providers.base import Ended, Profile, ProviderEvent, Task, Text, TokenCounts
from services.mesh.errors import ERROR_BY_REASON, ModelUnknown, Reason

TOKENS: Final = TokenEstimate(ascii_chars_per_token=4.0)
TOKENS_MAX: Final = 100_000


class ScriptError(Exception):
    """The script is not what its format says."""


class Script(BaseModel):
    """One scripted model.

    Attributes:
        deltas: pieces of the answer, in their order.
        tokens: instead of pieces, this many numbered words.
        delay_ms: pause before each piece.
        first_delay_ms: pause before the first one, instead of `delay_ms`.
        fail_after: number of pieces after which it fails with `reason`.
        stall_after: number of pieces after which nothing more comes.
        cut_after: number of pieces after which the stream ends without its end.
        retry_after_s: what the error asks for.
        input_tokens, output_tokens: reported usage; none is reported when either is absent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    deltas: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    tokens: int = Field(default=0, ge=0, le=TOKENS_MAX)
    delay_ms: float = Field(default=0.0, ge=0.0)
    first_delay_ms: float | None = Field(default=None, ge=0.0)
    fail_after: int | None = Field(default=None, ge=0)
    reason: Reason = Reason.PROVIDER_UNAVAILABLE
    retry_after_s: float | None = None
    stall_after: int | None = Field(default=None, ge=0)
    cut_after: int | None = Field(default=None, ge=0)
    finish_reason: Literal["stop", "length", "content_filter"] = "stop"
    input_tokens: int | None = Field(default=None, ge=0)
    output_tokens: int | None = Field(default=None, ge=0)

    @property
    def pieces(self) -> tuple[str, ...]:
        """What is said, piece by piece."""
        return self.deltas or tuple(f"word{number} " for number in range(1, self.tokens + 1))


_SCRIPTS: Final = TypeAdapter(dict[str, Script])


def load(source: str) -> dict[str, Script]:
    """Scripts by name, from inline JSON (it begins with a brace) or from the file at the path `source`.

    Raises:
        ScriptError: the file cannot be read, or its content is no script.
    """
    try:
        content = source if source.lstrip().startswith("{") else Path(source).read_text(encoding="utf-8")
        return _SCRIPTS.validate_json(content)
    except (OSError, ValidationError) as error:
        raise ScriptError(f"the script of the scripted provider does not fit: {error}") from error


class ScriptedProvider:
    """Says what its scripts say."""

    def __init__(self, scripts: Mapping[str, Script]) -> None:
        self.profile: Final = Profile(name=names.SCRIPTED, tokens=TOKENS)
        self._scripts = dict(scripts)

    async def generate(self, task: Task) -> AsyncGenerator[ProviderEvent, None]:
        """See `Provider.generate`."""
        label = f"{names.SCRIPTED}/{task.model}"
        script = self._scripts.get(task.model)
        if script is None:
            raise ModelUnknown(f"no script is named {task.model!r}", metadata={"model": label})
        pieces = script.pieces
        for number in range(len(pieces) + 1):
            if number == script.fail_after:
                error = ERROR_BY_REASON[script.reason]
                raise error(metadata={"model": label}, retry_after_s=script.retry_after_s)
            if number == script.stall_after:
                await asyncio.Event().wait()
            if number == script.cut_after:
                return
            if number < len(pieces):
                await _pause(script, number)
                yield Text(pieces[number])
        yield Ended(FinishReason(script.finish_reason), _counts(script))

    async def close(self) -> None:
        """See `Provider.close`."""


async def _pause(script: Script, number: int) -> None:
    delay_ms = script.first_delay_ms if number == 0 and script.first_delay_ms is not None else script.delay_ms
    if delay_ms:
        await asyncio.sleep(delay_ms / 1000)


def _counts(script: Script) -> TokenCounts | None:
    if script.input_tokens is None or script.output_tokens is None:
        return None
    return TokenCounts(input_tokens=script.input_tokens, output_tokens=script.output_tokens)
