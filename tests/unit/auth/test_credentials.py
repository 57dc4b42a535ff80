import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.auth.credentials import Kind, hash_of, hint_of, new_secret, parse, successor
from services.mesh.ids import new_id

KEY_ID = "key_06ad3fyr27wjv9qk1c5m8x0t4e"
SESSION_ID = "ses_06ad3fyr27wjv9qk1c5m8x0t4e"
OWNERS = {Kind.API_KEY: KEY_ID, Kind.REFRESH_TOKEN: SESSION_ID, Kind.SESSION_TOKEN: SESSION_ID}


@pytest.mark.parametrize("kind", Kind)
def test_secret_is_parsed_to_the_id_it_was_made_for(kind: Kind) -> None:
    secret = new_secret(kind, OWNERS[kind])
    presented = parse(kind, secret)
    assert presented is not None
    assert presented.id == OWNERS[kind]
    assert presented.is_of(hash_of(secret))


def test_api_key_is_recognised_by_its_prefix_and_has_a_fixed_length() -> None:
    secret = new_secret(Kind.API_KEY, KEY_ID)
    assert secret.startswith("parley_06ad3fyr27wjv9qk1c5m8x0t4e_")
    assert len(secret) == len("parley_") + 26 + 1 + 43 + 1 + 6


def test_secrets_are_never_the_same_twice() -> None:
    assert len({new_secret(Kind.API_KEY, KEY_ID) for _ in range(1_000)}) == 1_000


def test_hint_holds_nothing_of_the_secret() -> None:
    secret = new_secret(Kind.API_KEY, KEY_ID)
    assert hint_of(secret) == "parley_06ad3fyr27wjv9qk1c5m8x0t4e"


@pytest.mark.parametrize("position", range(83))
def test_one_wrong_character_is_refused_before_any_look_up(position: int) -> None:
    secret = new_secret(Kind.API_KEY, KEY_ID)
    wrong = "1" if secret[position] != "1" else "2"
    assert parse(Kind.API_KEY, secret[:position] + wrong + secret[position + 1 :]) is None


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("other", Kind)
def test_a_credential_is_of_one_kind_only(kind: Kind, other: Kind) -> None:
    secret = new_secret(kind, OWNERS[kind])
    assert (parse(other, secret) is not None) == (kind is other)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-1],
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.upper(),
        lambda text: text + "\0",
        lambda text: text.replace("_", "-"),
        lambda text: text + "' OR 1=1 --",
        lambda text: text * 2,
        lambda text: text * 2_000,
        lambda text: text.replace("0", "０", 1),  # noqa: RUF001 - a digit of another script
    ],
)
def test_what_is_no_credential_is_refused(change: object) -> None:
    assert callable(change)
    assert parse(Kind.API_KEY, change(new_secret(Kind.API_KEY, KEY_ID))) is None


@given(st.text(max_size=200))
def test_no_text_makes_the_parser_fail(text: str) -> None:
    for kind in Kind:
        parse(kind, text)


def test_presented_credentials_that_share_a_beginning_have_different_hashes() -> None:
    first, second = (parse(Kind.API_KEY, new_secret(Kind.API_KEY, KEY_ID)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.secret_hash != second.secret_hash


def test_successor_is_the_same_for_the_same_parent_and_key_only() -> None:
    parent = new_secret(Kind.REFRESH_TOKEN, SESSION_ID)
    kind = Kind.REFRESH_TOKEN
    once = successor(kind, SESSION_ID, parent=parent, key=b"k" * 32)
    assert once == successor(kind, SESSION_ID, parent=parent, key=b"k" * 32)
    others = {
        successor(kind, SESSION_ID, parent=parent, key=b"x" * 32),
        successor(kind, SESSION_ID, parent=once, key=b"k" * 32),
        successor(kind, new_id("ses"), parent=parent, key=b"k" * 32),
    }
    assert len(others | {once}) == 4
    presented = parse(kind, once)
    assert presented is not None
    assert presented.id == SESSION_ID


def test_repr_of_a_presented_credential_tells_nothing() -> None:
    secret = new_secret(Kind.API_KEY, KEY_ID)
    assert secret.split("_")[2] not in repr(parse(Kind.API_KEY, secret))
