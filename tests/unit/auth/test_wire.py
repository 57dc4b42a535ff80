import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from parley.auth.v1 import api_key_service_pb2, token_service_pb2, user_pb2, user_service_pb2
from services.auth import wire
from services.auth.model import Role, SessionKind, UserChange
from services.mesh.errors import InvalidArgument
from services.mesh.pages import Position


def update(user: user_pb2.User, *paths: str) -> user_service_pb2.UpdateUserRequest:
    mask = FieldMask(paths=paths) if paths else None
    return user_service_pb2.UpdateUserRequest(user_id="usr_x", user=user, update_mask=mask)


def test_every_role_of_the_contract_has_one_of_the_model_and_back() -> None:
    numbers = {number for _, number in user_pb2.Role.items()} - {user_pb2.ROLE_UNSPECIFIED}
    roles = {wire._role("role", number) for number in numbers}
    assert roles == set(Role)


def test_without_a_mask_the_fields_that_the_body_has_are_changed() -> None:
    assert wire.change_of(update(user_pb2.User(display_name="x"))) == UserChange(display_name="x")
    assert wire.change_of(update(user_pb2.User(id="usr_y", email="x", scopes=["y"]))) == UserChange()


def test_with_a_mask_its_fields_are_changed_even_to_nothing() -> None:
    change = wire.change_of(update(user_pb2.User(role=user_pb2.ROLE_OWNER), "disabled"))
    assert change == UserChange(disabled=False)


@pytest.mark.parametrize("paths", [("email",), ("display_name", "organization_id"), ("*",), ("user.role",), ("",)])
def test_mask_that_names_another_field_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument) as error:
        wire.change_of(update(user_pb2.User(), *paths))
    assert error.value.fields[0].field == "update_mask"


@pytest.mark.parametrize("number", [0, 5, -1])
def test_role_that_the_contract_does_not_name_is_refused(number: int) -> None:
    user = user_pb2.User()
    user.role = number  # type: ignore[assignment]  # an open enum takes any number from the wire
    with pytest.raises(InvalidArgument) as error:
        wire.change_of(update(user, "role"))
    assert error.value.fields[0].field == "user.role"


def test_new_user_is_a_member_unless_told() -> None:
    assert wire.new_user_of(user_service_pb2.CreateUserRequest()).role is Role.MEMBER


@pytest.mark.parametrize(("length", "is_good"), [(128, True), (129, False)])
def test_request_id_has_128_characters_at_most(length: int, is_good: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    request = user_service_pb2.CreateUserRequest(request_id="x" * length)
    if is_good:
        assert wire.new_user_of(request).request_id == "x" * length
        return
    with pytest.raises(InvalidArgument):
        wire.new_user_of(request)


def test_session_is_carried_by_tokens_unless_told_and_in_no_unknown_way() -> None:
    request = token_service_pb2.LoginRequest()
    assert wire.session_kind_of(request) is SessionKind.TOKENS
    request.session_kind = 9  # type: ignore[assignment]  # an open enum takes any number from the wire
    with pytest.raises(InvalidArgument):
        wire.session_kind_of(request)


def test_logout_and_exchange_need_a_credential() -> None:
    with pytest.raises(InvalidArgument):
        wire.logout_of(token_service_pb2.LogoutRequest())
    with pytest.raises(InvalidArgument):
        wire.subject_of(token_service_pb2.ExchangeTokenRequest())


@pytest.mark.parametrize(("count", "is_good"), [(64, True), (65, False)])
def test_request_names_64_scopes_at_most(count: int, is_good: bool) -> None:  # noqa: FBT001 - a parameter of pytest
    request = api_key_service_pb2.CreateApiKeyRequest(scopes=["keys:read"] * count)
    if is_good:
        assert wire.new_key_of(request).scopes == {"keys:read"}
        return
    with pytest.raises(InvalidArgument):
        wire.new_key_of(request)


def test_instant_beyond_the_calendar_is_refused() -> None:
    request = api_key_service_pb2.CreateApiKeyRequest(expire_time=Timestamp(seconds=1 << 40))
    with pytest.raises(InvalidArgument) as error:
        wire.new_key_of(request)
    assert error.value.fields[0].field == "expire_time"


@pytest.mark.parametrize(
    "position",
    [("x", "usr_x"), ("2026-01-01T00:00:00", "usr_x"), (1, "x"), ("2026-01-01T00:00:00+00:00", "a\0"), ("x",)],
)
def test_position_that_is_none_of_ours_is_refused(position: Position) -> None:
    with pytest.raises(InvalidArgument):
        wire.cursor_of(position)
