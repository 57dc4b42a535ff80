"""Prompts and their revisions for tests, and an encoder whose vectors are known."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from services.inference.embedding import Embedded, Vector
from services.inference.model import Example
from services.inference.money.purse import Payer
from services.inference.prompts.model import ID_PREFIX, Content, Defaults, Draft, NamedPrompt, Repeat, Selection
from services.inference.prompts.reference import PromptReference
from services.inference.prompts.store import Bounds
from services.inference.prompts.variables import Variable, VariableType
from services.mesh.errors import RetrievalUnavailable
from services.mesh.ids import new_id

ORGANIZATION: Final = "org_01m81yxdt5er79mzf15ea65abm"
OTHER_ORGANIZATION: Final = "org_01m81yxdt5er79mzf15ea65abn"
AUTHOR: Final = "usr_01m81yxdt5er79mzf15ea65abm"
OTHER_AUTHOR: Final = "usr_01m81yxdt5er79mzf15ea65abn"
NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
PAYER: Final = Payer(organization_id=ORGANIZATION, user_id=AUTHOR, credential_id="key_01m81yxdt5er79mzf15ea65abm")

BOUNDS: Final = Bounds(prompts=4, revisions=9)
"""So few that a test can reach them."""

TONE: Final = Variable(name="tone", type=VariableType.ENUM, choices=("calm", "brisk"), default="calm")
FULL: Final = Content(
    template="Be {{tone}} with {{name}}: at most {{ words }} words.",
    variables=(
        TONE,
        Variable(name="name", type=VariableType.STRING, description="Who asks.", length_max=20),
        Variable(name="words", type=VariableType.INTEGER, minimum=1, maximum=500.0),
    ),
    examples=(Example("What is red?", "A colour."), Example("What note is C?", "The first.")),
    selection=Selection.NEAREST,
    nearest_count=1,
    defaults=Defaults(model="openai/m", temperature=0.7, output_tokens_max=50),
)


def prompt(name: str = "support", *, organization_id: str = ORGANIZATION, **changes: Any) -> NamedPrompt:
    """A prompt with an id of its own; Any: fields by name."""
    fields: dict[str, Any] = {
        "id": new_id(ID_PREFIX),
        "organization_id": organization_id,
        "name": name,
        "created_at": NOON,
        "updated_at": NOON,
    }
    return NamedPrompt(**(fields | changes))


def draft(template: str = "Be kind.", *, content: Content | None = None, author_id: str = AUTHOR) -> Draft:
    return Draft(content=content or Content(template=template), author_id=author_id, at=NOON, note="first")


def repeat(request_id: str = "request-1", body: bytes = b"body") -> Repeat:
    return Repeat(request_id, body)


def reference(handle: str = "support", *, alias: str = "", revision: int = 0, **variables: str) -> PromptReference:
    return PromptReference(prompt=handle, alias=alias, revision=revision, variables=variables)


@dataclass
class FakeEncoder:
    """Implements `embedding.Embeds`: texts are near to each other as far as they share words of `words`."""

    words: Sequence[str] = ("red", "green", "note", "song")
    encoder: str = "fake@1"
    is_away: bool = False
    asked: list[list[str]] = field(default_factory=list)

    async def embed(self, payer: Payer, texts: Sequence[str]) -> Embedded:
        self.asked.append(list(texts))
        if self.is_away:
            raise RetrievalUnavailable("away")
        return Embedded(tuple(map(self._vector, texts)), self.encoder)

    def _vector(self, text: str) -> Vector:
        found = [float(word in text) for word in self.words]
        length = sum(found) ** 0.5 or 1.0
        return tuple(one / length for one in found)
