"""Ids, deadlines, pages, limits, idempotency: small modules, one promise per test."""

import base64
import json
import time

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from parley.conversation.v1 import conversation_service_pb2
from services.mesh import deadline, idempotency, ids
from services.mesh.clock import ManualClock
from services.mesh.errors import DeadlineExceeded, IdempotencyMismatch, InvalidArgument, Overloaded, RateLimited
from services.mesh.limiter import InFlightLimiter, TokenBucket
from services.mesh.pages import SIZE_DEFAULT, SIZE_MAX, TOKEN_LENGTH_MAX, next_page_token, parse_page

# ----------------------------------------------------------------------------------------------------------------- ids


def test_ids_are_unique_and_have_their_form() -> None:
    made = {ids.new_id("conv") for _ in range(10_000)}
    assert len(made) == 10_000
    assert all(ids.is_id("conv", text) for text in made)


@given(st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 48) - 1), st.integers(0, (1 << 74) - 1))
def test_ids_sort_by_time_as_text(earlier: int, later: int, chance: int) -> None:
    earlier, later = min(earlier, later), max(earlier, later)
    low, high = ids.encode(ids.uuid7(earlier, chance)), ids.encode(ids.uuid7(later, chance))
    assert (low < high) is (earlier < later)


def test_id_is_a_uuid_of_version_7() -> None:
    number = ids.uuid7(0x0123456789AB, (1 << 74) - 1)
    assert f"{number:032x}" == "0123456789ab7fffbfffffffffffffff"


def test_id_holds_the_time_of_its_making() -> None:
    before = time.time_ns() // 1_000_000
    digits = ids.new_id("x").removeprefix("x_")
    made = sum(
        "0123456789abcdefghjkmnpqrstvwxyz".index(digit) << 5 * (25 - place) for place, digit in enumerate(digits)
    )
    assert before <= made >> 80 <= time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "conv",
        "conv_",
        "_01m81yxdt5er79mzf15ea65abm",
        "01m81yxdt5er79mzf15ea65abm",
        "usr_01m81yxdt5er79mzf15ea65abm",
        "conv_01m81yxdt5er79mzf15ea65ab",
        "conv_01m81yxdt5er79mzf15ea65abmm",
        "conv_01M81YXDT5ER79MZF15EA65ABM",
        "conv_81m81yxdt5er79mzf15ea65abm",
        "conv_01m81yxdt5er79mzf15ea65abu",
        "conv_01m81yxdt5er79mzf15ea65ab\n",
        "conv_01m81yxdt5er79mzf15ea65ab٣",
        " conv_01m81yxdt5er79mzf15ea65abm",
        "conv__01m81yxdt5er79mzf15ea65abm",
    ],
)
def test_other_texts_are_no_ids(text: str) -> None:
    assert not ids.is_id("conv", text)


# ------------------------------------------------------------------------------------------------------------ deadline


def test_work_without_a_deadline_takes_its_own_time() -> None:
    assert deadline.remaining_s() is None
    assert deadline.budget_s(7.0) == 7.0


def test_inner_deadline_never_reaches_beyond_the_outer_one() -> None:
    with deadline.within(1.0), deadline.within(100.0):
        remaining_s = deadline.remaining_s()
        assert remaining_s is not None
        assert remaining_s <= 1.0
    assert deadline.remaining_s() is None


def test_budget_leaves_the_way_home() -> None:
    with deadline.within(1.0):
        assert deadline.budget_s(0.5) == 0.5
        assert deadline.budget_s(5.0) <= 1.0 - deadline.SHAVE_S


def test_work_that_cannot_finish_is_refused() -> None:
    with deadline.within(0.0), pytest.raises(DeadlineExceeded):
        deadline.budget_s(1.0)


def test_detached_work_has_no_deadline() -> None:
    with deadline.within(0.0), deadline.detached():
        assert deadline.remaining_s() is None


# --------------------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize(("asked", "given_size"), [(0, SIZE_DEFAULT), (1, 1), (199, 199), (SIZE_MAX, SIZE_MAX)])
def test_page_size_within_bounds(asked: int, given_size: int) -> None:
    assert parse_page(asked, "", query=["q"]).size == given_size


@pytest.mark.parametrize("asked", [-1, SIZE_MAX + 1, 2**31 - 1])
def test_page_size_out_of_bounds_is_refused(asked: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_page(asked, "", query=["q"])
    assert [violation.field for violation in caught.value.fields] == ["page_size"]


@given(st.lists(st.text() | st.integers(), min_size=1, max_size=4), st.lists(st.text(), max_size=4))
def test_position_survives_its_token(position: list[str | int], query: list[str]) -> None:
    token = next_page_token(tuple(position), query=query)
    if len(token) <= TOKEN_LENGTH_MAX:
        assert parse_page(10, token, query=query).after == tuple(position)


def test_token_of_another_query_is_refused() -> None:
    token = next_page_token((1, "a"), query=["ListTurns", "conv_1"])
    with pytest.raises(InvalidArgument):
        parse_page(10, token, query=["ListTurns", "conv_2"])


def encoded(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


DIGEST = json.loads(base64.urlsafe_b64decode(next_page_token(("a",), query=["q"]) + "=="))[0]


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "!!!!",
        "ü",
        "A" * (TOKEN_LENGTH_MAX + 1),
        encoded(None),
        encoded([]),
        encoded({"a": 1}),
        encoded([DIGEST]),
        encoded([DIGEST, None]),
        encoded([DIGEST, True]),
        encoded([DIGEST, 1.5]),
        encoded([DIGEST, ["a"]]),
        encoded(["000000000000", "a"]),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    ],
)
def test_bad_token_is_an_invalid_argument(token: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_page(10, token, query=["q"])
    assert [violation.field for violation in caught.value.fields] == ["page_token"]


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("wanted", [2, 3, 4])
def test_bucket_holds_its_burst(wanted: int) -> None:
    bucket = TokenBucket(rate=1.0, burst=3, clock=ManualClock())
    taken = 0
    for _ in range(wanted):
        try:
            bucket.take("a")
            taken += 1
        except RateLimited:
            pass
    assert taken == min(wanted, 3)


def test_refusal_tells_when_to_come_back_and_that_is_true() -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=0.5, burst=1, clock=clock)
    bucket.take("a")
    with pytest.raises(RateLimited) as caught:
        bucket.take("a")
    assert caught.value.retry_after_s == pytest.approx(2.0)
    clock.advance(1.999)
    with pytest.raises(RateLimited):
        bucket.take("a")
    clock.advance(0.001)
    bucket.take("a")


def test_keys_have_buckets_of_their_own_and_their_number_is_bounded() -> None:
    bucket = TokenBucket(rate=1.0, burst=1, clock=ManualClock(), keys_max=2)
    for key in ("a", "b", "c"):
        bucket.take(key)
    assert len(bucket._full_at) == 2
    with pytest.raises(RateLimited):
        bucket.take("c")


@given(st.lists(st.floats(0, 3), max_size=60))
def test_bucket_never_gives_more_than_burst_and_rate(pauses: list[float]) -> None:
    clock = ManualClock()
    bucket = TokenBucket(rate=2.0, burst=5, clock=clock)
    taken = 0
    waits = []
    for pause in pauses:
        clock.advance(pause)
        try:
            bucket.take("a")
            taken += 1
        except RateLimited as refusal:
            waits.append(refusal.retry_after_s)
    assert taken <= 5 + 2.0 * sum(pauses) + 1e-6
    assert all(wait is not None and 0 < wait <= 0.5 + 1e-6 for wait in waits)


def test_place_in_flight_is_given_back() -> None:
    limiter = InFlightLimiter(1)
    with limiter.slot(), pytest.raises(Overloaded), limiter.slot():
        pass
    with limiter.slot():
        assert limiter.in_flight == 1
    assert limiter.in_flight == 0


# --------------------------------------------------------------------------------------------------------- idempotency


def request(**fields: str) -> conversation_service_pb2.CreateConversationRequest:
    return conversation_service_pb2.CreateConversationRequest(**fields)  # type: ignore[arg-type] # texts only


def test_request_id_is_no_part_of_what_is_compared() -> None:
    assert idempotency.request_hash(request(request_id="a")) == idempotency.request_hash(request(request_id="b"))


def test_other_content_or_type_is_another_request() -> None:
    first = Struct()
    first.update({"b": 1, "a": {"d": 2, "c": 3}})
    second = Struct()
    second.update({"a": {"c": 3, "d": 2}, "b": 1})
    assert idempotency.request_hash(first) == idempotency.request_hash(second)
    second.update({"b": 2})
    assert idempotency.request_hash(first) != idempotency.request_hash(second)
    assert idempotency.request_hash(Struct()) != idempotency.request_hash(request())


def test_repeat_with_another_body_is_a_mismatch() -> None:
    idempotency.check_repeat(b"same", b"same")
    with pytest.raises(IdempotencyMismatch):
        idempotency.check_repeat(b"same", b"other")


@pytest.mark.parametrize("key", ["", "a", "x" * 128, "with space"])
def test_sound_request_id(key: str) -> None:
    assert idempotency.check_key(key) == key


@pytest.mark.parametrize("key", ["x" * 129, "ü", "a\n", "\x00"])
def test_unsound_request_id_is_refused(key: str) -> None:
    with pytest.raises(InvalidArgument):
        idempotency.check_key(key)
