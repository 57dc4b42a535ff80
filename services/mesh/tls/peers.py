"""Whom the certificate of a caller names."""

from collections.abc import Mapping
from typing import Final

from services.mesh.errors import CallerForbidden
from services.mesh.identity import Principal
from services.mesh.rpc import RpcContext

SPIFFE_KEY: Final = "peer_spiffe_id"
"""What gRPC calls the one URI of a certificate. With two URIs it is absent, while `peer_identities()` lists both."""


class _UnfitError(Exception):
    """Why a certificate was refused; for the log, never for the caller."""


class Peers:
    """Who may connect at all.

    Args:
        names: of workloads, by SPIFFE id.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = dict(names)

    def name_of(self, context: RpcContext) -> str:
        """The workload at the other end.

        Raises:
            CallerForbidden: its certificate names nobody that the settings know.
        """
        named = list(context.auth_context().get(SPIFFE_KEY, ()))
        if len(named) != 1:
            raise _forbidden("the certificate has not one SPIFFE id")
        spiffe_id = named[0].decode("utf-8", "replace")
        name = self._names.get(spiffe_id)
        if name is None:
            raise _forbidden(f"no peer is {spiffe_id!r}")
        return name


def require_same(name: str, principal: Principal) -> None:
    """A token that was given to a workload is good on the connections of that workload alone.

    One that says that its subject calls by itself may come over any: it allows what the subject may, and nothing that
    is open to workloads only.

    Raises:
        CallerForbidden: the token was given to another workload.
    """
    if principal.caller is not None and principal.caller != name:
        raise _forbidden(f"a token of {principal.caller!r} came from {name!r}")


def _forbidden(reason: str) -> CallerForbidden:
    error = CallerForbidden("the certificate of the connection does not allow this call")
    error.__cause__ = _UnfitError(reason)
    return error
