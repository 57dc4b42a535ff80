"""What stands before all that answers: a wish that names a prompt is given its text, its examples and its defaults."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from services.inference.generating.answering import Answers
from services.inference.generating.generator import TokenCount
from services.inference.model import (
    EXAMPLES_MAX,
    Answer,
    ContextReport,
    Event,
    Finished,
    Generation,
    Started,
)
from services.inference.money.purse import Payer
from services.inference.prompts.examples import Choice, Examples
from services.inference.prompts.lookup import Revisions
from services.inference.prompts.model import Content, Revision
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.templates import fill
from services.inference.prompts.variables import values_of
from services.mesh.errors import FieldViolation, InvalidArgument, invalid_field

PROBLEMS_TOLD_MAX: Final = 12
"""Of the variables of a request; a preview tells all of them."""


class PromptAnswers:
    """Implements `answering.Answers`. A wish without a prompt passes through untouched.

    Args:
        answers: who is asked once the prompt is known.
        revisions: where references are looked up.
        examples: chooses examples.
    """

    def __init__(self, answers: Answers, revisions: Revisions, examples: Examples) -> None:
        self._answers = answers
        self._revisions = revisions
        self._examples = examples

    def stream(self, wish: Generation, payer: Payer) -> AsyncGenerator[Event, None]:
        """See `Answers.stream`.

        Raises:
            NotFound: there is no such prompt, alias or revision.
            InvalidArgument: its variables are not filled as they have to be.
        """
        if wish.prompt_ref is None:
            return self._answers.stream(wish, payer)
        return self._stream(wish, payer)

    async def answer(self, wish: Generation, payer: Payer) -> Answer:
        """See `Answers.answer`.

        Raises:
            NotFound, InvalidArgument: as `stream`.
        """
        if wish.prompt_ref is None:
            return await self._answers.answer(wish, payer)
        resolved, choice = await self.resolve(wish, payer)
        return told(await self._answers.answer(resolved, payer), resolved, choice)

    async def resolve(self, wish: Generation, payer: Payer) -> tuple[Generation, Choice]:
        """The wish with all that its prompt stands for, and the examples that were chosen; nobody is asked yet.

        Raises:
            NotFound, InvalidArgument: as `stream`.
        """
        if wish.prompt_ref is None:
            return wish, Choice(())
        revision = await self._revisions.find(payer.organization_id, wish.prompt_ref)
        system = rendered(revision.content, wish.prompt_ref)
        choice = await self._examples.choose(revision, wish.prompt.question, payer)
        return _filled(wish, revision, system, choice), choice

    async def count_tokens(self, wish: Generation, payer: Payer) -> TokenCount:
        """See `Answers.count_tokens`."""
        resolved, _ = await self.resolve(wish, payer)
        return await self._answers.count_tokens(resolved, payer)

    async def _stream(self, wish: Generation, payer: Payer) -> AsyncGenerator[Event, None]:
        resolved, choice = await self.resolve(wish, payer)
        async with aclosing(self._answers.stream(resolved, payer)) as events:
            async for event in events:
                match event:
                    case Started():
                        context = _marked(event.context, choice)
                        yield replace(event, prompt_revision=resolved.prompt_revision, context=context)
                    case Finished(answer):
                        yield Finished(told(answer, resolved, choice))
                    case _:
                        yield event


def rendered(content: Content, reference: PromptReference) -> str:
    """The system text of a revision.

    Raises:
        InvalidArgument: a variable is missing, unknown, or of another type.
    """
    values, problems = values_of(content.variables, reference.variables)
    if problems:
        told = problems[:PROBLEMS_TOLD_MAX]
        fields = [FieldViolation(f"prompt_ref.variables.{one.variable}", one.description) for one in told]
        raise InvalidArgument("; ".join(f"{one.field}: {one.description}" for one in fields), fields=fields)
    return fill(content.pieces, values)


def _filled(wish: Generation, revision: Revision, system: str, choice: Choice) -> Generation:
    defaults, prompt = revision.content.defaults, wish.prompt
    examples = (*(chosen.example for chosen in choice.chosen), *prompt.examples)
    if len(examples) > EXAMPLES_MAX:
        raise invalid_field(
            "prompt.examples", f"must hold at most {EXAMPLES_MAX - len(choice.chosen)} beside those of the prompt"
        )
    texts = [text for text in (system, prompt.system) if text.strip()]
    return replace(
        wish,
        model=wish.model or defaults.model,
        prompt=replace(prompt, system="\n\n".join(texts), examples=examples),
        parameters=defaults.parameters(wish.parameters),
        prompt_ref=None,
        prompt_revision=revision.name,
    )


def told(answer: Answer, resolved: Generation, choice: Choice) -> Answer:
    """The answer, with what its prompt had to do with it."""
    return replace(answer, prompt_revision=resolved.prompt_revision, context=_marked(answer.context, choice))


def _marked(context: ContextReport, choice: Choice) -> ContextReport:
    return replace(context, examples_unranked=True) if choice.is_unranked else context
