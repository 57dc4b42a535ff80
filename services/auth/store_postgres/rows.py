"""Rows of PostgreSQL as models, where several nouns need the same."""

from sqlalchemy import RowMapping

from services.auth.model import OrganizationId, Role, User, UserId


def user_of(row: RowMapping) -> User:
    """The user of a row of `users`."""
    return User(
        id=UserId(row["id"]),
        organization_id=OrganizationId(row["organization_id"]),
        email=row["email"],
        display_name=row["display_name"],
        role=Role(row["role"]),
        disabled=row["disabled"],
        created_at=row["created_at"],
    )
