"""gRPC in and out, a servicer per service of the contract."""

from services.auth.servicers.accounts import OrganizationServicer, UserServicer
from services.auth.servicers.api_keys import ApiKeyServicer
from services.auth.servicers.tokens import TokenServicer

__all__ = ["ApiKeyServicer", "OrganizationServicer", "TokenServicer", "UserServicer"]
