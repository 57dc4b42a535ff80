"""What a model would be given of a prompt, without asking one."""

from dataclasses import dataclass
from typing import Final

from services.inference.money.purse import Payer
from services.inference.prompts.examples import Choice, Examples
from services.inference.prompts.lookup import Revisions
from services.inference.prompts.model import Revision
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.templates import fill
from services.inference.prompts.variables import Problem, check_text, values_of
from services.inference.routing import Router

QUESTION_CHARS_MAX: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A filled revision.

    Attributes:
        system: where a value is missing or does not fit, its place is left as the template has it.
        problems: why a request could not use it.
        model: whose tokens were estimated.
    """

    revision: Revision
    system: str
    choice: Choice
    problems: tuple[Problem, ...]
    system_tokens: int
    example_tokens: int
    model: str


class Previews:
    """Fills revisions as a request would.

    Args:
        revisions: where references are looked up.
        examples: chooses examples.
        router: knows how models count.
    """

    def __init__(self, revisions: Revisions, examples: Examples, router: Router) -> None:
        self._revisions = revisions
        self._examples = examples
        self._router = router

    async def of(self, payer: Payer, reference: PromptReference, *, question: str, model: str) -> Preview:
        """A reference, filled.

        Raises:
            NotFound: there is no such prompt, alias or revision.
            InvalidArgument: the question is too long.
            ModelUnknown: no configured provider serves the model.
        """
        check_text("question", question, QUESTION_CHARS_MAX)
        revision = await self._revisions.find(payer.organization_id, reference)
        content = revision.content
        target = self._router.target(model or content.defaults.model)
        values, problems = values_of(content.variables, reference.variables)
        system = fill(content.pieces, values)
        choice = await self._examples.choose(revision, question, payer)
        tokens = target.profile.tokens
        shown = [text for one in choice.chosen for text in (one.example.user, one.example.assistant)]
        return Preview(
            revision=revision,
            system=system,
            choice=choice,
            problems=tuple(problems),
            system_tokens=tokens.of_message(system) if system else 0,
            example_tokens=sum(tokens.of_message(text) for text in shown),
            model=target.name,
        )
