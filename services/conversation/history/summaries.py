"""Summaries of older history, made behind the answers: when a branch has grown long, its oldest part is condensed.

A turn that has ended hints at its branch; this process then makes the next summary from the last one and the messages
since. Nothing depends on that: a hint that is lost, a model that fails and a worker that dies leave the branch as it
is, and a later turn hints again. A claim in the store keeps two workers from paying for one summary.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import Final

from services.conversation.history.recall import Past
from services.conversation.history.summary_wording import WORDING_REVISION, instructions, record, shortened
from services.conversation.history.tokens import tokens_of
from services.conversation.model import (
    ConversationId,
    FinishReason,
    GenerationParameters,
    Message,
    MessageState,
    Owner,
    Role,
)
from services.conversation.ports import GenerationRequest, PromptMessage, Purpose, WholeText, Writer
from services.conversation.store.conversations import ConversationStore
from services.conversation.store.summaries import NewSummary, Standing, SummaryStore
from services.conversation.store.work import Claim
from services.mesh import telemetry
from services.mesh.errors import MeshError

WAITING_MAX: Final = 1_000
"""Branches that wait for their summary in one process; a later turn hints again at what is turned away."""
AT_ONCE: Final = 4
"""Summaries that one process has made at a time: they must not take the place of answers."""
READ_MAX: Final = 200
"""Messages that one summary covers at most; what is left is the next one's."""
PAUSE_S: Final = 60.0
"""How long a conversation is left alone after a failure, whichever worker met it."""
USELESS_PAUSE_S: Final = 3_600.0
"""The same after a text that was no summary: it was paid for, and the next one may well be no better."""
SLACK_S: Final = 15.0
"""A claim outlives the call that it is for by this much: for the reads and writes around it."""
GIVE_UP_S: Final = 0.8
"""For giving a claim back while the process leaves."""
SUMMARY_LENGTH_MAX: Final = 32_000
"""Code points of a summary; the contract of inference."""
MESSAGE_SHARE: Final = 4
"""A single message takes at most this part of what a summary is made from."""
WORD_SHARE: Final = 2
"""A summary is asked for in this many times fewer words than it may have tokens, so that it comes to its end."""

_log = telemetry.logger("conversation.summaries")
_MADE: Final = telemetry.counter(
    "parley_conversation_summaries", "Attempts at a summary of older history, by what came of them.", ["outcome"]
)
_CONDENSED: Final = telemetry.counter(
    "parley_conversation_summarised_tokens", "About how long histories were before and after they were summarised.",
    ["side"],
)  # fmt: skip


class Outcome(StrEnum):
    """What came of an attempt at a summary: kept; not needed; somebody else's; without use, or failed."""

    KEPT = "kept"
    UNNEEDED = "unneeded"
    CLAIMED = "claimed"
    LOST = "lost"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """When summaries are made, and how long they are; see the settings of the same names.

    Attributes:
        messages_max: that a prompt holds; a branch with more is summarised however short it is.
    """

    model: str
    above_tokens: int
    keep_tokens: int
    tokens_max: int
    input_tokens_max: int
    time_s: float
    messages_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """A branch that has become long; `credential_id` is whose budgets paid for its newest answer."""

    owner: Owner
    conversation_id: ConversationId
    leaf_id: str
    credential_id: str


@dataclass(frozen=True, slots=True)
class _Part:
    """What a summary is to be made of."""

    standing: Standing
    messages: tuple[Message, ...]


class UselessError(Exception):
    """What the model wrote is no summary; the text says why."""


class Summaries:
    """Makes summaries while it runs.

    Args:
        store: where they are kept.
        conversations: what they are made of.
        writer: who writes them.
        measure: when, and how long.
        new_id: makes ids.
    """

    def __init__(
        self,
        store: SummaryStore,
        conversations: ConversationStore,
        writer: Writer,
        measure: Measure,
        *,
        new_id: Callable[[str], str],
    ) -> None:
        self._store = store
        self._conversations = conversations
        self._writer = writer
        self._measure = measure
        self._new_id = new_id
        self._waiting: dict[tuple[Owner, str], Grown] = {}
        self._arrived = asyncio.Event()

    def ended(self, claim: Claim, past: Past, answer: str) -> None:
        """A turn has ended that was shown `past`; returns at once."""
        shown = past.tokens + tokens_of(claim.question.text or "") + tokens_of(answer)
        if not self._is_long(shown, len(past.messages) + 2):
            return
        key = (claim.owner, claim.turn.conversation_id)
        if key not in self._waiting and len(self._waiting) >= WAITING_MAX:
            return
        self._waiting[key] = Grown(
            owner=claim.owner,
            conversation_id=claim.turn.conversation_id,
            leaf_id=claim.answer.id,
            credential_id=claim.credential_id,
        )
        self._arrived.set()

    async def run(self) -> None:
        """Works until cancelled."""
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._arrived.wait()
                await places.acquire()
                if not self._waiting:
                    self._arrived.clear()
                    places.release()
                    continue
                grown = self._waiting.pop(next(iter(self._waiting)))
                task = group.create_task(self._tried(grown), name=f"summary {grown.conversation_id}")
                task.add_done_callback(lambda _: places.release())

    async def summarise(self, grown: Grown) -> Outcome:
        """Makes the next summary of a branch, if it needs one and nobody else makes one.

        Raises:
            MeshError: the store is away, or the conversation is gone.
        """
        token = self._new_id("claim")
        lease_s = self._measure.time_s + SLACK_S
        if not await self._store.claim_summary(grown.owner, grown.conversation_id, token=token, lease_s=lease_s):
            return Outcome.CLAIMED
        pause_s = PAUSE_S
        try:
            part = await self._part(grown)
            if part.messages:
                outcome = await self._kept(grown, await self._made(grown, part), token)
            else:
                outcome = Outcome.UNNEEDED
            pause_s = 0.0
            return outcome
        except UselessError:
            pause_s = USELESS_PAUSE_S
            raise
        except asyncio.CancelledError:
            pause_s = 0.0
            raise
        finally:  # which changes nothing where the summary was kept
            await self._left(grown, token, pause_s)

    async def _tried(self, grown: Grown) -> None:
        try:
            outcome = await self.summarise(grown)
        except MeshError as error:
            outcome = Outcome.FAILED
            _log.warning(
                "summary_failed", conversation_id=grown.conversation_id, reason=error.reason, problem=error.message
            )
        except UselessError as useless:
            outcome = Outcome.FAILED
            _log.warning("summary_useless", conversation_id=grown.conversation_id, problem=str(useless))
        except Exception:  # noqa: BLE001 - the border of one summary: its failure must not end the others
            outcome = Outcome.FAILED
            _log.exception("summary_broken", conversation_id=grown.conversation_id)
        _MADE.labels(outcome.value).inc()

    async def _part(self, grown: Grown) -> _Part:
        """What is to be summarised now; no messages where nothing is."""
        standing = await self._store.standing(grown.owner, grown.conversation_id, leaf_id=grown.leaf_id)
        covered = standing.length - standing.uncovered
        messages, _ = await self._conversations.branch(
            grown.owner, grown.conversation_id, leaf_id=grown.leaf_id, after_depth=covered - 1, size=READ_MAX
        )
        shown = sum(tokens_of(message.text or "") for message in messages)
        if not self._is_long(shown, standing.uncovered):
            return _Part(standing, ())
        return _Part(standing, self._oldest(messages, unread=standing.uncovered - len(messages)))

    def _is_long(self, tokens: int, messages: int) -> bool:
        return tokens > self._measure.above_tokens or messages > self._measure.messages_max

    def _oldest(self, messages: Sequence[Message], *, unread: int) -> tuple[Message, ...]:
        """The oldest messages, up to a question; the newest exchange of the branch is never among them."""
        measure = self._measure
        sizes = [tokens_of(shortened(message.text or "", self._message_tokens_max)) for message in messages]
        newest = min(_fitting(reversed(sizes), measure.keep_tokens), measure.messages_max // 2)
        kept_from = len(messages) - max(0, newest - unread)
        unfinished = [at for at, message in enumerate(messages) if message.state is MessageState.IN_PROGRESS]
        bound = min([_fitting(sizes, measure.input_tokens_max), *unfinished])
        questions = [at for at, message in enumerate(messages) if at and message.role is Role.USER]
        wanted = next((at for at in questions if at >= kept_from), max(questions, default=0))
        return tuple(messages[: max((at for at in questions if at <= min(wanted, bound)), default=0)])

    @property
    def _message_tokens_max(self) -> int:
        return self._measure.input_tokens_max // MESSAGE_SHARE

    async def _made(self, grown: Grown, part: _Part) -> NewSummary:
        """Raises MeshError when nobody can write it, UselessError when what was written is none."""
        before = part.standing.summary
        told = [PromptMessage(message.role, message.text) for message in part.messages if message.text]
        text = record("" if before is None else before.text, told, message_tokens_max=self._message_tokens_max)
        measure = self._measure
        request = GenerationRequest(
            model=measure.model,
            system=instructions(words=measure.tokens_max // WORD_SHARE),
            examples=(),
            messages=(PromptMessage(Role.USER, text),),
            passages=(),
            parameters=GenerationParameters(output_tokens_max=measure.tokens_max),
            credential_id=grown.credential_id,
            purpose=Purpose.SUMMARY,
        )
        written = await self._writer.write(grown.owner, request, time_s=measure.time_s)
        tokens_before = sum(tokens_of(one.text) for one in told) + (0 if before is None else before.tokens_after)
        return NewSummary(
            id=self._new_id("sum"),
            conversation_id=grown.conversation_id,
            through_message_id=part.messages[-1].id,
            messages_covered=part.standing.length - part.standing.uncovered + len(part.messages),
            made_from="" if before is None else before.id,
            text=_useful(written, tokens_before),
            model=written.model,
            wording_revision=WORDING_REVISION,
            tokens_before=tokens_before,
            tokens_after=tokens_of(written.text.strip()),
            usage=written.usage,
        )

    async def _kept(self, grown: Grown, new: NewSummary, token: str) -> Outcome:
        if not await self._store.keep_summary(grown.owner, new, token=token):
            return Outcome.LOST
        _CONDENSED.labels("before").inc(new.tokens_before)
        _CONDENSED.labels("after").inc(new.tokens_after)
        _log.info(
            "summary_kept",
            summary_id=new.id,
            conversation_id=new.conversation_id,
            made_from=new.made_from,
            messages_covered=new.messages_covered,
            tokens_before=new.tokens_before,
            tokens_after=new.tokens_after,
            model=new.model,
        )
        return Outcome.KEPT

    async def _left(self, grown: Grown, token: str, pause_s: float) -> None:
        """Gives a claim back; where that fails, it lapses."""
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await self._store.leave_summary(grown.owner, grown.conversation_id, token=token, pause_s=pause_s)
        except (MeshError, TimeoutError):
            _log.warning("summary_claim_left", conversation_id=grown.conversation_id)


def _fitting(sizes: Iterable[int], room: int) -> int:
    """How many of the first sizes fit together."""
    return sum(total <= room for total in accumulate(sizes))


def _useful(written: WholeText, tokens_before: int) -> str:
    """The summary. Raises UselessError."""
    text = written.text.replace("\0", "\ufffd").strip()
    if written.finish_reason is not FinishReason.STOP:
        raise UselessError(f"the model ended with {written.finish_reason.value}")
    if not text or len(text) > SUMMARY_LENGTH_MAX:
        raise UselessError(f"the model wrote {len(text)} characters")
    if tokens_of(text) >= tokens_before:
        raise UselessError("what the model wrote is no shorter than what it is of")
    return text
