"""What becomes of a wish that names a prompt, and what its reader is told."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from services.inference.generating.generator import TokenCount
from services.inference.model import (
    EXAMPLES_MAX,
    Answer,
    ContextReport,
    Event,
    Example,
    Finished,
    FinishReason,
    Generation,
    Parameters,
    Prompt,
    Started,
    TextDelta,
    Usage,
)
from services.inference.money.purse import Payer
from services.inference.prompts.examples import Examples
from services.inference.prompts.model import Content, Revision
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.resolving import PROBLEMS_TOLD_MAX, PromptAnswers
from services.inference.prompts.store_memory import MemoryPrompts
from services.inference.prompts.variables import Variable, VariableType
from services.mesh.errors import InvalidArgument
from tests.support.inference import user
from tests.support.prompts import AUTHOR, FULL, NOON, PAYER, FakeEncoder, reference

REVISION = Revision(prompt_id="prm_1", number=7, content=FULL, author_id=AUTHOR, created_at=NOON)
WISH = Generation(prompt=Prompt(messages=(user("A note?"),), system="Be short.", examples=(Example("own", "one"),)))
REPORT = ContextReport(system_tokens=3)
ANSWER = Answer(
    text="Yes.",
    citations=(),
    finish_reason=FinishReason.STOP,
    model="m",
    usage=Usage(input_tokens=1, output_tokens=1),
    context=REPORT,
)


@dataclass
class Behind:
    """Implements `answering.Answers`: says yes, and remembers what it was asked."""

    wishes: list[Generation] = field(default_factory=list)

    async def stream(self, wish: Generation, payer: Payer) -> AsyncGenerator[Event, None]:
        self.wishes.append(wish)
        yield Started(model="m", context=REPORT)
        yield TextDelta(0, "Yes.")
        yield Finished(ANSWER)

    async def answer(self, wish: Generation, payer: Payer) -> Answer:
        self.wishes.append(wish)
        return ANSWER

    async def count_tokens(self, wish: Generation, payer: Payer) -> TokenCount:
        self.wishes.append(wish)
        return TokenCount(len(wish.prompt.system), is_estimated=True)


@dataclass
class One:
    """Implements `lookup.Revisions`: every reference leads to the one revision."""

    revision: Revision = REVISION
    found: list[PromptReference] = field(default_factory=list)

    async def find(self, organization_id: str, reference: PromptReference) -> Revision:
        self.found.append(reference)
        return self.revision


@pytest.fixture
def behind() -> Behind:
    return Behind()


def before(behind: Behind, *, revisions: One | None = None, encoder: FakeEncoder | None = None) -> PromptAnswers:
    return PromptAnswers(behind, revisions or One(), Examples(MemoryPrompts(), encoder or FakeEncoder()))


def named(**changes: Any) -> Generation:
    """Any: fields by name."""
    return replace(WISH, prompt_ref=reference(name="Ada", words="20"), **changes)


async def test_wish_without_a_prompt_passes_untouched(behind: Behind) -> None:
    revisions = One()
    answers = before(behind, revisions=revisions)
    events = [event async for event in answers.stream(WISH, PAYER)]
    assert await answers.answer(WISH, PAYER) is ANSWER
    assert events == [Started(model="m", context=REPORT), TextDelta(0, "Yes."), Finished(ANSWER)]
    assert (await answers.count_tokens(WISH, PAYER)).input_tokens == len("Be short.")
    assert behind.wishes == [WISH, WISH, WISH]
    assert revisions.found == []


async def test_prompt_precedes_what_the_wish_says_itself(behind: Behind) -> None:
    await before(behind).answer(named(), PAYER)
    (wish,) = behind.wishes
    assert wish.prompt.system == "Be calm with Ada: at most 20 words.\n\nBe short."
    assert wish.prompt.examples == (Example("What note is C?", "The first."), Example("own", "one"))
    assert (wish.prompt_ref, wish.prompt_revision) == (None, "prm_1/7")


async def test_nearest_example_is_that_of_the_question(behind: Behind) -> None:
    asked = replace(WISH.prompt, messages=(user("Why red?"),))
    await before(behind).answer(named(prompt=asked), PAYER)
    assert behind.wishes[0].prompt.examples[0] == Example("What is red?", "A colour.")


async def test_defaults_of_the_prompt_hold_where_the_wish_says_nothing(behind: Behind) -> None:
    answers = before(behind)
    await answers.answer(named(), PAYER)
    await answers.answer(named(model="other/m", parameters=Parameters(temperature=0.0)), PAYER)
    assert [wish.model for wish in behind.wishes] == ["openai/m", "other/m"]
    assert [wish.parameters.temperature for wish in behind.wishes] == [0.7, 0.0]
    assert [wish.parameters.output_tokens_max for wish in behind.wishes] == [50, 50]


async def test_count_is_of_all_that_an_answer_would_be_given(behind: Behind) -> None:
    answers = before(behind)
    await answers.answer(named(), PAYER)
    count = await answers.count_tokens(named(), PAYER)
    answered, counted = behind.wishes
    assert counted == answered
    assert count.input_tokens == len(answered.prompt.system)


async def test_prompt_that_cannot_be_used_is_not_counted(behind: Behind) -> None:
    with pytest.raises(InvalidArgument):
        await before(behind).count_tokens(replace(WISH, prompt_ref=reference()), PAYER)
    assert behind.wishes == []


async def test_answer_and_stream_tell_the_revision(behind: Behind) -> None:
    answers = before(behind)
    events = [event async for event in answers.stream(named(), PAYER)]
    told = replace(ANSWER, prompt_revision="prm_1/7")
    assert events == [
        Started(model="m", context=REPORT, prompt_revision="prm_1/7"),
        TextDelta(0, "Yes."),
        Finished(told),
    ]
    assert await answers.answer(named(), PAYER) == told


async def test_report_tells_that_nothing_could_be_ranked(behind: Behind) -> None:
    answers = before(behind, encoder=FakeEncoder(is_away=True))
    answer = await answers.answer(named(), PAYER)
    opening = await anext(answers.stream(named(), PAYER))
    assert answer.context == replace(REPORT, examples_unranked=True)
    assert isinstance(opening, Started)
    assert opening.context.examples_unranked


async def test_variables_that_do_not_fit_are_all_named(behind: Behind) -> None:
    wish = replace(WISH, prompt_ref=reference(words="0", extra="x"))
    with pytest.raises(InvalidArgument) as refused:
        await before(behind).answer(wish, PAYER)
    assert [one.field for one in refused.value.fields] == [
        "prompt_ref.variables.name",
        "prompt_ref.variables.words",
        "prompt_ref.variables.extra",
    ]
    assert behind.wishes == []


@pytest.mark.parametrize("count", [PROBLEMS_TOLD_MAX - 1, PROBLEMS_TOLD_MAX, PROBLEMS_TOLD_MAX + 1])
async def test_of_many_variables_that_do_not_fit_so_many_are_named(behind: Behind, count: int) -> None:
    variables = tuple(Variable(name=f"v{number}", type=VariableType.STRING) for number in range(count))
    template = "".join(f"{{{{{variable.name}}}}}" for variable in variables)
    many = One(replace(REVISION, content=Content(template=template, variables=variables)))
    with pytest.raises(InvalidArgument) as refused:
        await before(behind, revisions=many).answer(replace(WISH, prompt_ref=reference()), PAYER)
    assert len(refused.value.fields) == min(count, PROBLEMS_TOLD_MAX)


async def test_value_is_never_read_as_a_template(behind: Behind) -> None:
    wish = replace(WISH, prompt_ref=reference(name="{{words}} \\{{x}}", words="20"))
    await before(behind).answer(wish, PAYER)
    assert behind.wishes[0].prompt.system.startswith("Be calm with {{words}} \\{{x}}: at most 20 words.")


@pytest.mark.parametrize(
    ("own", "is_taken"), [(EXAMPLES_MAX - 2, True), (EXAMPLES_MAX - 1, True), (EXAMPLES_MAX, False)]
)
async def test_examples_of_both_are_at_most_as_many_as_of_one(behind: Behind, own: int, *, is_taken: bool) -> None:
    asked = replace(WISH.prompt, examples=(Example("q", "a"),) * own)
    call = before(behind).answer(named(prompt=asked), PAYER)
    if is_taken:
        await call
        assert len(behind.wishes[0].prompt.examples) == own + 1
    else:
        with pytest.raises(InvalidArgument) as refused:
            await call
        assert refused.value.fields[0].field == "prompt.examples"


async def test_prompt_of_examples_alone_leaves_the_system_text(behind: Behind) -> None:
    only = replace(REVISION, content=Content(examples=(Example("q", "a"),)))
    await before(behind, revisions=One(only)).answer(replace(WISH, prompt_ref=reference()), PAYER)
    assert behind.wishes[0].prompt.system == "Be short."
