"""Who calls: by the certificate of the connection, where there is one, and by the internal token of the call."""

from typing import Final

from services.mesh.errors import CredentialsInvalid
from services.mesh.identity import TokenVerifier
from services.mesh.rpc import Call, Proceed
from services.mesh.tls.peers import Peers, require_same

AUTHORIZATION_KEY: Final = "authorization"
_SCHEME: Final = "bearer "


class IdentityStage:
    """See the module. There are no trusted headers: without a verifier, nobody is anybody.

    Args:
        verifier: of tokens.
        peers: who may connect, where connections have certificates.
    """

    def __init__(self, verifier: TokenVerifier | None, peers: Peers | None = None) -> None:
        self._verifier = verifier
        self._peers = peers

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Sets the call's peer and principal. Health is for everybody whose certificate the handshake took.

        Raises:
            CallerForbidden: the certificate names nobody, or another workload than the token.
            CredentialsInvalid: no token, more than one, or a bad one.
        """
        if self._peers is not None and not call.is_infrastructure:
            call.peer = self._peers.name_of(call.context)
        if not call.policy.is_public:
            sent = call.values(AUTHORIZATION_KEY)
            if self._verifier is None or len(sent) != 1 or not sent[0].lower().startswith(_SCHEME):
                raise CredentialsInvalid
            principal = await self._verifier.verify(sent[0][len(_SCHEME) :])
            if call.peer is not None:
                require_same(call.peer, principal)
            call.principal = principal
        await proceed(call)
