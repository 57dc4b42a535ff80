"""What an operator decides about auth."""

import os
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from services.auth.passwords import Cost
from services.auth.sealing import SECRET_LENGTH_MIN
from services.auth.signing import PUBLISH_AHEAD_S_MIN
from services.auth.workloads import Workloads
from services.mesh.settings import DatabaseSettings, ServerSettings, ValkeySettings, service_config

_DAY_S = 86_400.0


class Settings(ServerSettings, DatabaseSettings, ValkeySettings):
    """Of `serve`."""

    model_config = service_config("auth")

    key_encryption_secret: SecretStr = Field(
        min_length=SECRET_LENGTH_MIN,
        description="Encrypts the signing keys in the database; the same on every replica, and kept for ever.",
    )
    workloads: dict[str, str | list[str]] = Field(
        default={},
        description="The platform's own processes: JSON of workload name to the SHA-256 (hex) of its secret, or to a "
        "list of two while it is exchanged.",
    )
    registration: Literal["open", "closed"] = Field(
        default="closed", description="`open` lets anybody create an organization of their own."
    )
    password_memory_kib: int = Field(
        default=Cost().memory_kib, ge=Cost().memory_kib, le=1024 * 1024, description="Memory of one Argon2id hash."
    )
    password_passes: int = Field(default=Cost().passes, ge=Cost().passes, le=16, description="Passes of Argon2id.")
    password_threads: int = Field(
        default=os.cpu_count() or 1,
        ge=1,
        le=64,
        description="Passwords that are hashed at once; more than cores is no gain.",
    )
    login_account_burst: int = Field(
        default=10, ge=1, le=1_000, description="Wrong passwords in a row that an account forgives."
    )
    login_account_interval_s: float = Field(
        default=30.0, ge=0.001, le=3_600.0, description="Seconds after which one more try on an account is free."
    )
    login_everyone_burst: int = Field(
        default=200, ge=1, le=100_000, description="Logins at once, all accounts together."
    )
    login_everyone_interval_s: float = Field(
        default=0.05,
        ge=0.001,
        le=60.0,
        description="Seconds after which one more login is free, all accounts together.",
    )
    signing_key_period_s: float = Field(
        default=90 * _DAY_S, le=400 * _DAY_S, description="How long a key signs before the next one takes over."
    )
    signing_key_publish_ahead_s: float = Field(
        default=_DAY_S,
        ge=PUBLISH_AHEAD_S_MIN,
        le=30 * _DAY_S,
        description="How long before its first use a key is published.",
    )

    @field_validator("workloads")
    @classmethod
    def _check_workloads(cls, workloads: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        Workloads(workloads)
        return workloads

    @model_validator(mode="after")
    def _check_rotation(self) -> "Settings":
        if self.signing_key_period_s < 2 * self.signing_key_publish_ahead_s:
            raise ValueError("signing_key_period_s must be at least twice signing_key_publish_ahead_s")
        return self
