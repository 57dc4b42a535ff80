"""Reads what callers wish for."""

from collections.abc import Iterable, Mapping
from typing import Final

from parley.inference.v1 import generation_pb2, generation_service_pb2
from services.inference.model import Example, Generation, Message, Parameters, Passage, Prompt, Role
from services.inference.wire import caching
from services.inference.wire import parts as wire_parts
from services.inference.wire import prompts as wire_prompts
from services.mesh.errors import invalid_field

# A float of the wire has 24 bits; what the caller wrote has at most this many decimals of them.
_FLOAT_DECIMALS: Final = 6

_ROLES: Final[Mapping[generation_pb2.Role.ValueType, Role]] = {
    generation_pb2.ROLE_USER: Role.USER,
    generation_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}


def generation(
    request: generation_service_pb2.GenerateRequest | generation_service_pb2.StreamGenerateRequest,
) -> Generation:
    """The wish in a request.

    Raises:
        InvalidArgument: it does not keep to the contract.
    """
    streamed = request if isinstance(request, generation_service_pb2.StreamGenerateRequest) else None
    return Generation(
        model=request.model,
        fallback_models=tuple(request.fallback_models),
        prompt=prompt(request.prompt),
        parameters=parameters(request.parameters),
        cache=caching.use(request.cache),
        accepts_restart=streamed is not None and streamed.accepts_restart,
        continue_from="" if streamed is None else streamed.continue_from,
        prompt_ref=wire_prompts.reference(request),
    )


def counted(request: generation_service_pb2.CountTokensRequest) -> Generation:
    """The wish whose prompt is counted.

    Raises:
        InvalidArgument: it does not keep to the contract.
    """
    return Generation(model=request.model, prompt=prompt(request.prompt), prompt_ref=wire_prompts.reference(request))


def prompt(message: generation_pb2.Prompt) -> Prompt:
    """A prompt.

    Raises:
        InvalidArgument: a bound is passed, a role is missing, or there is no question.
    """
    return Prompt(
        system=message.system,
        examples=tuple(Example(example.user, example.assistant) for example in message.examples),
        messages=tuple(_messages(message.messages)),
        passages=tuple(Passage(passage.title, passage.text) for passage in message.passages),
        input_tokens_max=message.input_tokens_max,
        tools=tuple(wire_parts.tool(tool) for tool in message.tools),
        summary=message.summary,
    )


def parameters(message: generation_pb2.Parameters) -> Parameters:
    """Parameters; what is not set stays the provider's default.

    Raises:
        InvalidArgument: a value is out of bounds.
    """
    return Parameters(
        temperature=round(message.temperature, _FLOAT_DECIMALS) if message.HasField("temperature") else None,
        top_p=round(message.top_p, _FLOAT_DECIMALS) if message.HasField("top_p") else None,
        output_tokens_max=message.output_tokens_max if message.HasField("output_tokens_max") else None,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
        tool_choice=wire_parts.tool_choice(message.tool_choice) if message.HasField("tool_choice") else None,
        format=wire_parts.answer_format(message.format) if message.HasField("format") else None,
        reasoning=wire_parts.reasoning_wish(message.reasoning) if message.HasField("reasoning") else None,
    )


def _messages(messages: Iterable[generation_pb2.PromptMessage]) -> Iterable[Message]:
    for index, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            raise invalid_field(f"prompt.messages[{index}].role", "must be user or assistant")
        if not message.parts:
            yield Message(role, message.text)
        elif message.text:
            raise invalid_field(f"prompt.messages[{index}].text", "must be empty when there are parts")
        else:
            yield Message.of(role, tuple(wire_parts.part(part) for part in message.parts))
