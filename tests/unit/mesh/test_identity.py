"""The attack corpus: every token here is wrong in one way, and each way has been accepted by some library."""

import base64
import hmac
import json
from string import Template
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, SECP384R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from services.mesh.clock import ManualClock
from services.mesh.errors import CredentialsInvalid
from services.mesh.identity import (
    ACCESS_TYPE,
    CLOCK_SKEW_S,
    INTERNAL_LIFE_S,
    INTERNAL_TYPE,
    TEXT_LENGTH_MAX,
    TOKEN_LENGTH_MAX,
    TokenClaims,
    TokenRules,
    TokenSigner,
    TokenVerifier,
)
from services.mesh.keys import json_web_key, public_key
from tests.support.tokens import ORGANIZATION, USER, Issuer, StaticKeys

CLOCK = ManualClock()
ISSUER = Issuer(clock=CLOCK)
NOW = int(CLOCK.now().timestamp())
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


def header(**changed: Any) -> dict[str, Any]:
    return {"alg": "ES256", "kid": ISSUER.jwk.kid, "typ": INTERNAL_TYPE} | changed


def claims(**changed: Any) -> dict[str, Any]:
    return {
        "iss": "parley",
        "aud": "echo",
        "sub": USER,
        "org": ORGANIZATION,
        "scp": ["echo:read"],
        "act": "edge",
        "cid": "key_1",
        "jti": "j1",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
    } | changed


def without(members: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in members.items() if name not in names}


def b64(data: bytes | str) -> str:
    raw = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw_signature(content: str) -> bytes:
    r, s = decode_dss_signature(ISSUER.private_key.sign(content.encode(), ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def signed(head: bytes | str | dict[str, Any], body: bytes | str | dict[str, Any]) -> str:
    """A token with a good signature over whatever is given."""
    parts = [b64(json.dumps(part) if isinstance(part, dict) else part) for part in (head, body)]
    content = ".".join(parts)
    return f"{content}.{b64(raw_signature(content))}"


def verifier() -> TokenVerifier:
    return ISSUER.verifier()


async def refused(token: str) -> bool:
    try:
        await verifier().verify(token)
    except CredentialsInvalid as error:
        assert error.message == "credentials invalid"  # noqa: PT017 - the text must not tell the kinds apart
        return True
    return False


async def test_good_token_gives_its_principal() -> None:
    principal = await verifier().verify(signed(header(), claims()))
    assert (principal.organization_id, principal.subject_id) == (ORGANIZATION, USER)
    assert principal.scopes == {"echo:read"}
    assert (principal.caller, principal.credential_id) == ("edge", "key_1")
    assert int(principal.expires_at.timestamp()) == NOW + 60


async def test_token_of_the_subject_itself_has_no_caller() -> None:
    principal = await verifier().verify(signed(header(), without(claims(), "act")))
    assert principal.caller is None


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS256", "ES384", "RS256", "EdDSA", "ES256 ", 1, None, ["ES256"]]
)
async def test_other_algorithms_are_refused(alg: object) -> None:
    assert await refused(signed(header(alg=alg), claims()))
    unsigned = signed(header(alg=alg), claims()).rpartition(".")[0] + "."
    assert await refused(unsigned)


async def test_public_key_as_hmac_secret_is_refused() -> None:
    public = ISSUER.private_key.public_key()
    pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    content = f"{b64(json.dumps(header(alg='HS256')))}.{b64(json.dumps(claims()))}"
    for secret in (pem, der, json.dumps(vars_of_jwk()).encode()):
        assert await refused(f"{content}.{b64(hmac.digest(secret, content.encode(), 'sha256'))}")


async def test_key_of_another_kind_is_refused() -> None:
    body = claims()
    rsa = generate_rsa_key(public_exponent=65537, key_size=2048)
    assert await refused(jwt.encode(body, rsa, "RS256", headers=without(header(), "alg")))
    other = generate_private_key(SECP256R1())
    assert await refused(jwt.encode(body, other, "ES256", headers=without(header(), "alg")))
    larger = generate_private_key(SECP384R1())
    assert await refused(jwt.encode(body, larger, "ES384", headers=without(header(), "alg")))


@pytest.mark.parametrize(
    "member",
    [
        {"jwk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}},
        {"jku": "https://evil.example/jwks.json"},
        {"x5u": "https://evil.example/cert.pem"},
        {"x5c": ["AA"]},
        {"crit": ["exp"]},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"cty": "JWT"},
    ],
)
async def test_header_members_that_nobody_needs_are_refused(member: dict[str, Any]) -> None:
    assert await refused(signed(header(**member), claims()))


@pytest.mark.parametrize("typ", ["JWT", ACCESS_TYPE, "INT+JWT", "application/int+jwt", "", None, 1, [INTERNAL_TYPE]])
async def test_token_of_another_kind_is_refused(typ: object) -> None:
    assert await refused(signed(header(typ=typ), claims()))


@pytest.mark.parametrize(
    "kid",
    ["unknown", "../../etc/passwd", "' OR 1=1 --", "a\x00b", "", "x" * 65, "x" * 3_000, 1, None, ["k"], "ключ"],
)
async def test_unsound_key_ids_are_refused(kid: object) -> None:
    assert await refused(signed(header(kid=kid), claims()))


@pytest.mark.parametrize("name", ["alg", "kid", "typ"])
async def test_header_member_that_is_missing_is_refused(name: str) -> None:
    assert await refused(signed(without(header(), name), claims()))


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "org", "scp", "cid", "jti", "iat", "nbf", "exp"])
async def test_claim_that_is_missing_is_refused(name: str) -> None:
    assert await refused(signed(header(), without(claims(), name)))


@pytest.mark.parametrize("name", ["iat", "nbf", "exp"])
@pytest.mark.parametrize("value", [str(NOW + 60), NOW + 60.0, True, None, -1, 10**30, 1 << 33, [NOW], {}, "NaN"])
async def test_instants_must_be_sane_integers(name: str, value: object) -> None:
    assert await refused(signed(header(), claims(**{name: value})))


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e400", "9" * 5_000])
async def test_numbers_that_are_no_json_are_refused(constant: str) -> None:
    body = json.dumps(claims()).replace(f'"exp": {NOW + 60}', f'"exp": {constant}')
    assert constant in body
    assert await refused(signed(header(), body))


@pytest.mark.parametrize(
    ("changed", "is_refused"),
    [
        ({"exp": NOW}, True),
        ({"exp": NOW + 1}, False),
        ({"exp": NOW - 1, "iat": NOW - 10, "nbf": NOW - 10}, True),
        ({"exp": NOW + INTERNAL_LIFE_S + 1}, True),
        ({"exp": NOW + INTERNAL_LIFE_S}, False),
        ({"iat": NOW + CLOCK_SKEW_S, "exp": NOW + CLOCK_SKEW_S + 60}, False),
        ({"iat": NOW + CLOCK_SKEW_S + 1, "exp": NOW + CLOCK_SKEW_S + 60}, True),
        ({"nbf": NOW + CLOCK_SKEW_S}, False),
        ({"nbf": NOW + CLOCK_SKEW_S + 1}, True),
        ({"iat": NOW + 5, "exp": NOW + 5}, True),
    ],
)
async def test_life_is_bounded_on_both_ends(changed: dict[str, Any], *, is_refused: bool) -> None:
    assert await refused(signed(header(), claims(**changed))) is is_refused


@pytest.mark.parametrize("aud", ["", "ech", "echo2", "Echo", "auth", ["echo"], ["auth", "echo"], {"echo": 1}, None, 1])
async def test_other_audiences_are_refused(aud: object) -> None:
    assert await refused(signed(header(), claims(aud=aud)))


@pytest.mark.parametrize("iss", ["", "parley/", "Parley", "https://parley", ["parley"], None])
async def test_other_issuers_are_refused(iss: object) -> None:
    assert await refused(signed(header(), claims(iss=iss)))


@pytest.mark.parametrize("name", ["sub", "org", "cid", "jti", "act"])
@pytest.mark.parametrize(
    "value", ["", " ", "a b", "a\x00", "a\n", "ü", "x" * (TEXT_LENGTH_MAX + 1), 1, None, ["a"], {}]
)
async def test_unsound_texts_are_refused(name: str, value: object) -> None:
    assert await refused(signed(header(), claims(**{name: value})))


@pytest.mark.parametrize(
    "scp", ["echo:read", {"echo:read": 1}, ["echo:read", 1], [""], [["echo:read"]], ["a b"], ["x"] * 65, None]
)
async def test_scopes_must_be_a_short_list_of_texts(scp: object) -> None:
    assert await refused(signed(header(), claims(scp=scp)))


async def test_duplicate_members_are_refused() -> None:
    body = json.dumps(claims())
    assert await refused(signed(header(), body[:-1] + ', "sub": "admin"}'))
    head = json.dumps(header())
    assert await refused(signed(head[:-1] + ', "typ": "int+jwt"}', claims()))
    assert await refused(signed(header(), body[:-1] + ', "x": {"a": 1, "a": 2}}'))


@pytest.mark.parametrize(
    "body",
    ["[]", "null", '"text"', "1", "{", "", "[" * 1_000 + "]" * 1_000, "[" * 2_500, b"\xff\xfe", b'{"sub": "\xff"}'],
)
async def test_payload_that_is_no_object_is_refused(body: str | bytes) -> None:
    assert await refused(signed(header(), body))


def token_parts() -> tuple[str, str, str]:
    head, body, signature = signed(header(), claims()).split(".")
    return head, body, signature


def flip_spare_bits(segment: str) -> str:
    """Another spelling of the same bytes: the last character of unpadded base64 has bits that no byte needs."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return segment[:-1] + alphabet[alphabet.index(segment[-1]) | 1]


@pytest.mark.parametrize(
    "spelling",
    [
        "$head.$body",
        "$head.$body.",
        "$head.$body.$signature.",
        ".$head.$body.$signature",
        "$head..$signature",
        " $head.$body.$signature",
        "$head.$body.$signature\n",
        "$head.$body.$signature==",
        "$head.$body.$respelled",
        "$head.$body.$truncated",
        "$head.$body.$zeros",
        "$head.$body.A",
        '{"payload": "$body", "protected": "$head", "signature": "$signature"}',
        "$head.AAAA.AAAA.$body.$signature",
        "$head.$body.${signature}" + "A" * TOKEN_LENGTH_MAX,
        "A" * 5_000_000,
        "",
        "\ud800",
    ],
    ids=range(18),
)
async def test_other_spellings_are_refused(spelling: str) -> None:
    head, body, signature = token_parts()
    token = Template(spelling).substitute(
        head=head,
        body=body,
        signature=signature,
        respelled=flip_spare_bits(signature),
        truncated=signature[:-4],
        zeros=b64(bytes(64)),
    )
    assert await refused(token)


async def test_der_signature_is_refused() -> None:
    head, body, _ = token_parts()
    der = ISSUER.private_key.sign(f"{head}.{body}".encode(), ECDSA(hashes.SHA256()))
    assert await refused(f"{head}.{body}.{b64(der)}")


async def test_signature_of_another_token_is_refused() -> None:
    head, body, _ = token_parts()
    other = signed(header(), claims(sub="usr_other"))
    assert await refused(f"{head}.{body}.{other.rpartition('.')[2]}")


async def test_high_s_twin_verifies_which_is_why_tokens_are_revoked_by_jti() -> None:
    head, body, signature = token_parts()
    raw = base64.urlsafe_b64decode(signature + "==")
    twin = raw[:32] + (ORDER - int.from_bytes(raw[32:])).to_bytes(32)
    assert (await verifier().verify(f"{head}.{body}.{b64(twin)}")).subject_id == USER


async def test_length_is_bounded() -> None:
    tokens = [signed(header(), json.dumps(claims()) + " " * filler) for filler in range(2_650, 2_900)]
    longest = max((token for token in tokens if len(token) <= TOKEN_LENGTH_MAX), key=len)
    too_long = min((token for token in tokens if len(token) > TOKEN_LENGTH_MAX), key=len)
    assert len(too_long) - len(longest) <= 2  # some lengths do not exist in base64
    assert not await refused(longest)
    assert await refused(too_long)


# ------------------------------------------------------------------------------------------------- cache, keys, signer


async def test_cached_token_expires_all_the_same() -> None:
    clock = ManualClock()
    issuer = Issuer(clock=clock)
    checks = issuer.verifier()
    token = issuer.mint()
    assert await checks.verify(token) is await checks.verify(token)
    clock.advance(INTERNAL_LIFE_S - 1)
    await checks.verify(token)
    clock.advance(1)
    with pytest.raises(CredentialsInvalid):
        await checks.verify(token)


async def test_cached_token_ends_with_its_key() -> None:
    keys = {ISSUER.jwk.kid: ISSUER.private_key.public_key()}
    checks = TokenVerifier(TokenRules(audience="echo"), StaticKeys(keys), clock=CLOCK)
    token = ISSUER.mint()
    await checks.verify(token)
    del keys[ISSUER.jwk.kid]
    with pytest.raises(CredentialsInvalid):
        await checks.verify(token)


@pytest.mark.parametrize("count", [3, 4, 5])
async def test_cache_is_bounded(count: int) -> None:
    checks = TokenVerifier(TokenRules(audience="echo"), ISSUER.keys, clock=CLOCK, cached_max=4)
    for _ in range(count):
        await checks.verify(ISSUER.mint())
    assert len(checks._cache) == min(count, 4)


async def test_access_token_and_internal_token_are_two_kinds() -> None:
    rules = TokenRules(audience="parley", type=ACCESS_TYPE, life_s_max=300)
    token, expires_at = ISSUER.signer.sign(
        rules,
        TokenClaims(organization_id=ORGANIZATION, subject_id=USER, scopes=frozenset(), credential_id="ses_1"),
    )
    assert int(expires_at.timestamp()) == NOW + 300
    assert (await TokenVerifier(rules, ISSUER.keys, clock=CLOCK).verify(token)).credential_id == "ses_1"
    internal = TokenVerifier(TokenRules(audience="parley", life_s_max=300), ISSUER.keys, clock=CLOCK)
    with pytest.raises(CredentialsInvalid):
        await internal.verify(token)


def test_signer_wants_a_p256_key_and_a_sound_kid() -> None:
    with pytest.raises(ValueError, match="P-256"):
        TokenSigner("k", generate_private_key(SECP384R1()))
    with pytest.raises(ValueError, match="kid"):
        TokenSigner("a/b", generate_private_key(SECP256R1()))


async def test_signer_never_outlives_the_rules() -> None:
    rules = TokenRules(audience="echo")
    wanted = TokenClaims(organization_id=ORGANIZATION, subject_id=USER, scopes=frozenset(), credential_id="c")
    assert int(ISSUER.signer.sign(rules, wanted, life_s=3_600)[1].timestamp()) == NOW + INTERNAL_LIFE_S
    assert int(ISSUER.signer.sign(rules, wanted, life_s=10)[1].timestamp()) == NOW + 10


def test_key_survives_its_json_form() -> None:
    key = ISSUER.private_key.public_key()
    assert public_key(json_web_key(key)) == key


def vars_of_jwk() -> dict[str, str]:
    return {"kid": ISSUER.jwk.kid, "x": ISSUER.jwk.x, "y": ISSUER.jwk.y}
