"""What operators may set of inference."""

from typing import ClassVar, Final, Self

from pydantic import Field, SecretStr, model_validator

from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.settings import AuthTarget, ServerSettings, Target, ValkeySettings, service_config

# The everyday models of both vendors in November 2026, at the same price; `providers.toml` has the sources.
OPENAI_MODEL: Final = "gpt-6.2-sol"
ANTHROPIC_MODEL: Final = "claude-sonnet-5-5"


class Settings(ServerSettings, AuthTarget):
    """Settings of the inference service: its own are PARLEY_INFERENCE_*, keys have the vendors' own names."""

    model_config = service_config("inference")

    openai_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias="OPENAI_API_KEY", description="Switches OpenAI on."
    )
    openai_base_url: str = Field(
        default="",
        validation_alias="OPENAI_BASE_URL",
        description="Another server that speaks OpenAI's chat completions, such as http://127.0.0.1:11434/v1; "
        "it is switched on without a key.",
    )
    anthropic_api_key: SecretStr = Field(
        default=SecretStr(""), validation_alias="ANTHROPIC_API_KEY", description="Switches Anthropic on."
    )
    anthropic_base_url: str = Field(
        default="",
        validation_alias="ANTHROPIC_BASE_URL",
        description="Another server that speaks Anthropic's messages; needs a key as well.",
    )
    providers_file: str = Field(
        default="",
        description="Path of a providers.toml with providers, key pools and routes; read again when it changes.",
    )
    default_model: str = Field(
        default="",
        description="Model, alias or route that an empty name means; else that of the file; else the first of OpenAI, "
        "Anthropic and extractive that is on.",
    )
    openai_model: str = Field(
        default=OPENAI_MODEL, min_length=1, description="OpenAI's model where it is the default provider."
    )
    anthropic_model: str = Field(
        default=ANTHROPIC_MODEL, min_length=1, description="Anthropic's model where it is the default provider."
    )
    fallback_models: str = Field(
        default="", description="Models, with commas between, that are tried in order when a caller names none."
    )
    connect_s: float = Field(default=5.0, gt=0.0, le=60.0, description="Seconds until a provider's connection stands.")
    first_event_s: float = Field(
        default=120.0,
        gt=0.0,
        le=3_600.0,
        description="Seconds until the first word; models that reason before they write take a minute and more.",
    )
    stall_s: float = Field(default=30.0, gt=0.0, le=600.0, description="Seconds of silence that end a begun answer.")
    total_s: float = Field(
        default=600.0, gt=0.0, le=3_600.0, description="Seconds for a whole answer, all fallbacks included."
    )
    context_tokens_assumed: int = Field(
        default=32_768, ge=1_024, description="Window of a model that the catalog does not know, in tokens."
    )
    scripted: str = Field(
        default="",
        description="Scripts of the scripted provider, JSON or the path of a file; empty switches it off. For tests.",
    )
    reservation_slack_s: float = Field(
        default=30.0,
        ge=0.0,
        le=3_600.0,
        description="Seconds after the time limit of a call at which what it reserved counts as spent.",
    )
    ledger_days: int = Field(
        default=400,
        ge=32,
        le=36_500,
        description="Days for which the ledger keeps a line; the sums by day, from which usage is told, stay.",
    )
    batch_hours: float = Field(
        default=48.0, ge=1.0, le=240.0, description="Hours after which what has no answer of a batch fails."
    )
    batch_days: int = Field(
        default=30, ge=1, le=3_650, description="Days for which the results of a batch are kept after its end."
    )
    batch_answers: int = Field(
        default=8,
        ge=1,
        le=256,
        description="Answers of a batch that a process makes at once where no vendor's batch endpoint is used.",
    )
    batch_poll_s: float = Field(
        default=10.0, gt=0.0, le=300.0, description="Seconds between two looks at a young batch of a vendor."
    )


class EmbeddingSettings(Settings):
    """Where vectors come from, for whatever goes by meaning; optional."""

    model_config = service_config("inference")

    retrieval_target: Target | None = Field(
        default=None,
        validation_alias="PARLEY_RETRIEVAL_TARGET",
        description="Address of retrieval; without it nothing here goes by meaning.",
    )
    workload_secret: SecretStr | None = Field(
        default=None,
        min_length=16,
        validation_alias="PARLEY_WORKLOAD_SECRET",
        description="Secret of this process towards auth; needed with PARLEY_RETRIEVAL_TARGET.",
    )
    embed_s_max: float = Field(
        default=1.0, gt=0.0, le=60.0, description="Seconds for the vectors of a question; after that it goes without."
    )

    @model_validator(mode="after")
    def _retrieval_is_asked_with_a_secret(self) -> Self:
        if self.retrieval_target is not None and self.workload_secret is None:
            raise ValueError("PARLEY_RETRIEVAL_TARGET needs PARLEY_WORKLOAD_SECRET, with which auth knows this process")
        return self


class ServeSettings(EmbeddingSettings, ShardSettings, ValkeySettings):
    """Settings of `serve`."""

    model_config = service_config("inference")
    database_lanes: ClassVar[int] = 2  # the ledger's: calls that are to begin, and those that are over
