"""Which role holds which scopes, and what a workload may do for a user who is not present.

Scopes are the words of `parley.options.v1.method`; a test holds this table against every scope that a contract names.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from services.auth.model import Role
from services.mesh.errors import ScopeMissing

_VIEWER: Final = frozenset(
    {"profile:read", "profile:write", "conversations:read", "knowledge:read", "models:read", "keys:read"}
)
_MEMBER: Final = _VIEWER | {
    "conversations:write",
    "turns:write",
    "feedback:write",
    "knowledge:write",
    "inference:generate",
    "keys:write",
    "usage:read",
    "prompts:read",
}
_ADMIN: Final = _MEMBER | {
    "users:read",
    "users:write",
    "providers:read",
    "budgets:read",
    "budgets:write",
    "prompts:write",
    "cache:write",
}
_OWNER: Final = _ADMIN | {"organization:write"}

ROLE_SCOPES: Final[Mapping[Role, frozenset[str]]] = MappingProxyType(
    {Role.VIEWER: _VIEWER, Role.MEMBER: _MEMBER, Role.ADMIN: _ADMIN, Role.OWNER: _OWNER}
)
"""Each role holds all that the one before it holds."""
ALL_SCOPES: Final = _OWNER

AUDIENCES: Final = ("auth", "conversation", "retrieval", "inference")
"""The services that internal tokens are minted for."""
AUDIENCES_MAX: Final = 8

WORKLOAD_SCOPES: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "conversation": frozenset({"knowledge:read", "inference:generate", "models:read", "prompts:read"}),
        "inference": frozenset({"knowledge:read"}),
    }
)
"""What a workload may do for a user who is not present (`on_behalf_of`); a workload that is not named here, nothing.

conversation runs turns after their user has left: it searches, generates and reads catalog and prompts for them.
inference asks retrieval for vectors of what they ask.
"""


def require_all(held: frozenset[str], wanted: frozenset[str]) -> None:
    """Nobody grants what they do not hold.

    Raises:
        ScopeMissing: a scope of `wanted` is not held; the first of them, in alphabetical order, is named.
    """
    missing = sorted(wanted - held)
    if missing:
        raise ScopeMissing(f"the credential lacks the scope {missing[0]!r}", metadata={"scope": missing[0]})
