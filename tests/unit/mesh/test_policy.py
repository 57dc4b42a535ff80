import pytest

from parley.options.v1 import method_pb2
from services.mesh.policy import DEFAULT_TIMEOUT_S, Idempotency, PolicyError, policies_of, policy_table
from tests.support.echo import CONTRACT, METHODS, NONE, PACKAGE, READ, SERVICE, Method, contract


def test_table_has_the_declared_policy_of_every_method() -> None:
    table = policy_table(f"/{SERVICE}/{method.name}" for method in METHODS)
    assert table[f"/{SERVICE}/Write"].scopes == {"echo:read", "echo:write"}
    assert table[f"/{SERVICE}/Inner"].callers == {"edge"}
    assert table[f"/{SERVICE}/Hello"].is_public
    assert table[f"/{SERVICE}/Hurry"].timeout_s == 0.05
    assert table[f"/{SERVICE}/Hello"].timeout_s == DEFAULT_TIMEOUT_S
    assert table == policies_of([CONTRACT])


@pytest.mark.parametrize(
    ("idempotency", "is_retryable"),
    [
        (Idempotency.READ, True),
        (Idempotency.NATURAL, True),
        (Idempotency.REQUEST_ID, False),
        (Idempotency.NONE, False),
    ],
)
def test_only_what_changes_nothing_more_is_repeated(idempotency: Idempotency, *, is_retryable: bool) -> None:
    assert idempotency.is_retryable is is_retryable


@pytest.mark.parametrize(
    ("name", "policy", "problem"),
    [
        ("Bare", None, "no option"),
        ("Unsaid", method_pb2.MethodPolicy(public=True), "no idempotency"),
        ("Open", method_pb2.MethodPolicy(idempotency=READ), "neither public nor scopes nor callers"),
        ("Both", method_pb2.MethodPolicy(public=True, scopes=["a:b"], idempotency=NONE), "public, and yet"),
        ("Also", method_pb2.MethodPolicy(public=True, callers=["edge"], idempotency=NONE), "public, and yet"),
    ],
)
def test_method_without_a_sound_policy_refuses_to_start(
    name: str, policy: method_pb2.MethodPolicy | None, problem: str
) -> None:
    contract(
        f"{name}Service", Method("Do", policy), Method("Fine", method_pb2.MethodPolicy(public=True, idempotency=READ))
    )
    with pytest.raises(PolicyError, match=problem) as caught:
        policy_table([f"/{PACKAGE}.{name}Service/Do", f"/{PACKAGE}.{name}Service/Fine"])
    assert "Fine" not in str(caught.value)


@pytest.mark.parametrize("path", ["/no.such.Service/Do", f"/{SERVICE}/Nothing", "", "/", SERVICE])
def test_method_without_a_descriptor_refuses_to_start(path: str) -> None:
    with pytest.raises(PolicyError, match="no descriptor"):
        policy_table([path])
