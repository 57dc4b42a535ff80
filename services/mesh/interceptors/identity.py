"""Who calls: verifies the internal token of every call that is not public."""

from typing import Final

from services.mesh.errors import CredentialsInvalid
from services.mesh.identity import TokenVerifier
from services.mesh.rpc import Call, Proceed

AUTHORIZATION_KEY: Final = "authorization"
_SCHEME: Final = "bearer "


class IdentityStage:
    """See the module. There are no trusted headers: without a verifier, nobody is anybody."""

    def __init__(self, verifier: TokenVerifier | None) -> None:
        self._verifier = verifier

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Sets the call's principal.

        Raises:
            CredentialsInvalid: no token, more than one, or a bad one.
        """
        if not call.policy.is_public:
            sent = call.values(AUTHORIZATION_KEY)
            if self._verifier is None or len(sent) != 1 or not sent[0].lower().startswith(_SCHEME):
                raise CredentialsInvalid
            call.principal = await self._verifier.verify(sent[0][len(_SCHEME) :])
        await proceed(call)
