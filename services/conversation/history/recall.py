"""What a prompt shows of the branch before its question: the newest messages, and a summary in place of older ones.

A summary counts only where the message that it goes through stands on the very branch, so a summary of another branch
is never shown. Where none fits, or none can be had, the branch stands for itself.
"""

from dataclasses import dataclass, replace
from typing import Protocol

from services.conversation.context import ContextPart, ContextReport, Omission, OmissionReason
from services.conversation.history.branches import Branch
from services.conversation.history.tokens import tokens_of
from services.conversation.model import ConversationId, Owner
from services.conversation.ports import PromptMessage
from services.conversation.store.summaries import Standing, Summary, SummaryStore
from services.mesh import telemetry
from services.mesh.errors import MeshError, NotFound

_log = telemetry.logger("conversation.recall")


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a prompt shows of a branch.

    Attributes:
        messages: with words, oldest first.
        summary: stands for what was said before them.
        omissions: what is not shown, and why.
    """

    messages: tuple[PromptMessage, ...]
    summary: Summary | None = None
    omissions: tuple[Omission, ...] = ()

    @property
    def tokens(self) -> int:
        """About how long the messages are."""
        return sum(tokens_of(message.text) for message in self.messages)

    def reported(self, given: ContextReport) -> ContextReport:
        """What inference tells of a prompt, with what was left out before inference saw it."""
        summary = self.summary
        return replace(
            given,
            summary_id="" if summary is None else summary.id,
            messages_summarised=0 if summary is None else summary.messages_covered,
            omissions=(*self.omissions, *given.omissions),
        )


class Recalling(Protocol):
    """Tells what a prompt shows of a branch."""

    async def past(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> Past:
        """Raises NotFound when the conversation is gone."""
        ...


class Everything:
    """See `Recalling`: the branch as it is."""

    async def past(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> Past:
        """See `Recalling.past`."""
        return _shown(branch.messages)


class Recall:
    """See `Recalling`: looks for a summary where the branch is so long that there may be one.

    Args:
        store: where summaries are.
        messages_max: that a branch holds; what is older is not even read.
        above_tokens: about how long a branch without a summary may be; None where no summaries are made.
    """

    def __init__(self, store: SummaryStore, *, messages_max: int, above_tokens: int | None) -> None:
        self._store = store
        self._messages_max = messages_max
        self._above_tokens = above_tokens

    async def past(self, owner: Owner, conversation_id: ConversationId, branch: Branch) -> Past:
        """See `Recalling.past`."""
        is_full = bool(branch.messages) and len(branch.messages) >= self._messages_max
        if not is_full and not self._may_be_summarised(branch):
            return _shown(branch.messages)
        try:
            standing = await self._store.standing(owner, conversation_id, leaf_id=branch.leaf_id)
        except NotFound:
            raise
        except MeshError as error:
            _log.warning("summary_unread", reason=error.reason)
            return _shown(branch.messages)
        return _since(standing if self._above_tokens is not None else replace(standing, summary=None), branch)

    def _may_be_summarised(self, branch: Branch) -> bool:
        if self._above_tokens is None:
            return False
        return sum(tokens_of(message.text) for message in branch.messages) > self._above_tokens


def _since(standing: Standing, branch: Branch) -> Past:
    """The summary, and the messages since that the branch holds."""
    summary = standing.summary
    covered = 0 if summary is None else summary.messages_covered
    shown = branch.messages[max(0, len(branch.messages) - standing.uncovered) :]
    before = (
        Omission(ContextPart.MESSAGES, OmissionReason.SUMMARISED, covered),
        Omission(ContextPart.MESSAGES, OmissionReason.LIMIT, standing.uncovered - len(shown)),
    )
    past = _shown(shown)
    return replace(past, summary=summary, omissions=(*(one for one in before if one.count > 0), *past.omissions))


def _shown(messages: tuple[PromptMessage, ...]) -> Past:
    spoken = tuple(message for message in messages if message.text)
    empty = len(messages) - len(spoken)
    return Past(
        messages=spoken,
        omissions=(Omission(ContextPart.MESSAGES, OmissionReason.EMPTY, empty),) if empty else (),
    )
