from dataclasses import replace
from datetime import timedelta
from hashlib import sha256

import pytest

from services.auth.api_keys import NewKey
from services.auth.credentials import Kind, new_secret
from services.auth.exchange import AccessToken, ApiKeySecret, OnBehalfOf, SessionToken, Subject
from services.auth.model import Role, UserChange
from services.auth.scopes import ALL_SCOPES, AUDIENCES, ROLE_SCOPES, WORKLOAD_SCOPES
from services.auth.workloads import WorkloadProof, Workloads
from services.mesh.clock import ManualClock
from services.mesh.errors import CallerForbidden, CredentialsInvalid, InvalidArgument, MeshError
from services.mesh.identity import TokenRules, TokenVerifier
from services.mesh.ids import new_id
from tests.support.auth import CONVERSATION, EDGE, RETRIEVAL, World, caller_of

WRONG_PROOFS = [
    WorkloadProof("edge", "a wrong secret"),
    WorkloadProof("edge", ""),
    WorkloadProof("edge", CONVERSATION.secret),
    WorkloadProof("nobody", EDGE.secret),
    WorkloadProof("", ""),
]


def verifier(auth: World, audience: str) -> TokenVerifier:
    return TokenVerifier(TokenRules(audience=audience), auth.app.signing_keys, clock=auth.clock)


async def test_each_kind_of_credential_becomes_the_same_principal(auth: World) -> None:
    user = await auth.register()
    subjects: list[Subject] = [
        AccessToken((await auth.tokens(user)).access.text),
        SessionToken(await auth.cookie(user)),
        ApiKeySecret((await auth.key(caller_of(user))).secret),
    ]
    grants = [await auth.grant(subject) for subject in subjects]
    assert {(grant.organization_id, grant.user_id, grant.scopes) for grant in grants} == {
        (user.organization_id, user.id, ALL_SCOPES)
    }
    assert len({grant.credential_id for grant in grants}) == 3


async def test_internal_tokens_are_bound_to_their_audience_and_live_a_minute(auth: World) -> None:
    secret = (await auth.key(await auth.owner())).secret
    exchanged = await auth.app.exchange.trade(ApiKeySecret(secret), EDGE, AUDIENCES)
    assert [token.audience for token in exchanged.tokens] == list(AUDIENCES)
    for minted in exchanged.tokens:
        principal = await verifier(auth, minted.audience).verify(minted.token.text)
        assert (principal.subject_id, principal.caller) == (exchanged.grant.user_id, "edge")
        assert principal.expires_at - auth.clock.now() == timedelta(seconds=60)
        for other in set(AUDIENCES) - {minted.audience}:
            with pytest.raises(CredentialsInvalid):
                await verifier(auth, other).verify(minted.token.text)


async def test_caller_is_absent_when_the_holder_of_the_credential_asks(auth: World) -> None:
    secret = (await auth.key(await auth.owner())).secret
    exchanged = await auth.app.exchange.trade(ApiKeySecret(secret), None, ["retrieval"])
    principal = await verifier(auth, "retrieval").verify(exchanged.tokens[0].token.text)
    assert principal.caller is None


async def test_secret_of_a_workload_is_good_with_its_own_certificate_only(auth: World) -> None:
    subject = ApiKeySecret((await auth.key(await auth.owner())).secret)
    exchanged = await auth.app.exchange.trade(subject, replace(EDGE, peer="edge"), ["auth"])
    assert (await verifier(auth, "auth").verify(exchanged.tokens[0].token.text)).caller == "edge"
    with pytest.raises(CallerForbidden, match="certificate"):
        await auth.app.exchange.trade(subject, replace(EDGE, peer="conversation"), ["auth"])


async def test_internal_token_is_handed_out_again_for_ten_seconds_to_the_same_caller(
    auth: World, clock: ManualClock
) -> None:
    subject = ApiKeySecret((await auth.key(await auth.owner())).secret)
    first = (await auth.app.exchange.trade(subject, EDGE, ["auth"])).tokens
    clock.advance(9.9)
    assert (await auth.app.exchange.trade(subject, EDGE, ["auth"])).tokens == first
    assert (await auth.app.exchange.trade(subject, None, ["auth"])).tokens != first
    clock.advance(0.1)
    renewed = (await auth.app.exchange.trade(subject, EDGE, ["auth"])).tokens
    assert renewed != first
    assert renewed[0].token.expires_at - clock.now() > timedelta(seconds=59)


async def test_access_token_is_no_internal_token_and_the_other_way_round(auth: World) -> None:
    user = await auth.register()
    access = (await auth.tokens(user)).access.text
    with pytest.raises(CredentialsInvalid):
        await verifier(auth, "parley").verify(access)
    exchanged = await auth.app.exchange.trade(AccessToken(access), None, ["auth"])
    with pytest.raises(CredentialsInvalid):
        await auth.grant(AccessToken(exchanged.tokens[0].token.text))


async def test_access_token_ends_after_five_minutes(auth: World, clock: ManualClock) -> None:
    access = AccessToken((await auth.tokens(await auth.register())).access.text)
    clock.advance(299)
    await auth.grant(access)
    clock.advance(1)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(access)


@pytest.mark.parametrize("kind", [AccessToken, ApiKeySecret, SessionToken])
@pytest.mark.parametrize("text", ["", "x", "a.b.c", "parley_", "' OR 1=1 --", "x" * 100_000, "\0"])
async def test_malformed_credentials_are_refused(auth: World, kind: type[Subject], text: str) -> None:
    with pytest.raises(CredentialsInvalid):
        await auth.grant(kind(text))  # type: ignore[call-arg]  # one of the three kinds of one text


async def test_credentials_of_good_form_that_nobody_issued_are_refused(auth: World) -> None:
    key_id = (await auth.key(await auth.owner())).key.id
    session_id = (await auth.grant(SessionToken(await auth.cookie(await auth.register())))).credential_id
    subjects: list[Subject] = [
        ApiKeySecret(new_secret(Kind.API_KEY, new_id("key"))),
        ApiKeySecret(new_secret(Kind.API_KEY, key_id)),
        SessionToken(new_secret(Kind.SESSION_TOKEN, new_id("ses"))),
        SessionToken(new_secret(Kind.SESSION_TOKEN, session_id)),
    ]
    for subject in subjects:
        with pytest.raises(CredentialsInvalid):
            await auth.grant(subject)


async def test_refresh_token_is_not_a_credential_for_calls(auth: World) -> None:
    refresh = (await auth.tokens(await auth.register())).refresh.text
    for subject in (AccessToken(refresh), SessionToken(refresh), ApiKeySecret(refresh)):
        with pytest.raises(CredentialsInvalid):
            await auth.grant(subject)


async def test_revoked_and_expired_keys_are_refused(auth: World, clock: ManualClock) -> None:
    owner = await auth.owner()
    revoked = await auth.key(owner)
    await auth.app.api_keys.revoke(owner, revoked.key.id)
    ends_at = clock.now() + timedelta(seconds=60)
    wanted = NewKey(display_name="short", scopes=frozenset(), expires_at=ends_at)
    short = await auth.app.api_keys.create(owner, wanted)
    with pytest.raises(CredentialsInvalid):
        await auth.grant_of_key(revoked.secret)
    clock.advance(59.9)
    await auth.grant_of_key(short.secret)
    clock.advance(0.1)
    with pytest.raises(CredentialsInvalid):
        await auth.grant_of_key(short.secret)


async def test_every_credential_of_a_disabled_user_is_refused_and_keys_return_with_them(auth: World) -> None:
    owner = await auth.owner()
    user = await auth.member(owner)
    key = ApiKeySecret((await auth.key(caller_of(user))).secret)
    subjects: list[Subject] = [
        key,
        AccessToken((await auth.tokens(user)).access.text),
        SessionToken(await auth.cookie(user)),
        OnBehalfOf(user.organization_id, user.id),
    ]
    await auth.app.accounts.update(owner, user.id, UserChange(disabled=True))
    for subject in subjects:
        with pytest.raises(CredentialsInvalid):
            await auth.grant(subject, CONVERSATION)
    await auth.app.accounts.update(owner, user.id, UserChange(disabled=False))
    await auth.grant(key)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(subjects[1])


async def test_key_is_good_for_what_it_was_given_and_its_user_still_may(auth: World) -> None:
    owner = await auth.owner()
    user = await auth.member(owner, Role.ADMIN)
    key = await auth.key(caller_of(user), "users:write", "models:read")
    assert (await auth.grant_of_key(key.secret)).scopes == {"users:write", "models:read"}
    await auth.app.accounts.update(owner, user.id, UserChange(role=Role.VIEWER))
    assert (await auth.grant_of_key(key.secret)).scopes == {"models:read"}
    await auth.app.accounts.update(owner, user.id, UserChange(role=Role.OWNER))
    assert (await auth.grant_of_key(key.secret)).scopes == {"users:write", "models:read"}


async def test_access_token_gains_nothing_when_its_user_rises(auth: World) -> None:
    owner = await auth.owner()
    user = await auth.member(owner, Role.VIEWER)
    access = AccessToken((await auth.tokens(user)).access.text)
    await auth.app.accounts.update(owner, user.id, UserChange(role=Role.ADMIN))
    assert (await auth.grant(access)).scopes == ROLE_SCOPES[Role.VIEWER]


@pytest.mark.parametrize("proof", WRONG_PROOFS)
async def test_wrong_workload_is_refused_however_good_the_credential_is(auth: World, proof: WorkloadProof) -> None:
    secret = (await auth.key(await auth.owner())).secret
    with pytest.raises(CredentialsInvalid):
        await auth.grant(ApiKeySecret(secret), proof)


async def test_workload_works_for_an_absent_user_within_both_their_scopes(auth: World) -> None:
    owner = await auth.owner()
    member = await auth.member(owner)
    viewer = await auth.member(owner, Role.VIEWER)
    full = await auth.grant(OnBehalfOf(member.organization_id, member.id), CONVERSATION)
    less = await auth.grant(OnBehalfOf(viewer.organization_id, viewer.id), CONVERSATION)
    assert full.scopes == WORKLOAD_SCOPES["conversation"]
    assert less.scopes == {"knowledge:read", "models:read"}
    assert full.credential_id == "workload:conversation"


@pytest.mark.parametrize("prefix", ["key", "ses"])
async def test_workload_names_the_credential_that_asked_even_when_it_has_ended(auth: World, prefix: str) -> None:
    user, credential_id = await auth.register(), new_id(prefix)
    grant = await auth.grant(OnBehalfOf(user.organization_id, user.id, credential_id), CONVERSATION)
    assert grant.credential_id == credential_id
    assert grant.scopes == WORKLOAD_SCOPES["conversation"]


@pytest.mark.parametrize("credential_id", ["workload:edge", "usr_01m81yxdt5er79mzf15ea65abm", "key_x", "\0"])
async def test_workload_names_no_other_kind_of_credential(auth: World, credential_id: str) -> None:
    user = await auth.register()
    with pytest.raises(CredentialsInvalid):
        await auth.grant(OnBehalfOf(user.organization_id, user.id, credential_id), CONVERSATION)


@pytest.mark.parametrize("proof", [None, EDGE, RETRIEVAL])
async def test_only_a_workload_with_leave_works_for_absent_users(auth: World, proof: WorkloadProof | None) -> None:
    user = await auth.register()
    with pytest.raises(CallerForbidden):
        await auth.grant(OnBehalfOf(user.organization_id, user.id), proof)


async def test_absent_user_of_another_organization_or_of_none_is_refused_alike(auth: World) -> None:
    user, other = await auth.register(), await auth.register()
    answers = []
    for organization_id, user_id in (
        (other.organization_id, user.id),
        (user.organization_id, new_id("usr")),
        (new_id("org"), user.id),
        ("", ""),
        ("org_x", "usr_x\0"),
    ):
        with pytest.raises(MeshError) as error:
            await auth.grant(OnBehalfOf(organization_id, user_id), CONVERSATION)
        answers.append(repr(error.value))
    assert answers == [repr(CredentialsInvalid())] * 5
    await auth.grant(OnBehalfOf(user.organization_id, user.id), CONVERSATION)


@pytest.mark.parametrize(
    "audiences", [[], ["auth"] * 2, ["parley"], ["auth", "edge"], [""], ["Auth"], [*AUDIENCES, *"abcde"]]
)
async def test_audiences_must_be_different_services(auth: World, audiences: list[str]) -> None:
    secret = (await auth.key(await auth.owner())).secret
    with pytest.raises(InvalidArgument):
        await auth.app.exchange.trade(ApiKeySecret(secret), EDGE, audiences)


def test_workload_has_two_secrets_while_one_gives_way_to_the_other() -> None:
    workloads = Workloads({"edge": [sha256(secret).hexdigest() for secret in (b"before", b"after")]})
    assert workloads.prove(WorkloadProof("edge", "before")) == workloads.prove(WorkloadProof("edge", "after")) == "edge"
    for wrong in ("", "neither"):
        with pytest.raises(CredentialsInvalid):
            workloads.prove(WorkloadProof("edge", wrong))


@pytest.mark.parametrize(
    "hashes",
    [
        {"edge": "x"},
        {"Edge": "0" * 64},
        {"": "0" * 64},
        {"edge": "E" * 64},
        {"edge": sha256(b"").hexdigest()},
        {"edge": []},
        {"edge": ["0" * 64, "x"]},
        {"edge": ["0" * 64, "1" * 64, "2" * 64]},
    ],
)
def test_malformed_workloads_are_refused_at_start(hashes: dict[str, str | list[str]]) -> None:
    with pytest.raises(ValueError, match=r"hash|name"):
        Workloads(hashes)
