from dataclasses import replace

import pytest

from services.auth.accounts import Registration
from services.auth.model import Action, Caller, Role, UserChange
from services.auth.scopes import ROLE_SCOPES
from services.mesh.errors import (
    AlreadyExists,
    IdempotencyMismatch,
    InvalidArgument,
    MeshError,
    NotFound,
    RegistrationClosed,
    ScopeMissing,
)
from services.mesh.ids import new_id
from tests.support.auth import PASSWORD, World, auth_settings, caller_of, narrowed, new_email, new_user, stranger, world


async def test_registration_makes_an_owner_of_a_new_organization(auth: World) -> None:
    wanted = Registration(email="Ada.Lovelace@Example.com", password=PASSWORD)
    user = await auth.app.accounts.register(wanted)
    organization = await auth.app.accounts.organization(caller_of(user))
    assert (user.email, user.display_name, user.role) == ("ada.lovelace@example.com", "ada.lovelace", Role.OWNER)
    assert organization.display_name == "ada.lovelace"


async def test_registration_is_closed_unless_the_operator_opens_it() -> None:
    assert type(auth_settings()).model_fields["registration"].default == "closed"
    with world(settings=auth_settings(registration="closed")) as auth, pytest.raises(RegistrationClosed):
        await auth.register()


async def test_taken_address_is_refused_in_every_spelling(auth: World) -> None:
    user = await auth.register()
    with pytest.raises(AlreadyExists) as error:
        await auth.app.accounts.register(Registration(email=user.email.upper(), password=PASSWORD))
    assert error.value.metadata == {"field": "email"}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("email", {"email": "nobody"}),
        ("email", {"email": "a b@example.com"}),
        ("email", {"email": "a\0@example.com"}),
        ("email", {"email": "@example.com"}),
        ("email", {"email": "a@"}),
        ("email", {"email": "a@b@c"}),
        ("email", {"email": "x" * 250 + "@b.c" + "d"}),
        ("password", {"password": "x" * 7}),
        ("password", {"password": "x" * 129}),
        ("display_name", {"display_name": "x" * 101}),
        ("display_name", {"display_name": "a\0b"}),
        ("display_name", {"display_name": "a\nb"}),
        ("display_name", {"display_name": "   "}),
        ("organization_name", {"organization_name": "x" * 101}),
    ],
)
async def test_malformed_fields_are_named(auth: World, field: str, change: dict[str, str]) -> None:
    wanted = replace(Registration(email=new_email(), password=PASSWORD), **change)
    with pytest.raises(InvalidArgument) as error:
        await auth.app.accounts.register(wanted)
    assert error.value.fields[0].field == field
    assert wanted.password not in error.value.message


@pytest.mark.parametrize("length", [254, 100])
async def test_fields_of_the_greatest_length_are_taken(auth: World, length: int) -> None:
    email = "x" * (length - len("@example.com")) + "@example.com"
    user = await auth.app.accounts.register(
        Registration(email=email, password="x" * 128, display_name="y" * 100, organization_name="z" * 100)
    )
    assert user.email == email


async def test_me_is_the_caller(auth: World) -> None:
    user = await auth.register()
    assert await auth.app.accounts.me(caller_of(user)) == user
    with pytest.raises(NotFound):
        await auth.app.accounts.me(stranger())


async def test_foreign_random_and_malformed_ids_are_answered_alike(auth: World) -> None:
    foreign, caller = await auth.register(), await auth.owner()
    answers = []
    for user_id in (foreign.id, new_id("usr"), "usr_x", "", "' OR 1=1 --"):
        for call in (
            auth.app.accounts.get(caller, user_id),
            auth.app.accounts.update(caller, user_id, UserChange(disabled=True)),
        ):
            with pytest.raises(MeshError) as error:
                await call
            answers.append(repr(error.value))
    assert set(answers) == {repr(NotFound.of("user"))}
    assert not (await auth.app.accounts.me(caller_of(foreign))).disabled


async def test_members_of_other_organizations_are_not_listed(auth: World) -> None:
    caller = await auth.owner()
    member = await auth.member(caller)
    await auth.owner()
    users = await auth.app.accounts.list(caller, after=None, limit=10)
    assert {user.id for user in users} == {caller.user_id, member.id}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("granted", Role)
async def test_nobody_grants_a_role_above_their_own(auth: World, role: Role, granted: Role) -> None:
    owner = await auth.owner()
    caller = caller_of(await auth.member(owner, role))
    if ROLE_SCOPES[granted] <= ROLE_SCOPES[role]:
        assert (await auth.app.accounts.create(caller, new_user(role=granted))).role is granted
        return
    with pytest.raises(ScopeMissing):
        await auth.app.accounts.create(caller, new_user(role=granted))


async def test_narrow_key_of_an_owner_makes_nobody_who_may_more_than_the_key(auth: World) -> None:
    narrow = narrowed(await auth.owner(), "users:write", "users:read")
    for role in Role:
        with pytest.raises(ScopeMissing):
            await auth.app.accounts.create(narrow, new_user(role=role))


async def raise_self(auth: World, caller: Caller) -> None:
    await auth.app.accounts.update(caller, caller.user_id, UserChange(role=Role.OWNER))


async def test_admin_neither_rises_nor_touches_an_owner(auth: World) -> None:
    owner = await auth.owner()
    admin = caller_of(await auth.member(owner, Role.ADMIN))
    with pytest.raises(ScopeMissing) as error:
        await raise_self(auth, admin)
    assert error.value.metadata == {"scope": "organization:write"}
    for change in (UserChange(disabled=True), UserChange(role=Role.VIEWER), UserChange(display_name="x")):
        with pytest.raises(ScopeMissing):
            await auth.app.accounts.update(admin, owner.user_id, change)


@pytest.mark.parametrize(
    ("change", "field"),
    [(UserChange(role=Role.MEMBER), "user.role"), (UserChange(disabled=True), "user.disabled")],
)
async def test_last_owner_can_be_neither_demoted_nor_disabled(auth: World, change: UserChange, field: str) -> None:
    owner = await auth.owner()
    with pytest.raises(InvalidArgument) as error:
        await auth.app.accounts.update(owner, owner.user_id, change)
    assert error.value.fields[0].field == field


async def test_owner_leaves_when_another_stays(auth: World) -> None:
    owner = await auth.owner()
    await auth.member(owner, Role.OWNER)
    changed = await auth.app.accounts.update(owner, owner.user_id, UserChange(role=Role.MEMBER))
    assert changed.role is Role.MEMBER


async def test_repeated_request_returns_the_same_user_and_another_body_is_refused(auth: World) -> None:
    owner = await auth.owner()
    wanted = new_user(request_id="r-1")
    first = await auth.app.accounts.create(owner, wanted)
    assert await auth.app.accounts.create(owner, wanted) == first
    for change in ({"password": "another password"}, {"role": Role.ADMIN}, {"email": new_email()}):
        with pytest.raises(IdempotencyMismatch):
            await auth.app.accounts.create(owner, replace(wanted, **change))


async def test_same_request_id_of_another_caller_is_another_request(auth: World) -> None:
    one, other = await auth.owner(), await auth.owner()
    first = await auth.app.accounts.create(one, new_user(request_id="r-1"))
    assert (await auth.app.accounts.create(other, new_user(request_id="r-1"))).id != first.id


async def test_organization_is_renamed_for_its_own_members_only(auth: World) -> None:
    one, other = await auth.owner(), await auth.owner()
    await auth.app.accounts.rename_organization(one, "  Analytical Engines ")
    assert (await auth.app.accounts.organization(one)).display_name == "Analytical Engines"
    assert (await auth.app.accounts.organization(other)).display_name != "Analytical Engines"
    for call in (auth.app.accounts.organization(stranger()), auth.app.accounts.rename_organization(stranger(), "x")):
        with pytest.raises(NotFound):
            await call


@pytest.mark.parametrize("name", ["", " ", "x" * 101, "a\tb"])
async def test_malformed_name_of_an_organization_is_refused(auth: World, name: str) -> None:
    with pytest.raises(InvalidArgument):
        await auth.app.accounts.rename_organization(await auth.owner(), name)


async def test_changes_are_audited_without_text_of_people(auth: World) -> None:
    owner = await auth.owner()
    user = await auth.member(owner)
    await auth.app.accounts.update(owner, user.id, UserChange(role=Role.ADMIN))
    await auth.app.accounts.rename_organization(owner, "Renamed")
    events = await auth.app.store.list_events(owner.organization_id, limit=10)
    assert [event.action for event in events] == [
        Action.ORGANIZATION_UPDATED,
        Action.USER_UPDATED,
        Action.USER_CREATED,
        Action.USER_CREATED,
        Action.ORGANIZATION_CREATED,
    ]
    assert user.email not in repr(events)
