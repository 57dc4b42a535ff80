"""Turns for the tests of what stores do with them: asked, claimed, folded and done."""

from services.conversation.model import (
    Citation,
    FinishReason,
    Owner,
    RetrievalDecision,
    RetrievalTrace,
    TracePassage,
    Turn,
    TurnState,
    Usage,
)
from services.conversation.store import Store
from services.conversation.store.work import Claim, Ending, Fold, Hold, TurnRef
from tests.support.conversation import ADA, new_conversation, new_turn

DONE = Ending(TurnState.COMPLETED, FinishReason.STOP)
CITATION = Citation(
    document_id="doc_1", document_version=2, document_name="n", knowledge_base_id="kb_1", chunk_id="chk_1",
    part_id="p1", start=0, end=3, source_start=5, source_end=8, quote="Ada", locator="p. 1", score=0.5, number=1,
)  # fmt: skip
FOLD = Fold(
    last_sequence=7,
    text="Ada 🙂",
    citations=(CITATION,),
    retrieval=RetrievalTrace(
        decision=RetrievalDecision.WEAK,
        probability=0.5,
        passages=(TracePassage(chunk_id="chk_1", document_id="doc_1", document_name="n", score=0.5, number=1),),
    ),
    usage=Usage(input_tokens=1, cost_micros=None),
    model="scripted/one",
)


async def asked(store: Store, owner: Owner = ADA) -> Turn:
    conversation = await store.create_conversation(new_conversation(owner))
    return await store.create_turn(new_turn(conversation.id, owner=owner))


def ref_of(turn: Turn, owner: Owner = ADA) -> TurnRef:
    return TurnRef(owner.organization_id, turn.conversation_id, turn.id)


async def claimed(store: Store, turn: Turn, *, lease_s: float = 30.0) -> Claim:
    claim = await store.claim(ref_of(turn), lease_s=lease_s, epoch="e1", spend_attempt=True)
    assert claim is not None
    return claim


async def fold(store: Store, hold: Hold, *, lease_s: float = 30.0, limit: int = 100) -> bool:
    return await store.fold(hold, FOLD, lease_s=lease_s, sequence_limit=limit, epoch="e2")
