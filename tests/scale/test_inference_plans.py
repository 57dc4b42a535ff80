"""What inference asks of PostgreSQL costs as much as the answer is long, however much there is."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from services.inference.batches.model import Batch, BatchState, Handover, Item, ItemState, Owner
from services.inference.money.model import BUDGETS_MAX, Dimension, Limits, Period, UsageKey, UsageQuery
from services.inference.money.purse import Purpose
from services.inference.prompts.model import Repeat
from services.inference.prompts.store import AliasMove, PromptChange
from services.inference.store_postgres import PostgresStore
from services.inference.store_postgres.batches import PostgresBatches
from services.inference.store_postgres.prompts import PostgresPrompts
from services.mesh.ids import new_id
from tests.scale.conftest import Judge
from tests.scale.judging import Allowance
from tests.support.money import hold, spent
from tests.support.prompts import draft, prompt

LARGEST: Final = f"org_{0:026}"
PERSON: Final = f"usr_{1:026}"
KEY: Final = f"key_{1:026}"
NOW: Final = datetime.now(UTC)
NOON: Final = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR: Final = timedelta(hours=1)
PAGE: Final = 50
ALLOWED: Final = {
    "FROM inference.reserve(": Allowance("decides on ten calls, each with all its budgets", 20),
    "FROM inference.settle(": Allowance("keeps ten calls, in the ledger and in the sums of all their budgets", 80),
    "lock_counters": Allowance("locks two counters for each budget of ten calls", 20),
    "FROM inference.usage_days": Allowance("sums up the days that it is asked for", 20_000),
    "FROM inference.reservations": Allowance("sums up what is held now, which lasts for minutes", 2_500),
    "FROM inference.budgets": Allowance("an organization has no more budgets than that", BUDGETS_MAX),
    "FROM inference.budget_counters": Allowance("two periods of each budget on a page", 4 * PAGE),
    "DELETE FROM inference.batches USING": Allowance("a few thousand batches lie in a hundred pages", 5_000),
    "count(*) AS count_1, min(inference.batches.created_at)": Allowance("counts batches that have not ended", 1_000),
    "FROM inference.prompts": Allowance("an organization has no more prompts than that", 1_000),
    "FROM inference.batch_items": Allowance("counts the items of the batches on a page", 40 * PAGE),
}

Store = Any
"""A store whose methods are judged."""


async def test_statements_of_money_cost_what_they_answer(judge: Judge) -> None:
    judge.allowances.update(ALLOWED)
    store: Store = judge.watching(PostgresStore(judge.database))

    await store.set_budget(LARGEST, PERSON, Limits(cost_nanos_per_day=10**12), NOON)
    assert await store.get_budget(LARGEST, PERSON, NOON)
    budgets = await store.list_budgets(LARGEST, NOON, after="", limit=PAGE)
    await store.list_budgets(LARGEST, NOON, after=budgets[PAGE // 2].subject_id, limit=PAGE)
    assert len(await store.limits(LARGEST)) == PAGE
    alerts = await store.list_alerts(LARGEST, before=None, limit=PAGE)
    last = alerts[-1]
    await store.list_alerts(LARGEST, before=(last.at, last.subject_id, last.period.value, last.percent), limit=PAGE)
    holds = [hold(organization_id=LARGEST, user_id=PERSON, api_key_id=KEY, at=NOON) for _ in range(10)]
    await store.reserve(holds)
    await store.settle([spent(one) for one in holds], NOON)
    await store.expired(NOW + HOUR, PAGE)
    await store.forget(datetime(2026, 1, 1, 1, tzinfo=UTC), 1_000)
    await usage_is_summed_up(store)
    await store.delete_budget(LARGEST, PERSON)

    assert judge.missing(PostgresStore) == set()
    assert not judge.found, "\n".join(judge.found)


async def usage_is_summed_up(store: Store) -> None:
    month: dict[str, Any] = {"first": date(2026, 3, 1), "last": date(2026, 3, 31)}  # Any: fields by name
    for query in (
        UsageQuery(organization_id=LARGEST, period=Period.DAY, **month),
        UsageQuery(organization_id=LARGEST, period=Period.MONTH, group_by=frozenset(Dimension), **month),
        UsageQuery(organization_id=LARGEST, period=Period.DAY, user_id=PERSON, **month),
        UsageQuery(organization_id=LARGEST, period=Period.DAY, api_key_id=KEY, **month),
    ):
        assert await store.usage(query, after=None, limit=PAGE)
    people = UsageQuery(organization_id=LARGEST, period=Period.DAY, group_by=frozenset({Dimension.USER}), **month)
    assert await store.usage(people, after=UsageKey(starts_on=date(2026, 3, 9), user_id=PERSON), limit=PAGE)


async def test_statements_of_prompts_cost_what_they_answer(judge: Judge) -> None:
    judge.allowances.update(ALLOWED)
    store: Store = judge.watching(PostgresPrompts(judge.database))

    made = await store.create(prompt(new_id("p")[:20], organization_id=LARGEST), draft(), Repeat(new_id("r"), b"b"))
    for handle in (made.id, made.name):
        assert await store.find(LARGEST, handle)
    names = await store.page(LARGEST, after="", limit=PAGE)
    assert await store.page(LARGEST, after=names[-1].name, limit=PAGE)
    await store.change(LARGEST, made.id, PromptChange(name=None, description="Kind", at=NOW))
    await store.add_revision(LARGEST, made.id, draft(), Repeat(new_id("r"), b"b"))
    assert await store.revision(LARGEST, made.id, 2)
    assert await store.revisions(LARGEST, made.id, before=None, limit=PAGE)
    assert await store.revisions(LARGEST, made.id, before=2, limit=PAGE)
    await store.move_alias(LARGEST, made.id, AliasMove(alias="live", revision=1, expected=None, at=NOW))
    await store.keep_vectors(LARGEST, "words@1", {b"digest": b"vector"})
    assert await store.vectors(LARGEST, "words@1", [b"digest"])
    assert await store.delete(LARGEST, made.id, NOW)

    assert judge.missing(PostgresPrompts) == set()
    assert not judge.found, "\n".join(judge.found)


async def test_statements_of_batches_cost_what_they_answer(judge: Judge) -> None:
    judge.allowances.update(ALLOWED)
    store: Store = judge.watching(PostgresBatches(judge.database, open_max=1_000))

    await batches_are_seen(store)
    await batches_are_run(store)
    await store.forget(NOW - HOUR, 20)
    assert (await store.backlog()).batches > 0
    assert await store.vendor_ids(KEY, since=NOW - HOUR)

    assert judge.missing(PostgresBatches) == set()
    assert not judge.found, "\n".join(judge.found)


async def batches_are_seen(store: Store) -> None:
    owner = Owner(LARGEST, f"usr_{0:026}")
    page = await store.page(owner, before="", limit=PAGE)
    assert await store.page(owner, before=page[len(page) // 2].id, limit=PAGE)
    assert await store.find(owner, page[0].id)
    assert await store.results(owner, page[0].id, after=2, limit=PAGE)
    unwanted, batch = _batch(owner), _batch(owner)
    for made, repeat in ((unwanted, Repeat(new_id("r"), b"")), (batch, None)):
        await store.create(made, [_item(made, number) for number in range(20)], repeat, given_up_at=NOW)
    await store.discard(unwanted)
    assert await store.start(batch, NOW)
    assert await store.cancel(owner, batch.id, NOW)
    assert await store.delete(owner, batch.id, NOW)


async def batches_are_run(store: Store) -> None:
    claim = await store.claim(lease="one", until=NOW + HOUR, now=NOW + HOUR)
    await store.renew(claim, until=NOW + 2 * HOUR)
    assert await store.unfinished(claim, limit=PAGE)
    items = await store.waiting(claim, now=NOW, is_batched=False, limit=PAGE)
    handover = Handover(id=new_id("hand"), model="openai/m", key_id=KEY, items_count=5, submitted_at=NOW)
    given = [replace(item, state=ItemState.SUBMITTED, handover_id=handover.id) for item in items[:5]]
    await store.hand_over(claim, handover, given)
    await store.taken(claim, replace(handover, vendor_id="vendor-1"))
    assert await store.handovers(claim)
    assert len(await store.submitted(claim, handover.id)) == len(given)
    await store.write(claim, [replace(item, state=ItemState.SUCCEEDED) for item in given])
    await store.close(claim, handover.id, NOW)
    assert await store.next_ready(claim)
    await store.release(claim, at=NOW, now=NOW)
    for end in ("end", "purge"):
        claim = await store.claim(lease=end, until=NOW + HOUR, now=NOW + HOUR)
        await (store.end(claim, at=NOW) if end == "end" else store.purge(claim))


def _batch(owner: Owner) -> Batch:
    return Batch(
        id=new_id("batch"),
        organization_id=owner.organization_id,
        user_id=owner.user_id,
        credential_id="",
        state=BatchState.PREPARING,
        created_at=NOW,
        due_at=NOW + HOUR,
    )


def _item(batch: Batch, number: int) -> Item:
    return Item(
        id=new_id("item"),
        number=number,
        custom_id=f"mine-{number}",
        request=b"request",
        model="openai/m",
        purpose=Purpose.ANSWER,
        call_id=batch.id,
        ready_at=NOW,
    )
