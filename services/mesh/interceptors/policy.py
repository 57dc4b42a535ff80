"""Whether the caller may: scopes and callers of the method's policy. Rows are checked by the use case."""

from services.mesh.errors import CallerForbidden, CredentialsInvalid, ScopeMissing
from services.mesh.rpc import Call, Proceed


class PolicyStage:
    """See the module."""

    async def run(self, call: Call, proceed: Proceed) -> None:
        """Refuses what the policy does not allow.

        Raises:
            CallerForbidden: the method is open to other workloads only.
            ScopeMissing: the token lacks a scope, named in the metadata.
        """
        if not call.policy.is_public:
            principal = call.principal
            if principal is None:
                raise CredentialsInvalid
            if call.policy.callers and principal.caller not in call.policy.callers:
                raise CallerForbidden("this method is open to other workloads only")
            missing = sorted(call.policy.scopes - principal.scopes)
            if missing:
                raise ScopeMissing(f"the credential lacks the scope {missing[0]!r}", metadata={"scope": missing[0]})
        await proceed(call)
