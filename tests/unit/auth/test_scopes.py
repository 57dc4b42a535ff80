from itertools import pairwise

import pytest

from parley.options.v1 import method_pb2
from services.auth.model import Role
from services.auth.scopes import ALL_SCOPES, AUDIENCES, ROLE_SCOPES, WORKLOAD_SCOPES, require_all
from services.mesh.errors import ScopeMissing
from tests.support.contracts import contract_files


def declared_scopes() -> set[str]:
    """Every scope that any contract names."""
    return {
        scope
        for file in contract_files()
        for service in file.services_by_name.values()
        for method in service.methods
        for scope in method.GetOptions().Extensions[method_pb2.method].scopes
    }


def test_every_scope_of_the_contracts_is_held_by_an_owner_and_no_other_exists() -> None:
    assert declared_scopes() | {"usage:read"} == ALL_SCOPES


def test_each_role_holds_all_that_the_one_before_it_holds() -> None:
    for lower, higher in pairwise(Role):
        assert ROLE_SCOPES[lower] < ROLE_SCOPES[higher]
    assert ROLE_SCOPES[Role.OWNER] == ALL_SCOPES


def test_viewer_changes_nothing_but_its_own_profile() -> None:
    changing = {scope for scope in ROLE_SCOPES[Role.VIEWER] if not scope.endswith(":read")}
    assert changing == {"profile:write"}


def test_workloads_hold_scopes_that_exist_and_nothing_of_people() -> None:
    for scopes in WORKLOAD_SCOPES.values():
        assert scopes <= ALL_SCOPES
        assert not {scope for scope in scopes if scope.split(":")[0] in {"profile", "users", "keys", "organization"}}


def test_audiences_are_the_services_that_contracts_exist_for() -> None:
    packages = {file.package.split(".")[1] for file in contract_files() if file.services_by_name}
    assert set(AUDIENCES) == packages - {"mesh"}


def test_first_missing_scope_is_named() -> None:
    with pytest.raises(ScopeMissing) as refused:
        require_all(frozenset({"keys:read"}), frozenset({"users:write", "keys:write", "keys:read"}))
    assert refused.value.metadata == {"scope": "keys:write"}
