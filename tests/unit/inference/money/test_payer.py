"""Who pays for a call, and who is believed when they say that it was counted already."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

import pytest

from parley.inference.v1 import budget_pb2, generation_service_pb2
from services.inference.catalog import Catalog
from services.inference.generating.generator import Generator
from services.inference.model import Generation
from services.inference.money.purse import FREE, Estimate, Payer, Purpose, Reservation
from services.inference.wire import money
from services.mesh.errors import ModelUnpriced
from services.mesh.identity import Principal
from tests.support.inference import FakeProvider, prompt, router
from tests.support.money import API_KEY, CARD, ORGANIZATION, PAYER, USER


def principal(caller: str | None) -> Principal:
    return Principal(
        organization_id=ORGANIZATION,
        subject_id=USER,
        scopes=frozenset({"inference:generate"}),
        caller=caller,
        credential_id=API_KEY,
        expires_at=datetime(2026, 11, 22, tzinfo=UTC),
    )


AGAIN: Final = generation_service_pb2.StreamGenerateRequest(is_repeat=True, purpose=budget_pb2.PURPOSE_SUMMARY)


@pytest.mark.parametrize(
    ("caller", "is_repeat"), [("conversation", True), ("edge", False), ("retrieval", False), (None, False)]
)
def test_only_the_workload_that_answers_turns_says_that_a_request_was_counted(
    caller: str | None, *, is_repeat: bool
) -> None:
    assert money.payer(principal(caller), AGAIN) == Payer(
        organization_id=ORGANIZATION,
        user_id=USER,
        credential_id=API_KEY,
        purpose=Purpose.SUMMARY,
        is_repeat=is_repeat,
    )


def test_a_request_is_counted_unless_it_says_otherwise() -> None:
    assert not money.payer(principal("conversation"), generation_service_pb2.StreamGenerateRequest()).is_repeat
    assert not money.payer(principal("conversation"), generation_service_pb2.GenerateRequest()).is_repeat


class Watched:
    """Implements `Purse`: keeps what it is asked for."""

    def __init__(self) -> None:
        self.estimates: list[Estimate] = []

    async def reserve(self, payer: Payer, estimate: Estimate) -> Reservation:
        self.estimates.append(estimate)
        return await FREE.reserve(payer, estimate)


@pytest.mark.parametrize("is_repeat", [False, True])
async def test_what_was_counted_before_is_a_repeat_from_its_first_attempt_on(*, is_repeat: bool) -> None:
    purse = Watched()
    answers = Generator(router(FakeProvider("one")), total_s=60.0, context_tokens_assumed=10_000, purse=purse)

    await answers.answer(Generation(prompt=prompt("Why?")), replace(PAYER, is_repeat=is_repeat))

    assert [estimate.is_repeat for estimate in purse.estimates] == [is_repeat]


class Thrifty(Watched):
    """Pays for nothing without a price."""

    async def reserve(self, payer: Payer, estimate: Estimate) -> Reservation:
        reservation = await super().reserve(payer, estimate)
        if estimate.card is None:
            raise ModelUnpriced("no price", metadata={"model": estimate.model})
        return reservation


async def test_a_route_goes_on_to_a_target_that_has_a_price() -> None:
    purse, dear = Thrifty(), FakeProvider("dear")
    known = router(dear, FakeProvider("openai"), catalog=Catalog({CARD.name: CARD}), fallbacks=[CARD.name])
    answers = Generator(known, total_s=60.0, context_tokens_assumed=10_000, purse=purse)

    answer = await answers.answer(Generation(prompt=prompt("Why?")), PAYER)

    assert answer.model == CARD.name
    assert [estimate.is_repeat for estimate in purse.estimates] == [False, False]
    assert not dear.tasks


async def test_a_model_without_a_price_is_refused_where_there_is_no_other() -> None:
    answers = Generator(router(FakeProvider("dear")), total_s=60.0, context_tokens_assumed=10_000, purse=Thrifty())

    with pytest.raises(ModelUnpriced):
        await answers.answer(Generation(prompt=prompt("Why?")), PAYER)
