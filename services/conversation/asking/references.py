"""What conversations and turns name of other services: a missing thing is refused at once, not by a failed answer."""

from typing import Protocol

from services.conversation.context import PromptReference
from services.conversation.model import Owner, Repeat
from services.conversation.ports import KnowledgeBases, Prompts
from services.mesh import telemetry
from services.mesh.errors import InvalidArgument, MeshError, NotFound

_log = telemetry.logger("conversation.references")


class RepeatStore(Protocol):
    """Which request ids were used; a part of `ConversationStore`."""

    async def is_repeat(self, owner: Owner, repeat: Repeat) -> bool:
        """Whether an earlier call used this request id, whatever its body."""
        ...


class References:
    """Checks what a caller names.

    Args:
        knowledge_bases: those of retrieval.
        prompts: those of inference.
        store: tells repeats, which get the answer of the first call whatever was deleted since.
    """

    def __init__(self, knowledge_bases: KnowledgeBases, prompts: Prompts, store: RepeatStore) -> None:
        self._knowledge_bases = knowledge_bases
        self._prompts = prompts
        self._store = store

    async def check(self, owner: Owner, knowledge_base_id: str, repeat: Repeat | None = None) -> None:
        """Returns when `knowledge_base_id` is empty or the owner's organization has it.

        While retrieval is away the name is taken as it is: an accepted question must not wait for it, and the search
        itself refuses what belongs to others.

        Raises:
            NotFound: there is no such knowledge base.
        """
        if not knowledge_base_id:
            return
        try:
            await self._knowledge_bases.require(owner, knowledge_base_id)
        except NotFound:
            if repeat is None or not await self._store.is_repeat(owner, repeat):
                raise
        except MeshError as error:
            _log.warning("reference_unchecked", reason=error.reason)

    async def check_prompt(self, owner: Owner, reference: PromptReference | None, repeat: Repeat | None = None) -> None:
        """Returns when there is no reference, or when the organization has such a prompt and its variables fit.

        While inference is away the reference is taken as it is: a wrong one fails the answer, with the reason.

        Raises:
            NotFound: there is no such prompt, alias or revision.
            InvalidArgument: a variable is missing or does not fit.
        """
        if reference is None:
            return
        try:
            await self._prompts.require(owner, reference)
        except (NotFound, InvalidArgument):
            if repeat is None or not await self._store.is_repeat(owner, repeat):
                raise
        except MeshError as error:
            _log.warning("prompt_unchecked", reason=error.reason)
