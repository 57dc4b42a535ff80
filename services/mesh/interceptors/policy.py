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
        policy = call.policy
        if not policy.is_public:
            principal = call.principal
            if principal is None:
                raise CredentialsInvalid
            if policy.callers and principal.caller not in policy.callers:
                raise CallerForbidden("this method is open to other workloads only")
            if not policy.scopes <= principal.scopes:
                missing = min(policy.scopes - principal.scopes)
                raise ScopeMissing(f"the credential lacks the scope {missing!r}", metadata={"scope": missing})
        await proceed(call)
