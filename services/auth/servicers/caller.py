"""Who makes the running call."""

from services.auth.model import Caller, OrganizationId, UserId
from services.mesh import context, rpc


def caller() -> Caller:
    """The verified principal of the running call, in the model's words."""
    principal = rpc.principal()
    return Caller(
        organization_id=OrganizationId(principal.organization_id),
        user_id=UserId(principal.subject_id),
        scopes=principal.scopes,
        credential_id=principal.credential_id,
        request_id=context.request_id(),
    )
