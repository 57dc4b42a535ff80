import pytest

from services.auth.sealing import SealError, Sealing

SECRET = "a secret of thirty-two characters"


def test_sealed_value_opens_under_its_name() -> None:
    assert Sealing(SECRET).open(Sealing(SECRET).seal(b"key", name="n"), name="n") == b"key"


def test_sealed_value_does_not_show_what_it_holds_and_is_never_the_same() -> None:
    first, second = (Sealing(SECRET).seal(b"a private key", name="n") for _ in range(2))
    assert b"private" not in first
    assert first != second


@pytest.mark.parametrize("position", [0, 1, 12, 13, -1])
def test_a_changed_byte_is_noticed(position: int) -> None:
    sealed = bytearray(Sealing(SECRET).seal(b"key", name="n"))
    sealed[position] ^= 1
    with pytest.raises(SealError):
        Sealing(SECRET).open(bytes(sealed), name="n")


def test_another_name_and_another_secret_do_not_open_it() -> None:
    sealed = Sealing(SECRET).seal(b"key", name="n")
    with pytest.raises(SealError):
        Sealing(SECRET).open(sealed, name="m")
    with pytest.raises(SealError):
        Sealing(SECRET + "!").open(sealed, name="n")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + bytes(11), b"\x02" + bytes(40)])
def test_what_was_never_sealed_is_refused(sealed: bytes) -> None:
    with pytest.raises(SealError):
        Sealing(SECRET).open(sealed, name="n")


def test_short_secret_is_refused_at_31_and_taken_at_32_characters() -> None:
    with pytest.raises(ValueError, match="32"):
        Sealing("x" * 31)
    Sealing("x" * 32)


def test_fingerprint_tells_parts_apart_and_needs_the_secret() -> None:
    sealing = Sealing(SECRET)
    assert sealing.fingerprint("ab", "c") == Sealing(SECRET).fingerprint("ab", "c")
    assert sealing.fingerprint("ab", "c") != sealing.fingerprint("a", "bc")
    assert sealing.fingerprint("ab") != Sealing(SECRET + "!").fingerprint("ab")


def test_each_purpose_has_a_key_of_its_own() -> None:
    assert Sealing(SECRET).succession_key != Sealing(SECRET + "!").succession_key
    assert len(Sealing(SECRET).succession_key) == 32
