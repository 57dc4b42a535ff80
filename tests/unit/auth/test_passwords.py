import asyncio
import threading

import pytest

from services.auth.passwords import Cost, Passwords, check_password
from services.mesh.errors import InvalidArgument, Overloaded
from services.mesh.tasks import BoundedExecutor
from tests.support.auth import CHEAP


@pytest.fixture
def passwords() -> Passwords:
    return Passwords(BoundedExecutor("passwords", threads=2, queue_max=4), CHEAP)


async def test_right_password_is_right_and_wrong_is_wrong(passwords: Passwords) -> None:
    stored = await passwords.hash("correct horse")
    assert (await passwords.verify(stored, "correct horse")).is_right
    assert not (await passwords.verify(stored, "correct horsE")).is_right


async def test_hash_is_argon2id_at_the_documented_cost() -> None:
    hashed = await Passwords(BoundedExecutor("passwords", threads=1, queue_max=1)).hash("correct horse")
    assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


async def test_equal_passwords_have_different_hashes(passwords: Passwords) -> None:
    assert await passwords.hash("correct horse") != await passwords.hash("correct horse")


async def test_unknown_account_costs_one_hash_and_is_never_right(passwords: Passwords) -> None:
    await passwords.prepare()
    nobody = passwords._nobody
    assert nobody is not None
    assert not (await passwords.verify(None, "anything")).is_right
    assert passwords._nobody == nobody


async def test_hash_of_another_cost_is_replaced_at_the_next_right_password(passwords: Passwords) -> None:
    dearer = Passwords(BoundedExecutor("passwords", threads=1, queue_max=1), Cost(memory_kib=16, passes=1))
    stored = await dearer.hash("correct horse")
    verdict = await passwords.verify(stored, "correct horse")
    assert verdict.rehashed is not None
    assert (await passwords.verify(verdict.rehashed, "correct horse")).rehashed is None
    assert (await passwords.verify(stored, "wrong")).rehashed is None


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$broken", "$2b$12$abcdefghijklmnopqrstuv"])
async def test_stored_text_that_is_no_hash_lets_nobody_in(passwords: Passwords, stored: str) -> None:
    assert not (await passwords.verify(stored, stored)).is_right


async def test_full_queue_refuses_with_overloaded_and_says_when_to_come_back() -> None:
    executor = BoundedExecutor("passwords", threads=1, queue_max=2)
    passwords = Passwords(executor, CHEAP)
    gate = threading.Event()
    async with asyncio.TaskGroup() as group:
        busy = [group.create_task(executor.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await passwords.hash("correct horse")
        gate.set()
    assert refused.value.retry_after_s
    assert all(task.result() for task in busy)


@pytest.mark.parametrize(("length", "is_good"), [(7, False), (8, True), (128, True), (129, False)])
def test_new_password_has_8_to_128_characters(length: int, is_good: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    if is_good:
        check_password("password", "ü" * length)
        return
    with pytest.raises(InvalidArgument) as refused:
        check_password("password", "ü" * length)
    assert "ü" not in refused.value.message
