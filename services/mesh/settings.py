"""Settings from the environment: groups that a deployable combines by inheritance, checked once at start.

    class Settings(ServerSettings, DatabaseSettings):
        model_config = service_config("auth")          # own fields are PARLEY_AUTH_<FIELD>
        access_token_ttl_s: int = Field(default=300, ge=60, le=900)

Fields of the groups are `PARLEY_<FIELD>` everywhere. Each variable may be given as `<NAME>_FILE`, a path whose content
is the value, so that secrets can be mounted.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeVar, get_origin

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from services.mesh.valkey_address import ValkeyUrl

PREFIX: Final = "PARLEY_"
FILE_SUFFIX: Final = "_FILE"
FILE_BYTES_MAX: Final = 64 * 1024
MASK: Final = "********"
_PORT_MAX: Final = 65_535
_WORKLOAD: Final = re.compile(r"[a-z][a-z0-9-]{0,62}", re.ASCII)

S = TypeVar("S", bound="MeshSettings")


class SettingsError(Exception):
    """The environment does not fit; the message names each variable and says what would be right."""


def _address(text: object) -> object:
    if not isinstance(text, str):
        return text
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > _PORT_MAX:
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:50051")
    return text


def _targets(text: object) -> object:
    if isinstance(text, str):
        for part in text.split(","):
            _address(part.strip())
    return text


Address = Annotated[str, BeforeValidator(_address)]
"""`host:port`; port 0 asks the system for a free one."""
OptionalAddress = Annotated[str, BeforeValidator(lambda text: text and _address(text))]
"""As above, or empty."""
Target = Annotated[str, BeforeValidator(_targets)]
"""`host:port`, or several of them with commas between."""


class MeshSettings(BaseSettings):
    """What every process has: its logs and its second port."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", validate_default=True, populate_by_name=True, enable_decoding=False
    )

    debug_listen: Address = Field(
        default="127.0.0.1:0",
        validation_alias="PARLEY_DEBUG_LISTEN",
        description="Address of /healthz, /readyz, /metrics and /debug/config.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", validation_alias="PARLEY_LOG_LEVEL", description="Least severe level that is written."
    )
    log_format: Literal["json", "text"] = Field(
        default="json", validation_alias="PARLEY_LOG_FORMAT", description="`json` for machines, `text` for people."
    )
    drain_s: float = Field(
        default=20.0,
        ge=0.0,
        le=600.0,
        validation_alias="PARLEY_DRAIN_S",
        description="Seconds that running calls and jobs get to end after SIGTERM.",
    )
    otlp_endpoint: str = Field(
        default="", validation_alias="PARLEY_OTLP_ENDPOINT", description="OTLP/HTTP collector of spans; empty for none."
    )
    mesh_tls_folder: str = Field(
        default="",
        validation_alias="PARLEY_MESH_TLS_FOLDER",
        description=(
            "Folder with tls.crt, tls.key and ca.crt, by which this process and its peers know each other; empty for "
            "gRPC in the clear."
        ),
    )
    mesh_tls_bundle: str = Field(
        default="",
        validation_alias="PARLEY_MESH_TLS_BUNDLE",
        description="File with the CA certificates that peers must come from, in place of the folder's ca.crt.",
    )
    mesh_tls_look_every_s: float = Field(
        default=10.0,
        ge=0.1,
        le=3_600.0,
        validation_alias="PARLEY_MESH_TLS_LOOK_EVERY_S",
        description="Seconds between two looks at the certificate files, which are followed while they are renewed.",
    )

    mesh_transport: Literal["tunnel", "grpc"] = Field(
        default="tunnel",
        validation_alias="PARLEY_MESH_TRANSPORT",
        description=(
            "How calls to other processes travel: many of them on one stream (`tunnel`), or each by itself (`grpc`). "
            "Both are always served."
        ),
    )

    @field_validator("*", mode="before")
    @classmethod
    def _decode(cls, value: object, info: ValidationInfo) -> object:
        # Here, and not in pydantic's sources, so that a file is read as the environment is and both errors have a name.
        is_mapping = get_origin(cls.model_fields[info.field_name or ""].annotation) is dict
        if not is_mapping or not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("is not a JSON object") from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments before environment before `*_FILE`; no dotenv file is ever read behind the operator's back."""
        del dotenv_settings, file_secret_settings
        return init_settings, env_settings, _FileSource(settings_cls)


class ServerSettings(MeshSettings):
    """A process with a gRPC API."""

    grpc_listen: Address = Field(
        default="127.0.0.1:0", validation_alias="PARLEY_GRPC_LISTEN", description="Address of the gRPC API."
    )
    reflection: bool = Field(
        default=False, validation_alias="PARLEY_REFLECTION", description="Whether gRPC reflection is served."
    )
    calls_max: int = Field(
        default=2_000,
        ge=1,
        le=1_000_000,
        validation_alias="PARLEY_CALLS_MAX",
        description="Calls in flight, streams included, above which new ones are refused with OVERLOADED.",
    )
    not_serving_pause_s: float = Field(
        default=1.0,
        ge=0.0,
        le=60.0,
        validation_alias="PARLEY_NOT_SERVING_PAUSE_S",
        description=(
            "Seconds that clients get at the end to find replicas that were just started, and the same again to leave."
        ),
    )
    mesh_tls_peers: dict[str, str] = Field(
        default={},
        validation_alias="PARLEY_MESH_TLS_PEERS",
        description="Who may call where TLS is on: JSON of the SPIFFE id in a certificate to the workload that it is.",
    )
    health_listen: OptionalAddress = Field(
        default="",
        validation_alias="PARLEY_HEALTH_LISTEN",
        description="Address of a second gRPC port that answers health checks alone, in the clear; empty for none.",
    )

    @field_validator("mesh_tls_peers")
    @classmethod
    def _check_peers(cls, peers: dict[str, str]) -> dict[str, str]:
        for spiffe_id, workload in peers.items():
            if not spiffe_id.startswith("spiffe://"):
                raise ValueError(f"{spiffe_id!r} is not spiffe://<trust domain>/<path>")
            if _WORKLOAD.fullmatch(workload) is None:
                raise ValueError(f"{workload!r} is no name of a workload: a-z, 0-9 and - only")
        return peers


class DatabaseSettings(MeshSettings):
    """A process that uses PostgreSQL.

    Attributes:
        database_lanes: connections that it keeps beside the pool, one for each `lane` of its stores.
    """

    database_lanes: ClassVar[int] = 0

    database_url: SecretStr = Field(
        validation_alias="PARLEY_DATABASE_URL", description="postgresql://user:password@host:port/database."
    )
    database_pool_size: int = Field(
        default=10,
        ge=1,
        le=200,
        validation_alias="PARLEY_DATABASE_POOL_SIZE",
        description=(
            "Connections of the pool at most; inference opens two more, which its ledger keeps, and the API of "
            "conversation one, by which questions are accepted, and its worker two, by which turns begin and end. The "
            "`config` command tells how many that makes."
        ),
    )
    database_statement_timeout_s: float = Field(
        default=10.0,
        gt=0.0,
        le=600.0,
        validation_alias="PARLEY_DATABASE_STATEMENT_TIMEOUT_S",
        description="Seconds after which PostgreSQL ends a statement.",
    )

    def database_connections(self) -> dict[str, int]:
        """The most connections that the process opens, by instance."""
        return {"main": self.database_pool_size + self.database_lanes}


class ValkeySettings(MeshSettings):
    """A process that uses Valkey or Redis."""

    valkey_url: ValkeyUrl = Field(
        validation_alias="PARLEY_VALKEY_URL",
        description="redis://[user:password@]host:port[/database], valkey+cluster://… or valkey+sentinel://…/name.",
    )
    valkey_connections_max: int = Field(
        default=64,
        ge=2,
        le=10_000,
        validation_alias="PARLEY_VALKEY_CONNECTIONS_MAX",
        description="Connections at most for commands that wait; all others share one.",
    )
    valkey_timeout_s: float = Field(
        default=2.0,
        gt=0.0,
        le=60.0,
        validation_alias="PARLEY_VALKEY_TIMEOUT_S",
        description="Seconds for one command.",
    )


class AuthTarget(MeshSettings):
    """A process that calls auth, be it only for the keys of internal tokens."""

    auth_target: Target = Field(validation_alias="PARLEY_AUTH_TARGET", description="Address of auth.")


class ConversationTarget(MeshSettings):
    """A process that calls conversation."""

    conversation_target: Target = Field(
        validation_alias="PARLEY_CONVERSATION_TARGET", description="Address of conversation."
    )


class RetrievalTarget(MeshSettings):
    """A process that calls retrieval."""

    retrieval_target: Target = Field(validation_alias="PARLEY_RETRIEVAL_TARGET", description="Address of retrieval.")


class InferenceTarget(MeshSettings):
    """A process that calls inference."""

    inference_target: Target = Field(validation_alias="PARLEY_INFERENCE_TARGET", description="Address of inference.")


class WorkloadSettings(MeshSettings):
    """A process that asks auth for internal tokens in its own name."""

    workload_secret: SecretStr = Field(
        min_length=16,
        validation_alias="PARLEY_WORKLOAD_SECRET",
        description="Secret of this process towards auth.",
    )


def service_config(service: str) -> SettingsConfigDict:
    """`model_config` of a deployable's own settings: its own fields are `PARLEY_<SERVICE>_<FIELD>`."""
    return SettingsConfigDict(env_prefix=f"{PREFIX}{service.upper()}_")


def load(kind: type[S]) -> S:
    """The settings that the environment holds.

    Raises:
        SettingsError: one or more variables are missing or malformed; all of them are named, values are not shown.
    """
    try:
        return kind()
    except ValidationError as error:
        problems = [f"  {_variable_of_error(kind, item['loc'])}: {_explain(item)}" for item in error.errors()]
        raise SettingsError("these settings do not fit:\n" + "\n".join(problems)) from None


def variable_of(kind: type[BaseSettings], field_name: str) -> str:
    """The environment variable of a field."""
    alias = kind.model_fields[field_name].validation_alias
    return alias if isinstance(alias, str) else f"{kind.model_config.get('env_prefix', '')}{field_name}".upper()


class _FileSource(PydanticBaseSettingsSource):
    """Reads `<VARIABLE>_FILE` for every field."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """See the base class; Any is its own signature."""
        variable = variable_of(self.settings_cls, field_name)
        path = os.environ.get(variable + FILE_SUFFIX)
        return (None if path is None else _read(variable, path)), variable, False

    def __call__(self) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, field in self.settings_cls.model_fields.items():
            value, variable, _ = self.get_field_value(field, name)
            if value is not None:
                values[variable if isinstance(field.validation_alias, str) else name] = value
        return values


def _read(variable: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise SettingsError(f"{variable}{FILE_SUFFIX}: {path!r} is larger than {FILE_BYTES_MAX} bytes")
        return content.decode("utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}{FILE_SUFFIX}: cannot read {path!r}: {error}") from None


def _variable_of_error(kind: type[MeshSettings], location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else ""
    return variable_of(kind, name) if name in kind.model_fields else name or "settings"


def _explain(item: Mapping[str, Any]) -> str:  # Any: pydantic's own error dictionary
    if item["type"] == "missing":
        return "is not set"
    message = str(item["msg"])
    return message.removeprefix("Value error, ")
