"""The names of generative AI are those of the conventions that are installed."""

import inspect
import re

import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from services.inference import genai

NAMES = sorted(set(re.findall(r'"(gen_ai\.[a-z_.]+)"', inspect.getsource(genai))))
KNOWN = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}


def test_there_are_names() -> None:
    assert "gen_ai.provider.name" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_name_is_one_of_the_conventions(name: str) -> None:
    assert name in KNOWN


def test_nothing_of_prompt_and_answer_has_a_name() -> None:
    assert not {"gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.system_instructions"} & set(NAMES)
