"""The two endpoints that every derived route is one of: a unary call, and a stream of events."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from google.protobuf.message import Message
from starlette.types import ASGIApp, Receive, Scope, Send

from edge import positions
from edge.http import Exchange, HeaderList
from edge.identity import Metadata
from edge.middleware import ROUTE_KEY
from edge.sse import Place
from edge.transcoding.contracts import Binding, Contract, bindings, contracts, message_of
from edge.transcoding.decoding import Decoders
from edge.transcoding.encoding import Encoders, dump
from edge.transcoding.requests import ETAG_FIELD, RequestReader, last_event_id, refusal
from edge.transcoding.routes import RouteTable, Template
from edge.transcoding.scalars import Misfit
from edge.transcoding.streams import Begin, EventWriter, StreamPump
from services.mesh.client import unary

NO_CONTENT: Final = 204


class Border(Protocol):
    """What endpoints need of the application around them."""

    async def metadata(self, exchange: Exchange, contract: Contract) -> Metadata:
        """Metadata of the call on behalf of the request's caller; raises when the method needs one."""
        ...

    def multicallable(self, contract: Contract) -> Any:  # Any: grpc.aio's own generic callables
        """The method on the channel of its service."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What all endpoints share."""

    border: Border
    pump: StreamPump
    encoders: Encoders
    decoders: Decoders


def derived_routes(tools: Tools) -> RouteTable:
    """A route for every HTTP binding of the contracts."""
    table = RouteTable()
    for binding in bindings():
        template = Template.parse(binding.template)
        table.add(binding.verb, template, endpoint(binding, template, tools))
    return table


def endpoint(binding: Binding, template: Template, tools: Tools) -> ASGIApp:
    """The endpoint of a binding."""
    kind = UnaryEndpoint if binding.contract.event_stream is None else StreamEndpoint
    return kind(binding, template, tools)


class UnaryEndpoint:
    """A unary call; one that a stream follows answers with it when the caller accepts events."""

    def __init__(self, binding: Binding, template: Template, tools: Tools) -> None:
        contract = binding.contract
        self.binding = binding
        self._border = tools.border
        self._reader = RequestReader(binding, template, tools.decoders)
        self._call = tools.border.multicallable(contract)
        self._field = binding.response_body
        output = contract.method.output_type
        answer = message_of(output.fields_by_name[self._field]) if self._field else output
        self._encode = tools.encoders.of(answer)
        self._has_etag = ETAG_FIELD in answer.fields_by_name
        self._status = contract.success_status
        self._followed = Followed(contract, tools) if contract.follow is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = self.binding.contract.method.full_name
        metadata = await self._border.metadata(exchange, self.binding.contract)
        request = await self._reader.read(exchange)
        metadata = (*metadata, *positions.sent(exchange))
        if self._followed is not None and exchange.accepts_event_stream:
            with self._followed.kept() as place:
                call = self._call(request, metadata=metadata)
                followed = await unary(call)
                seen = await positions.told(exchange, call)
                await self._followed.answer(exchange, followed, place, seen)
            return
        call = self._call(request, metadata=metadata)
        response: Message = await unary(call)
        headers = [*await positions.told(exchange, call)]
        if self._status == NO_CONTENT:
            await exchange.respond(NO_CONTENT, headers=headers)
            return
        answer: Any = getattr(response, self._field) if self._field else response  # Any: whatever the contract says
        if self._has_etag and answer.etag:
            headers.append((ETAG_FIELD, f'"{answer.etag}"'))
        await exchange.respond(self._status, dump(self._encode(answer)), headers=headers)


class StreamEndpoint:
    """A server stream: events for callers that accept them, else what there is now as one JSON document."""

    def __init__(self, binding: Binding, template: Template, tools: Tools) -> None:
        contract = binding.contract
        assert contract.event_stream is not None
        self.binding = binding
        self._border = tools.border
        self._reader = RequestReader(binding, template, tools.decoders)
        self._calls = Calls(contract, tools)
        self._pump = tools.pump
        self._writer = EventWriter(contract, tools.encoders)
        self._follow_field = contract.event_stream.follow_field

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        exchange = Exchange(scope, receive, send)
        scope[ROUTE_KEY] = self.binding.contract.method.full_name
        await self._border.metadata(exchange, self.binding.contract)  # before the request of a stranger is read
        request = await self._reader.read(exchange)
        begin = self._calls.of(exchange, request)
        if exchange.accepts_event_stream:
            await self._pump.run(exchange, begin, self._writer)
            return
        if self._follow_field:
            setattr(request, self._follow_field, False)
        document = await self._writer.document(await begin(None))
        await exchange.respond(200, dump(document))


class Calls:
    """The calls of one streaming method, one after the other where they break off."""

    def __init__(self, contract: Contract, tools: Tools) -> None:
        assert contract.event_stream is not None
        self._contract = contract
        self._border = tools.border
        self._call = tools.border.multicallable(contract)
        self._resume_field = contract.event_stream.resume_field

    def of(self, exchange: Exchange, request: Message) -> Begin:
        """Begins calls with `request` on behalf of the caller, each with metadata that is valid when it begins."""

        async def begin(last_id: int | None) -> Any:  # Any: see Begin
            if last_id is not None:
                setattr(request, self._resume_field, last_id)
            return self._call(request, metadata=await self._border.metadata(exchange, self._contract))

        return begin


class Followed:
    """The stream that the answer of a unary call continues into."""

    def __init__(self, contract: Contract, tools: Tools) -> None:
        assert contract.follow is not None
        self._target = contracts()[contract.follow.method]
        assert self._target.event_stream is not None
        self._calls = Calls(self._target, tools)
        self._pump = tools.pump
        self._writer = EventWriter(self._target, tools.encoders)
        self._path = contract.follow.response_path.split(".")
        self._request_field = contract.follow.request_field
        self._resume_field = self._target.event_stream.resume_field
        self._header = "x-parley-" + self._request_field.removesuffix("_id").replace("_", "-")
        self._location = _get_template(self._target)

    def kept(self) -> AbstractContextManager[Place]:
        """A place for the stream, before the call that it tells of."""
        return self._pump.kept()

    async def answer(self, exchange: Exchange, response: Message, place: Place, seen: HeaderList) -> None:
        """Stream the events of what `response` names; its id, where to resume and what was `seen` stand in headers."""
        value: Any = response  # Any: walks down the fields that the contract names
        for name in self._path:
            value = getattr(value, name)
        fields: dict[str, object] = {self._request_field: value}
        try:
            sequence = last_event_id(exchange)
        except Misfit as misfit:
            raise refusal(misfit) from None
        if sequence is not None and self._resume_field:
            fields[self._resume_field] = sequence
        headers = [(self._header, str(value)), *seen]
        if self._location is not None:
            headers.append(("location", self._location.fill({self._request_field: str(value)})))
        begin = self._calls.of(exchange, self._target.request_class(**fields))
        await self._pump.run(exchange, begin, self._writer, headers=headers, place=place)


def _get_template(contract: Contract) -> Template | None:
    for binding in bindings():
        if binding.contract is contract and binding.verb == "GET":
            return Template.parse(binding.template)
    return None
