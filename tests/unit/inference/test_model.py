from collections.abc import Callable

import pytest

from services.inference.model import (
    CONTINUE_FROM_CHARS_MAX,
    EXAMPLES_MAX,
    FALLBACK_MODELS_MAX,
    MESSAGES_MAX,
    MODEL_NAME_CHARS_MAX,
    PASSAGES_MAX,
    STOP_TEXTS_MAX,
    SYSTEM_CHARS_MAX,
    TEMPERATURE_MAX,
    Example,
    Generation,
    Parameters,
    Passage,
    Prompt,
)
from services.mesh.errors import InvalidArgument
from tests.support.inference import assistant, prompt, user

ASK = (user("?"),)

LIMITS: list[tuple[str, int, Callable[[int], object]]] = [
    ("prompt.system", SYSTEM_CHARS_MAX, lambda n: Prompt(system="x" * n, messages=ASK)),
    ("prompt.examples", EXAMPLES_MAX, lambda n: Prompt(examples=(Example("a", "b"),) * n, messages=ASK)),
    ("prompt.messages", MESSAGES_MAX, lambda n: Prompt(messages=ASK * n)),
    ("prompt.passages", PASSAGES_MAX, lambda n: Prompt(messages=ASK, passages=(Passage("t", "x"),) * n)),
    ("parameters.stop", STOP_TEXTS_MAX, lambda n: Parameters(stop=("x",) * n)),
    ("continue_from", CONTINUE_FROM_CHARS_MAX, lambda n: Generation(prompt=prompt(), continue_from="x" * n)),
    ("model", MODEL_NAME_CHARS_MAX, lambda n: Generation(prompt=prompt(), model="m" * n)),
    ("fallback_models", FALLBACK_MODELS_MAX, lambda n: Generation(prompt=prompt(), fallback_models=("m",) * n)),
    ("fallback_models", MODEL_NAME_CHARS_MAX, lambda n: Generation(prompt=prompt(), fallback_models=("m" * n,))),
]


@pytest.mark.parametrize(("field", "limit", "make"), LIMITS)
def test_limit_is_held_at_its_border(field: str, limit: int, make: Callable[[int], object]) -> None:
    make(limit - 1)
    make(limit)
    with pytest.raises(InvalidArgument) as error:
        make(limit + 1)

    assert [violation.field for violation in error.value.fields] == [field]


@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("prompt.messages", lambda: Prompt(messages=())),
        ("prompt.messages", lambda: Prompt(messages=(assistant("hello"),))),
        ("prompt.messages", lambda: Prompt(messages=(user("  "),))),
        ("prompt.input_tokens_max", lambda: Prompt(messages=ASK, input_tokens_max=-1)),
        ("parameters.temperature", lambda: Parameters(temperature=TEMPERATURE_MAX + 0.1)),
        ("parameters.temperature", lambda: Parameters(temperature=-0.1)),
        ("parameters.temperature", lambda: Parameters(temperature=float("nan"))),
        ("parameters.top_p", lambda: Parameters(top_p=1.1)),
        ("parameters.top_p", lambda: Parameters(top_p=-0.1)),
        ("parameters.output_tokens_max", lambda: Parameters(output_tokens_max=0)),
        ("parameters.stop", lambda: Parameters(stop=("",))),
        ("fallback_models", lambda: Generation(prompt=prompt(), fallback_models=("",))),
    ],
)
def test_value_out_of_bounds_names_its_field(field: str, make: Callable[[], object]) -> None:
    with pytest.raises(InvalidArgument) as error:
        make()

    assert [violation.field for violation in error.value.fields] == [field]
