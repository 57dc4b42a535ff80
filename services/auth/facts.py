"""What the cache holds, as text: a JSON list of the fields of a dataclass, in their order.

Whoever changes a list raises `VERSION`, so that replicas of two versions do not read each other's texts.
"""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.auth.model import Organization, OrganizationId, Role, User, UserId

VERSION: Final = 1
"""Part of every name in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialFacts:
    """A good credential.

    Attributes:
        id: of the API key or session.
        scopes: what it was given; what it may do is less when its user may less.
        expires_at: its own end, None for never.
    """

    id: str
    organization_id: OrganizationId
    user_id: UserId
    scopes: frozenset[str]
    expires_at: datetime | None

    def is_live(self, now: datetime) -> bool:
        """Whether it is still good at `now`; the cache knows nothing of its end."""
        return self.expires_at is None or now < self.expires_at


def text_of_credential(credential: CredentialFacts) -> str:
    """For the cache."""
    return json.dumps(
        [
            credential.id,
            credential.organization_id,
            credential.user_id,
            sorted(credential.scopes),
            None if credential.expires_at is None else credential.expires_at.isoformat(),
        ]
    )


def credential_of(text: str) -> CredentialFacts:
    """From the cache."""
    credential_id, organization_id, user_id, scopes, expires_at = json.loads(text)
    return CredentialFacts(
        id=credential_id,
        organization_id=OrganizationId(organization_id),
        user_id=UserId(user_id),
        scopes=frozenset(scopes),
        expires_at=None if expires_at is None else datetime.fromisoformat(expires_at),
    )


def text_of_user(user: User) -> str:
    """For the cache."""
    return json.dumps(
        [
            user.id,
            user.organization_id,
            user.email,
            user.display_name,
            user.role,
            user.disabled,
            user.created_at.isoformat(),
        ]
    )


def user_of(text: str) -> User:
    """From the cache."""
    user_id, organization_id, email, display_name, role, disabled, created_at = json.loads(text)
    return User(
        id=UserId(user_id),
        organization_id=OrganizationId(organization_id),
        email=email,
        display_name=display_name,
        role=Role(role),
        disabled=disabled,
        created_at=datetime.fromisoformat(created_at),
    )


def text_of_organization(organization: Organization) -> str:
    """For the cache."""
    return json.dumps([organization.id, organization.display_name, organization.created_at.isoformat()])


def organization_of(text: str) -> Organization:
    """From the cache."""
    organization_id, display_name, created_at = json.loads(text)
    return Organization(
        id=OrganizationId(organization_id),
        display_name=display_name,
        created_at=datetime.fromisoformat(created_at),
    )
