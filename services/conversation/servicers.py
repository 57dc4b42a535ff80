"""The services of `parley.conversation.v1`: translation only."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.message import Message as ProtoMessage

from parley.conversation.v1 import (
    conversation_service_pb2,
    conversation_service_pb2_grpc,
    turn_service_pb2,
    turn_service_pb2_grpc,
)
from services.conversation.asking.actions import Action, Continue, Edit, NewQuestion, Regenerate
from services.conversation.asking.conversations import Conversations, FeedbackBook, ImportedMessage, Messages
from services.conversation.asking.turns import Ask, Turns
from services.conversation.asking.watching import Watching
from services.conversation.model import Owner, Repeat, TurnOverrides
from services.conversation.wire import changes, events, resources, summaries
from services.mesh import idempotency, pages, rpc
from services.mesh.errors import invalid_field
from services.mesh.rpc import RpcContext

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class ConversationServicer(conversation_service_pb2_grpc.ConversationServiceServicer):
    """Serves parley.conversation.v1.ConversationService."""

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def CreateConversation(
        self, request: conversation_service_pb2.CreateConversationRequest, context: RpcContext
    ) -> conversation_service_pb2.CreateConversationResponse:
        """See the contract."""
        messages = [
            ImportedMessage(resources.role_of(message.role, f"messages[{index}].role"), message.text)
            for index, message in enumerate(request.messages)
        ]
        conversation = await self._conversations.create(
            _owner(), changes.settings_of(request), messages, repeat=_repeat("CreateConversation", request)
        )
        shown = resources.conversation_to_wire(conversation)
        return conversation_service_pb2.CreateConversationResponse(conversation=shown)

    async def GetConversation(
        self, request: conversation_service_pb2.GetConversationRequest, context: RpcContext
    ) -> conversation_service_pb2.GetConversationResponse:
        """See the contract."""
        conversation = await self._conversations.get(_owner(), request.conversation_id)
        shown = resources.conversation_to_wire(conversation)
        return conversation_service_pb2.GetConversationResponse(conversation=shown)

    async def ListConversations(
        self, request: conversation_service_pb2.ListConversationsRequest, context: RpcContext
    ) -> conversation_service_pb2.ListConversationsResponse:
        """See the contract."""
        query = ("ListConversations",)
        page = pages.parse_page(request.page_size, request.page_token, query=query)
        after = None
        if page.after is not None:
            micros, last_id = _pair(page.after)
            after = (_EPOCH + int(micros) * _MICROSECOND, str(last_id))
        found = await self._conversations.list(_owner(), size=page.size + 1, after=after)
        response = conversation_service_pb2.ListConversationsResponse(
            conversations=[resources.conversation_to_wire(conversation) for conversation in found[: page.size]]
        )
        if len(found) > page.size:
            last = found[page.size - 1]
            position = ((last.update_time - _EPOCH) // _MICROSECOND, last.id)
            response.next_page_token = pages.next_page_token(position, query=query)
        return response

    async def UpdateConversation(
        self, request: conversation_service_pb2.UpdateConversationRequest, context: RpcContext
    ) -> conversation_service_pb2.UpdateConversationResponse:
        """See the contract."""
        conversation = await self._conversations.update(
            _owner(), request.conversation_id, changes.changes_of(request), etag=request.conversation.etag
        )
        shown = resources.conversation_to_wire(conversation)
        return conversation_service_pb2.UpdateConversationResponse(conversation=shown)

    async def DeleteConversation(
        self, request: conversation_service_pb2.DeleteConversationRequest, context: RpcContext
    ) -> conversation_service_pb2.DeleteConversationResponse:
        """See the contract."""
        await self._conversations.delete(_owner(), request.conversation_id)
        return conversation_service_pb2.DeleteConversationResponse()


class MessageServicer(conversation_service_pb2_grpc.MessageServiceServicer):
    """Serves parley.conversation.v1.MessageService."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    async def ListMessages(
        self, request: conversation_service_pb2.ListMessagesRequest, context: RpcContext
    ) -> conversation_service_pb2.ListMessagesResponse:
        """See the contract."""
        if not request.tree:
            return await self._branch(request)
        if request.leaf_message_id:
            raise invalid_field("leaf_message_id", "empty when tree is true")
        query = ("ListMessages", request.conversation_id, "tree")
        page = pages.parse_page(request.page_size, request.page_token, query=query)
        after_id = "" if page.after is None else str(page.after[0])
        found = await self._messages.tree(_owner(), request.conversation_id, after_id=after_id, size=page.size + 1)
        response = conversation_service_pb2.ListMessagesResponse(
            messages=[resources.message_to_wire(message) for message in found[: page.size]]
        )
        if len(found) > page.size:
            response.next_page_token = pages.next_page_token((found[page.size - 1].id,), query=query)
        return response

    async def _branch(
        self, request: conversation_service_pb2.ListMessagesRequest
    ) -> conversation_service_pb2.ListMessagesResponse:
        owner = _owner()
        query = ("ListMessages", request.conversation_id, request.leaf_message_id)
        page = pages.parse_page(request.page_size, request.page_token, query=query)
        if page.after is None:
            # The first page settles which branch the others belong to, whatever is written meanwhile.
            last_leaf = await self._messages.leaf_of(owner, request.conversation_id)
            leaf_id, depth = request.leaf_message_id or last_leaf, -1
        else:
            leaf, position = _pair(page.after)
            leaf_id, depth = str(leaf), int(position)
        found, is_more = await self._messages.branch(
            owner, request.conversation_id, leaf_id=leaf_id, after_depth=depth, size=page.size
        )
        response = conversation_service_pb2.ListMessagesResponse(
            messages=[resources.message_to_wire(message) for message in found]
        )
        if is_more:
            response.next_page_token = pages.next_page_token((leaf_id, depth + len(found)), query=query)
        return response

    async def GetMessage(
        self, request: conversation_service_pb2.GetMessageRequest, context: RpcContext
    ) -> conversation_service_pb2.GetMessageResponse:
        """See the contract."""
        message = await self._messages.get(_owner(), request.message_id)
        return conversation_service_pb2.GetMessageResponse(message=resources.message_to_wire(message))

    async def GetSummary(
        self, request: conversation_service_pb2.GetSummaryRequest, context: RpcContext
    ) -> conversation_service_pb2.GetSummaryResponse:
        """See the contract."""
        summary = await self._messages.summary(_owner(), request.summary_id)
        return conversation_service_pb2.GetSummaryResponse(summary=summaries.summary_to_wire(summary))


class FeedbackServicer(conversation_service_pb2_grpc.FeedbackServiceServicer):
    """Serves parley.conversation.v1.FeedbackService."""

    def __init__(self, book: FeedbackBook) -> None:
        self._book = book

    async def SetFeedback(
        self, request: conversation_service_pb2.SetFeedbackRequest, context: RpcContext
    ) -> conversation_service_pb2.SetFeedbackResponse:
        """See the contract."""
        rating = resources.rating_of(request.rating)
        feedback = await self._book.set(_owner(), request.message_id, rating, request.comment)
        return conversation_service_pb2.SetFeedbackResponse(feedback=resources.feedback_to_wire(feedback))

    async def GetFeedback(
        self, request: conversation_service_pb2.GetFeedbackRequest, context: RpcContext
    ) -> conversation_service_pb2.GetFeedbackResponse:
        """See the contract."""
        feedback = await self._book.get(_owner(), request.message_id)
        return conversation_service_pb2.GetFeedbackResponse(feedback=resources.feedback_to_wire(feedback))


class TurnServicer(turn_service_pb2_grpc.TurnServiceServicer):
    """Serves parley.conversation.v1.TurnService."""

    def __init__(self, turns: Turns, watching: Watching) -> None:
        self._turns = turns
        self._watching = watching

    async def CreateTurn(
        self, request: turn_service_pb2.CreateTurnRequest, context: RpcContext
    ) -> turn_service_pb2.CreateTurnResponse:
        """See the contract."""
        ask = Ask(
            conversation_id=request.conversation_id,
            action=_action_of(request),
            on_conflict=resources.conflict_of(request.on_conflict),
            credential_id=rpc.principal().credential_id,
            # Not as a timedelta, which has no place for the longest durations.
            time_s=request.time_max.seconds + request.time_max.nanos / 1e9 if request.HasField("time_max") else None,
            overrides=TurnOverrides(
                model=request.model,
                knowledge_base_id=request.knowledge_base_id,
                retrieval_mode=resources.mode_of(request.retrieval_mode, "retrieval_mode"),
                parameters=resources.parameters_of(request.parameters),
            ),
        )
        turn = await self._turns.create(_owner(), ask, repeat=_repeat("CreateTurn", request))
        return turn_service_pb2.CreateTurnResponse(turn=resources.turn_to_wire(turn))

    async def GetTurn(
        self, request: turn_service_pb2.GetTurnRequest, context: RpcContext
    ) -> turn_service_pb2.GetTurnResponse:
        """See the contract."""
        turn = await self._turns.get(_owner(), request.turn_id)
        return turn_service_pb2.GetTurnResponse(turn=resources.turn_to_wire(turn))

    async def ListTurns(
        self, request: turn_service_pb2.ListTurnsRequest, context: RpcContext
    ) -> turn_service_pb2.ListTurnsResponse:
        """See the contract."""
        query = ("ListTurns", request.conversation_id)
        page = pages.parse_page(request.page_size, request.page_token, query=query)
        before_id = "" if page.after is None else str(page.after[0])
        found = await self._turns.list(_owner(), request.conversation_id, size=page.size + 1, before_id=before_id)
        response = turn_service_pb2.ListTurnsResponse(
            turns=[resources.turn_to_wire(turn) for turn in found[: page.size]]
        )
        if len(found) > page.size:
            response.next_page_token = pages.next_page_token((found[page.size - 1].id,), query=query)
        return response

    async def CancelTurn(
        self, request: turn_service_pb2.CancelTurnRequest, context: RpcContext
    ) -> turn_service_pb2.CancelTurnResponse:
        """See the contract."""
        turn = await self._turns.cancel(_owner(), request.turn_id)
        return turn_service_pb2.CancelTurnResponse(turn=resources.turn_to_wire(turn))

    async def RetryTurn(
        self, request: turn_service_pb2.RetryTurnRequest, context: RpcContext
    ) -> turn_service_pb2.RetryTurnResponse:
        """See the contract."""
        on_conflict = resources.conflict_of(request.on_conflict)
        turn = await self._turns.retry(
            _owner(),
            request.turn_id,
            on_conflict=on_conflict,
            repeat=_repeat("RetryTurn", request),
            credential_id=rpc.principal().credential_id,
        )
        return turn_service_pb2.RetryTurnResponse(turn=resources.turn_to_wire(turn))

    async def StreamTurnEvents(
        self, request: turn_service_pb2.StreamTurnEventsRequest, context: RpcContext
    ) -> AsyncIterator[turn_service_pb2.StreamTurnEventsResponse]:
        """See the contract."""
        follow = request.follow if request.HasField("follow") else True
        watched = self._watching.watch(_owner(), request.turn_id, after_sequence=request.after_sequence, follow=follow)
        async with aclosing(watched) as batches:
            async for batch in batches:
                yield turn_service_pb2.StreamTurnEventsResponse(events=[events.event_to_wire(event) for event in batch])


def _action_of(request: turn_service_pb2.CreateTurnRequest) -> Action:
    match request.WhichOneof("action"):
        case "new":
            parent_id = request.new.parent_id if request.new.HasField("parent_id") else None
            return NewQuestion(request.new.text, parent_id)
        case "edit_of":
            return Edit(request.edit_of.message_id, request.edit_of.text)
        case "regenerate_of":
            return Regenerate(request.regenerate_of.message_id)
        case "continue_of":
            return Continue(request.continue_of.message_id)
        case _:
            raise invalid_field("action", "one of new, edit_of, regenerate_of, continue_of")


def _owner() -> Owner:
    principal = rpc.principal()
    return Owner(principal.organization_id, principal.subject_id)


def _repeat(method: str, request: ProtoMessage) -> Repeat | None:
    """What makes the call safe to repeat; without a request id it is not."""
    request_id = idempotency.check_key(str(getattr(request, "request_id")))  # noqa: B009 - a field of both messages
    if not request_id:
        return None
    return Repeat(method=method, request_id=request_id, body_hash=idempotency.request_hash(request))


def _pair(position: pages.Position) -> tuple[str | int, str | int]:
    """A page position of two parts; the token's digest has vouched for the query, not for the shape."""
    if len(position) != 2:  # noqa: PLR2004 - a pair
        raise invalid_field("page_token", "must be the next_page_token of the page before")
    return position[0], position[1]
