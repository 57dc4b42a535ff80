import pytest

from services.auth.credentials import Kind, new_secret
from services.auth.exchange import AccessToken, SessionToken
from services.auth.login import REPEAT_GRACE
from services.auth.model import PASSWORD_LENGTH_MAX, Action, SessionKind, UserChange
from services.mesh.clock import ManualClock
from services.mesh.errors import CredentialsInvalid, InvalidArgument, MeshError, RateLimited
from services.mesh.ids import new_id
from tests.support.auth import CHEAP, PASSWORD, World, auth_settings, caller_of, new_email, world

DAY_S = 86_400


async def refused(auth: World, email: str, password: str) -> MeshError:
    with pytest.raises(MeshError) as error:
        await auth.app.sessions.login(email, password, SessionKind.TOKENS)
    return error.value


async def test_login_by_tokens_gives_a_pair_that_is_good(auth: World) -> None:
    user = await auth.register()
    logged_in = await auth.app.sessions.login(user.email, PASSWORD, SessionKind.TOKENS)
    assert logged_in.tokens is not None
    assert logged_in.session_token == ""
    grant = await auth.grant(AccessToken(logged_in.tokens.access.text))
    assert (grant.user_id, grant.organization_id) == (user.id, user.organization_id)


async def test_login_by_cookie_gives_a_session_token_that_is_good(auth: World) -> None:
    user = await auth.register()
    logged_in = await auth.app.sessions.login(user.email, PASSWORD, SessionKind.COOKIE)
    assert logged_in.tokens is None
    assert (await auth.grant(SessionToken(logged_in.session_token))).user_id == user.id


async def test_email_is_compared_without_regard_to_case(auth: World) -> None:
    user = await auth.register()
    await auth.app.sessions.login(user.email.upper(), PASSWORD, SessionKind.COOKIE)


async def test_wrong_unknown_and_disabled_are_refused_alike(auth: World) -> None:
    owner = await auth.owner()
    disabled = await auth.member(owner)
    await auth.app.accounts.update(owner, disabled.id, UserChange(disabled=True))
    known = await auth.member(owner)
    answers = [
        await refused(auth, known.email, "a wrong password"),
        await refused(auth, new_email(), PASSWORD),
        await refused(auth, disabled.email, PASSWORD),
        await refused(auth, "no address at all", PASSWORD),
        await refused(auth, known.email, ""),
    ]
    assert {type(answer) for answer in answers} == {CredentialsInvalid}
    assert len({repr(answer) for answer in answers}) == 1


@pytest.mark.parametrize(("length", "error"), [(128, CredentialsInvalid), (129, InvalidArgument)])
async def test_password_beyond_its_length_is_not_even_hashed(auth: World, length: int, error: type[MeshError]) -> None:
    assert isinstance(await refused(auth, new_email(), "x" * length), error)


@pytest.mark.parametrize(("length", "error"), [(254, CredentialsInvalid), (255, InvalidArgument)])
async def test_email_beyond_its_length_is_refused(auth: World, length: int, error: type[MeshError]) -> None:
    assert isinstance(await refused(auth, "x" * length, PASSWORD), error)


async def test_tries_on_an_account_are_limited_whether_it_exists_or_not(clock: ManualClock) -> None:
    settings = auth_settings(login_account_burst=3, login_account_interval_s=30.0)
    with world(settings=settings, clock=clock) as auth:
        await auth.app.prepare()
        for email in ((await auth.register()).email, new_email()):
            answers = [await refused(auth, email, "a wrong password") for _ in range(4)]
            assert [type(answer) for answer in answers] == [CredentialsInvalid] * 3 + [RateLimited]
            assert answers[3].retry_after_s == pytest.approx(30.0)
        clock.advance(30.0)
        assert isinstance(await refused(auth, email, "a wrong password"), CredentialsInvalid)


async def test_spellings_of_an_address_are_one_account_to_the_limit(clock: ManualClock) -> None:
    with world(settings=auth_settings(login_account_burst=2), clock=clock) as auth:
        await auth.app.prepare()
        answers = [await refused(auth, email, "wrong password") for email in ("a@b.c", "A@b.c", "a@B.C")]
    assert [type(answer) for answer in answers] == [CredentialsInvalid] * 2 + [RateLimited]


async def test_right_password_is_refused_too_while_the_account_is_limited(clock: ManualClock) -> None:
    with world(settings=auth_settings(login_account_burst=1), clock=clock) as auth:
        await auth.app.prepare()
        user = await auth.register()
        await refused(auth, user.email, "a wrong password")
        assert isinstance(await refused(auth, user.email, PASSWORD), RateLimited)


async def test_logins_of_all_accounts_together_are_limited(clock: ManualClock) -> None:
    settings = auth_settings(login_everyone_burst=5, login_everyone_interval_s=0.5)
    with world(settings=settings, clock=clock) as auth:
        await auth.app.prepare()
        answers = [await refused(auth, new_email(), PASSWORD) for _ in range(6)]
    assert [type(answer) for answer in answers] == [CredentialsInvalid] * 5 + [RateLimited]


async def test_hash_of_an_older_cost_is_replaced_by_a_login(clock: ManualClock) -> None:
    with world(clock=clock) as auth:
        await auth.app.prepare()
        user = await auth.register()
        before = await auth.app.store.find_account(user.email)
        with world(clock=clock, store=auth.app.store, cost=type(CHEAP)(memory_kib=16, passes=1)) as dearer:
            await dearer.app.prepare()
            await dearer.cookie(user)
        after = await auth.app.store.find_account(user.email)
        assert before is not None
        assert after is not None
        assert before.password_hash != after.password_hash
        await auth.cookie(user)


async def test_refresh_gives_the_next_pair_and_moves_the_idle_end(auth: World, clock: ManualClock) -> None:
    pair = await auth.tokens(await auth.register())
    clock.advance(10 * DAY_S)
    following = await auth.app.sessions.refresh(pair.refresh.text)
    assert following.refresh.text != pair.refresh.text
    assert (following.refresh.expires_at - clock.now()).days == 30
    await auth.grant(AccessToken(following.access.text))


async def test_direct_parent_repeated_within_the_grace_is_told_the_same_successor(
    auth: World, clock: ManualClock
) -> None:
    pair = await auth.tokens(await auth.register())
    following = await auth.app.sessions.refresh(pair.refresh.text)
    clock.advance(REPEAT_GRACE.total_seconds())
    repeated = await auth.app.sessions.refresh(pair.refresh.text)
    assert repeated.refresh.text == following.refresh.text
    await auth.app.sessions.refresh(following.refresh.text)


async def test_parent_used_after_the_grace_ends_the_session(auth: World, clock: ManualClock) -> None:
    user = await auth.register()
    pair = await auth.tokens(user)
    following = await auth.app.sessions.refresh(pair.refresh.text)
    clock.advance(REPEAT_GRACE.total_seconds() + 0.001)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(pair.refresh.text)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(following.refresh.text)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(AccessToken(following.access.text))
    events = await auth.app.store.list_events(user.organization_id, limit=10)
    assert Action.SESSION_REUSED in {event.action for event in events}


async def test_grandparent_within_the_grace_ends_the_session(auth: World) -> None:
    pair = await auth.tokens(await auth.register())
    second = await auth.app.sessions.refresh(pair.refresh.text)
    third = await auth.app.sessions.refresh(second.refresh.text)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(pair.refresh.text)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(third.refresh.text)


async def test_reuse_in_one_session_leaves_the_others_alone(auth: World, clock: ManualClock) -> None:
    user = await auth.register()
    stolen, other = await auth.tokens(user), await auth.tokens(user)
    await auth.app.sessions.refresh(stolen.refresh.text)
    clock.advance(60)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(stolen.refresh.text)
    await auth.app.sessions.refresh(other.refresh.text)


@pytest.mark.parametrize("days", [30, 31])
async def test_refresh_token_ends_after_30_idle_days(auth: World, clock: ManualClock, days: int) -> None:
    pair = await auth.tokens(await auth.register())
    clock.advance(days * DAY_S)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(pair.refresh.text)


async def test_session_ends_after_90_days_however_it_is_used(auth: World, clock: ManualClock) -> None:
    refresh_token = (await auth.tokens(await auth.register())).refresh
    for _ in range(4):
        clock.advance(20 * DAY_S)
        refresh_token = (await auth.app.sessions.refresh(refresh_token.text)).refresh
    assert (refresh_token.expires_at - clock.now()).days == 10
    clock.advance(10 * DAY_S)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(refresh_token.text)


@pytest.mark.parametrize("token", ["", "x", new_secret(Kind.REFRESH_TOKEN, new_id("ses"))])
async def test_refresh_token_that_nobody_issued_is_refused(auth: World, token: str) -> None:
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(token)


async def test_credentials_of_one_kind_are_not_taken_for_another(auth: World) -> None:
    user = await auth.register()
    pair, cookie = await auth.tokens(user), await auth.cookie(user)
    for token in (cookie, pair.access.text, (await auth.key(caller_of(user))).secret):
        with pytest.raises(CredentialsInvalid):
            await auth.app.sessions.refresh(token)


async def test_refresh_token_of_a_disabled_user_is_refused(auth: World) -> None:
    owner = await auth.owner()
    user = await auth.member(owner)
    pair = await auth.tokens(user)
    await auth.app.accounts.update(owner, user.id, UserChange(disabled=True))
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(pair.refresh.text)


async def test_logout_ends_access_and_refresh_at_once(auth: World) -> None:
    pair = await auth.tokens(await auth.register())
    await auth.log_out(Kind.REFRESH_TOKEN, pair.refresh.text)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(AccessToken(pair.access.text))
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(pair.refresh.text)


async def test_logout_with_an_older_token_of_the_family_ends_it_too(auth: World) -> None:
    pair = await auth.tokens(await auth.register())
    following = await auth.app.sessions.refresh(pair.refresh.text)
    await auth.log_out(Kind.REFRESH_TOKEN, pair.refresh.text)
    with pytest.raises(CredentialsInvalid):
        await auth.app.sessions.refresh(following.refresh.text)


async def test_logout_ends_a_cookie_session(auth: World) -> None:
    cookie = await auth.cookie(await auth.register())
    await auth.log_out(Kind.SESSION_TOKEN, cookie)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(SessionToken(cookie))


async def test_logout_with_an_unknown_token_is_no_error_and_ends_nothing(auth: World) -> None:
    pair = await auth.tokens(await auth.register())
    session_id = "ses_" + pair.refresh.text.split("_")[1]
    for token in ("", "x", new_secret(Kind.REFRESH_TOKEN, session_id)):
        await auth.log_out(Kind.REFRESH_TOKEN, token)
    await auth.app.sessions.refresh(pair.refresh.text)


async def test_cookie_session_ends_12_hours_after_its_last_use(auth: World, clock: ManualClock) -> None:
    cookie = await auth.cookie(await auth.register())
    for _ in range(3):
        clock.advance(11 * 3_600)
        await auth.grant(SessionToken(cookie))
        await auth.app.recorder.drain()
    clock.advance(12 * 3_600)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(SessionToken(cookie))


async def test_cookie_session_ends_after_30_days_however_it_is_used(auth: World, clock: ManualClock) -> None:
    cookie = await auth.cookie(await auth.register())
    for _ in range(59):
        clock.advance(12 * 3_600 - 1)
        await auth.grant(SessionToken(cookie))
        await auth.app.recorder.drain()
    clock.advance(12 * 3_600 - 1)
    await auth.grant(SessionToken(cookie))
    await auth.app.recorder.drain()
    clock.advance(60)
    with pytest.raises(CredentialsInvalid):
        await auth.grant(SessionToken(cookie))


async def test_changed_password_is_good_and_the_old_one_is_not(auth: World) -> None:
    user = await auth.register()
    await auth.app.sessions.change_password(caller_of(user), PASSWORD, "another password")
    assert isinstance(await refused(auth, user.email, PASSWORD), CredentialsInvalid)
    await auth.app.sessions.login(user.email, "another password", SessionKind.COOKIE)


async def test_changed_password_ends_all_sessions_but_the_calling_one(auth: World) -> None:
    user = await auth.register()
    calling, other, cookie = await auth.tokens(user), await auth.tokens(user), await auth.cookie(user)
    session_id = (await auth.grant(AccessToken(calling.access.text))).credential_id
    caller = caller_of(user, credential_id=session_id)
    await auth.app.sessions.change_password(caller, PASSWORD, "another password")
    await auth.grant(AccessToken(calling.access.text))
    await auth.app.sessions.refresh(calling.refresh.text)
    for ended in (AccessToken(other.access.text), SessionToken(cookie)):
        with pytest.raises(CredentialsInvalid):
            await auth.grant(ended)


async def test_password_is_not_changed_without_the_current_one_and_tries_are_counted(clock: ManualClock) -> None:
    with world(settings=auth_settings(login_account_burst=2), clock=clock) as auth:
        await auth.app.prepare()
        user = await auth.register()
        answers = []
        for _ in range(3):
            with pytest.raises(MeshError) as error:
                await auth.app.sessions.change_password(caller_of(user), "a wrong password", "another password")
            answers.append(type(error.value))
    assert answers == [CredentialsInvalid, CredentialsInvalid, RateLimited]


@pytest.mark.parametrize("new", ["x" * 7, "x" * (PASSWORD_LENGTH_MAX + 1)])
async def test_new_password_of_wrong_length_is_refused(auth: World, new: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        await auth.app.sessions.change_password(caller_of(await auth.register()), PASSWORD, new)
    assert error.value.fields[0].field == "new_password"


async def test_failed_login_is_audited_for_an_account_that_exists(auth: World) -> None:
    user = await auth.register()
    await refused(auth, user.email, "a wrong password")
    await auth.app.recorder.drain()
    events = await auth.app.store.list_events(user.organization_id, limit=1)
    assert (events[0].action, events[0].target_id) == (Action.LOGIN_FAILED, user.id)


async def test_old_sessions_are_forgotten_a_week_after_their_end(auth: World, clock: ManualClock) -> None:
    user = await auth.register()
    await auth.tokens(user)
    grant = await auth.grant(SessionToken(await auth.cookie(user)))
    clock.advance(7 * DAY_S + 12 * 3_600 + 1)
    await auth.app.forget_old_sessions()
    with pytest.raises(CredentialsInvalid):
        await auth.grant(SessionToken(new_secret(Kind.SESSION_TOKEN, grant.credential_id)))
    assert await auth.app.store.forget_sessions(clock.now(), 10) == 0
