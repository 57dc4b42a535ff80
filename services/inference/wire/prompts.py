"""Prompts, revisions, references and previews between the contract and the model."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from parley.inference.v1 import generation_pb2, generation_service_pb2, prompt_pb2, prompt_service_pb2
from services.inference.model import Example
from services.inference.prompts.model import Content, Defaults, NamedPrompt, Repeat, Revision, RevisionHead, Selection
from services.inference.prompts.preview import Preview
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.variables import Variable, VariableType
from services.mesh.errors import invalid_field
from services.mesh.idempotency import check_key, request_hash

_TYPES: Final[Mapping[prompt_pb2.VariableType.ValueType, VariableType]] = {
    prompt_pb2.VARIABLE_TYPE_STRING: VariableType.STRING,
    prompt_pb2.VARIABLE_TYPE_INTEGER: VariableType.INTEGER,
    prompt_pb2.VARIABLE_TYPE_NUMBER: VariableType.NUMBER,
    prompt_pb2.VARIABLE_TYPE_BOOLEAN: VariableType.BOOLEAN,
    prompt_pb2.VARIABLE_TYPE_ENUM: VariableType.ENUM,
}
_TYPE_NUMBERS: Final = {kind: number for number, kind in _TYPES.items()}
_SELECTIONS: Final[Mapping[prompt_pb2.ExampleSelection.ValueType, Selection]] = {
    prompt_pb2.EXAMPLE_SELECTION_UNSPECIFIED: Selection.FIXED,
    prompt_pb2.EXAMPLE_SELECTION_FIXED: Selection.FIXED,
    prompt_pb2.EXAMPLE_SELECTION_NEAREST: Selection.NEAREST,
}
_SELECTION_NUMBERS: Final = {
    Selection.FIXED: prompt_pb2.EXAMPLE_SELECTION_FIXED,
    Selection.NEAREST: prompt_pb2.EXAMPLE_SELECTION_NEAREST,
}
_CHANGEABLE: Final = frozenset({"name", "description"})
_PATH_SHOWN_CHARS: Final = 64
# A float of the wire has 24 bits; what the caller wrote has at most this many decimals of them.
_FLOAT_DECIMALS: Final = 6


def reference(
    request: generation_service_pb2.GenerateRequest
    | generation_service_pb2.StreamGenerateRequest
    | generation_service_pb2.CountTokensRequest,
) -> PromptReference | None:
    """The prompt that a request names; None for none."""
    if not request.HasField("prompt_ref"):
        return None
    message = request.prompt_ref
    return PromptReference(
        prompt=message.prompt,
        alias=message.alias,
        revision=_revision_number("prompt_ref.revision", message),
        variables=dict(message.variables),
    )


def reference_to_render(request: prompt_service_pb2.RenderPromptRequest) -> PromptReference:
    """The reference that is to be shown."""
    return PromptReference(
        prompt=request.prompt,
        alias=request.alias,
        revision=_revision_number("revision", request),
        variables=dict(request.variables),
    )


def repeat(
    request: prompt_service_pb2.CreatePromptRequest | prompt_service_pb2.CreatePromptRevisionRequest,
) -> Repeat | None:
    """What makes the call safe to repeat; without a request id it is not.

    Raises:
        InvalidArgument: the request id is malformed.
    """
    request_id = check_key(request.request_id)
    return Repeat(request_id, request_hash(request)) if request_id else None


def change(request: prompt_service_pb2.UpdatePromptRequest) -> tuple[str | None, str | None]:
    """The new name and the new description; None for what stays.

    Raises:
        InvalidArgument: the mask names something else.
    """
    body = request.named_prompt
    if request.HasField("update_mask"):
        paths = frozenset(request.update_mask.paths)
    else:
        paths = frozenset(field.name for field, _ in body.ListFields()) & _CHANGEABLE
    for path in sorted(paths - _CHANGEABLE):
        raise invalid_field("update_mask", f"{path[:_PATH_SHOWN_CHARS]!r} cannot be changed; name and description can")
    return body.name if "name" in paths else None, body.description if "description" in paths else None


def expected_revision(
    request: prompt_service_pb2.SetPromptAliasRequest | prompt_service_pb2.DeletePromptAliasRequest,
) -> int | None:
    """Where the alias has to lead to now; None when that does not matter."""
    return request.expected_revision if request.HasField("expected_revision") else None


def content(message: prompt_pb2.PromptContent) -> Content:
    """What a revision says.

    Raises:
        InvalidArgument: it does not keep to the contract.
    """
    selection = _SELECTIONS.get(message.selection)
    if selection is None:
        raise invalid_field("content.selection", "must be fixed or nearest")
    return Content(
        template=message.template,
        variables=tuple(_variables(message.variables)),
        examples=tuple(Example(example.user, example.assistant) for example in message.examples),
        selection=selection,
        nearest_count=message.nearest_count,
        defaults=_defaults(message.defaults),
    )


def to_prompt(prompt: NamedPrompt) -> prompt_pb2.NamedPrompt:
    """A prompt."""
    return prompt_pb2.NamedPrompt(
        id=prompt.id,
        name=prompt.name,
        description=prompt.description,
        latest_revision=prompt.latest_revision,
        aliases=prompt.aliases,
        create_time=_time(prompt.created_at),
        update_time=_time(prompt.updated_at),
        delete_time=None if prompt.deleted_at is None else _time(prompt.deleted_at),
    )


def to_revision(revision: RevisionHead) -> prompt_pb2.PromptRevision:
    """A revision, with its content unless it comes from a list."""
    return prompt_pb2.PromptRevision(
        name=revision.name,
        number=revision.number,
        content=_to_content(revision.content) if isinstance(revision, Revision) else None,
        note=revision.note,
        author_id=revision.author_id,
        create_time=_time(revision.created_at),
    )


def to_preview(preview: Preview) -> prompt_service_pb2.RenderPromptResponse:
    """What a model would be given."""
    return prompt_service_pb2.RenderPromptResponse(
        revision=preview.revision.name,
        system=preview.system,
        examples=[
            prompt_service_pb2.ChosenExample(
                number=one.number, example=_to_example(one.example), similarity=one.similarity
            )
            for one in preview.choice.chosen
        ],
        examples_unranked=preview.choice.is_unranked,
        problems=[
            prompt_service_pb2.VariableProblem(
                variable=problem.variable, is_missing=problem.is_missing, description=problem.description
            )
            for problem in preview.problems
        ],
        system_tokens=preview.system_tokens,
        example_tokens=preview.example_tokens,
        model=preview.model,
    )


def _revision_number(field: str, message: prompt_pb2.PromptReference | prompt_service_pb2.RenderPromptRequest) -> int:
    """Number of the revision that is named, 0 when none is."""
    if message.HasField("revision") and message.revision < 1:
        raise invalid_field(field, "must be 1 or more")
    return message.revision


def _variables(messages: Iterable[prompt_pb2.PromptVariable]) -> Iterable[Variable]:
    for index, message in enumerate(messages):
        kind = _TYPES.get(message.type)
        if kind is None:
            raise invalid_field(f"content.variables[{index}].type", "must be one of " + ", ".join(VariableType))
        yield Variable(
            name=message.name,
            type=kind,
            description=message.description,
            default=message.default_value if message.HasField("default_value") else None,
            minimum=message.minimum if message.HasField("minimum") else None,
            maximum=message.maximum if message.HasField("maximum") else None,
            length_max=message.length_max,
            choices=tuple(message.choices),
        )


def _defaults(message: prompt_pb2.PromptDefaults) -> Defaults:
    return Defaults(
        model=message.model,
        temperature=round(message.temperature, _FLOAT_DECIMALS) if message.HasField("temperature") else None,
        top_p=round(message.top_p, _FLOAT_DECIMALS) if message.HasField("top_p") else None,
        output_tokens_max=message.output_tokens_max if message.HasField("output_tokens_max") else None,
    )


def _to_content(given: Content) -> prompt_pb2.PromptContent:
    defaults = given.defaults
    return prompt_pb2.PromptContent(
        template=given.template,
        variables=[_to_variable(variable) for variable in given.variables],
        examples=[_to_example(example) for example in given.examples],
        selection=_SELECTION_NUMBERS[given.selection],
        nearest_count=given.nearest_count,
        defaults=prompt_pb2.PromptDefaults(
            model=defaults.model,
            temperature=defaults.temperature,
            top_p=defaults.top_p,
            output_tokens_max=defaults.output_tokens_max,
        )
        if defaults != Defaults()
        else None,
    )


def _to_variable(variable: Variable) -> prompt_pb2.PromptVariable:
    return prompt_pb2.PromptVariable(
        name=variable.name,
        type=_TYPE_NUMBERS[variable.type],
        description=variable.description,
        default_value=variable.default,
        minimum=variable.minimum,
        maximum=variable.maximum,
        length_max=variable.length_max,
        choices=variable.choices,
    )


def _to_example(example: Example) -> generation_pb2.Example:
    return generation_pb2.Example(user=example.user, assistant=example.assistant)


def _time(at: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(at)
    return message
