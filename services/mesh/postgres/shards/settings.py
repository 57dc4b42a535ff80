"""Settings of processes whose data is by organization: further instances, and replicas of each."""

from typing import Annotated, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from services.mesh.postgres.shards.numbers import MAIN, check_names
from services.mesh.settings import DatabaseSettings

InstanceName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]


class ShardSettings(DatabaseSettings):
    """A process whose data is by organization, so that it can be spread over several PostgreSQL instances."""

    database_shards: dict[InstanceName, SecretStr] = Field(
        default_factory=dict,
        validation_alias="PARLEY_DATABASE_SHARDS",
        max_length=15,
        description=(
            'Further PostgreSQL instances as JSON, such as {"b": "postgresql://…"}; that of PARLEY_DATABASE_URL is '
            "`main`. Each process opens its connections on every one."
        ),
    )

    database_replicas: dict[InstanceName, Annotated[list[SecretStr], Field(max_length=8)]] = Field(
        default_factory=dict,
        validation_alias="PARLEY_DATABASE_REPLICAS",
        description=(
            'Read replicas by the instance that they are of, as JSON such as {"main": ["postgresql://…"]}. Each '
            "process opens its connections on every one; callers that send parley-position are answered by them."
        ),
    )
    database_replica_lag_s_max: float = Field(
        default=5.0,
        gt=0.0,
        le=600.0,
        validation_alias="PARLEY_DATABASE_REPLICA_LAG_S_MAX",
        description="Seconds by which a replica may be behind until it is left out.",
    )

    @field_validator("database_shards")
    @classmethod
    def _check_names(cls, shards: dict[str, SecretStr]) -> dict[str, SecretStr]:
        if MAIN in shards:
            raise ValueError(f"{MAIN!r} is the instance of PARLEY_DATABASE_URL")
        check_names([MAIN, *shards])
        return shards

    @model_validator(mode="after")
    def _replicas_are_of_instances(self) -> Self:
        unknown = self.database_replicas.keys() - {MAIN, *self.database_shards}
        if unknown:
            raise ValueError(f"PARLEY_DATABASE_REPLICAS: there is no instance {', '.join(sorted(unknown))}")
        return self

    def database_connections(self) -> dict[str, int]:
        """See `DatabaseSettings`; those on a replica are as many as its pool has."""
        names = (MAIN, *self.database_shards)
        # Where there are several, one more asks each of them which shards it has.
        of_instance = self.database_pool_size + self.database_lanes + (1 if len(names) > 1 else 0)
        of_replicas = {
            f"{name}-{number}": self.database_pool_size
            for name, urls in self.database_replicas.items()
            for number, _ in enumerate(urls)
        }
        return dict.fromkeys(names, of_instance) | of_replicas

    def instances(self) -> dict[str, str]:
        """URLs by name, `main` first."""
        named = {name: url.get_secret_value() for name, url in self.database_shards.items()}
        return {MAIN: self.database_url.get_secret_value(), **named}
