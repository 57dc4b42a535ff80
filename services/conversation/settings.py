"""Settings of conversation: `PARLEY_CONVERSATION_<FIELD>`, and the groups that it shares with other processes."""

from typing import ClassVar, Literal, Self

from pydantic import Field, SecretStr, model_validator

from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.settings import (
    AuthTarget,
    InferenceTarget,
    RetrievalTarget,
    ServerSettings,
    ValkeySettings,
    WorkloadSettings,
    service_config,
)


class QueueSettings(ValkeySettings):
    """Where turns wait for workers."""

    model_config = service_config("conversation")

    queue: Literal["valkey", "kafka"] = Field(
        default="valkey", validation_alias="PARLEY_QUEUE", description="Where turns wait: `valkey` or `kafka`."
    )
    kafka_bootstrap: str = Field(
        default="",
        validation_alias="PARLEY_KAFKA_BOOTSTRAP",
        description="Kafka's addresses, host:port with commas between; needed where PARLEY_QUEUE=kafka.",
    )
    kafka_options: dict[str, SecretStr] = Field(
        default_factory=dict,
        validation_alias="PARLEY_KAFKA_OPTIONS",
        description='Further settings of librdkafka as JSON, such as {"security.protocol": "SASL_SSL", …}.',
    )
    kafka_prefix: str = Field(
        default="parley.conversation",
        pattern=r"^[a-zA-Z0-9._-]{1,100}$",
        validation_alias="PARLEY_KAFKA_PREFIX",
        description="Begins the names of topics and groups, so that several installations can share a cluster.",
    )
    kafka_session_s: float = Field(
        default=10.0,
        ge=1.0,
        le=300.0,
        validation_alias="PARLEY_KAFKA_SESSION_S",
        description="Seconds of silence after which Kafka takes a worker for dead.",
    )
    queue_measure_every_s: float = Field(
        default=10.0, gt=0.0, le=600.0, description="Seconds between looks at the depth and age of queue and backlog."
    )

    @model_validator(mode="after")
    def _kafka_has_an_address(self) -> Self:
        if self.queue == "kafka" and not self.kafka_bootstrap:
            raise ValueError("PARLEY_QUEUE=kafka needs PARLEY_KAFKA_BOOTSTRAP, such as 127.0.0.1:9092")
        return self


class ApiSettings(
    ShardSettings, ServerSettings, QueueSettings, AuthTarget, RetrievalTarget, InferenceTarget, WorkloadSettings
):
    """The API, and what API and worker share."""

    model_config = service_config("conversation")
    database_lanes: ClassVar[int] = 1  # the intake's

    lease_s: float = Field(
        default=30.0,
        gt=0.0,
        le=600.0,
        description="Seconds after its last sign of life until a worker's turn is given to another one.",
    )
    turn_s_max: float = Field(
        default=600.0, gt=0.0, le=86_400.0, description="Seconds after which a turn that has not ended fails."
    )
    attempts_max: int = Field(
        default=5, ge=1, le=100, description="Workers that may try a turn before it fails with the text so far."
    )
    relay_every_s: float = Field(
        default=1.0, gt=0.0, le=60.0, description="Seconds between looks into the outbox when nothing hints at it."
    )
    reap_every_s: float = Field(
        default=2.0, gt=0.0, le=60.0, description="Seconds between searches for turns whose worker is gone."
    )
    republish_after_s: float = Field(
        default=5.0, gt=0.0, le=600.0, description="Seconds after which a turn that still waits is published again."
    )
    journal_keep_s: int = Field(
        default=600, ge=1, le=86_400, description="Seconds for which the events of an ended turn are kept."
    )
    request_keep_s: float = Field(
        default=7 * 86_400.0, ge=60.0, description="Seconds for which a request id is remembered."
    )
    poll_s: float = Field(
        default=1.0,
        gt=0.0,
        le=60.0,
        description="Seconds without an event after which a watched turn is looked up in PostgreSQL.",
    )


class WorkerSettings(ApiSettings):
    """The worker."""

    model_config = service_config("conversation")
    database_lanes: ClassVar[int] = 2  # turns that are to begin, and those that are over

    concurrency: int = Field(default=64, ge=1, le=10_000, description="Turns that one worker answers at once.")
    heartbeat_s: float = Field(default=10.0, gt=0.0, le=300.0, description="Seconds between renewals of a lease.")
    fold_every_s: float = Field(
        default=1.0, gt=0.0, le=1.0, description="Seconds between writes of a growing answer to PostgreSQL."
    )
    cancel_poll_s: float = Field(
        default=0.5, gt=0.0, le=1.0, description="Seconds between looks for turns that shall stop."
    )
    backoff_s: float = Field(
        default=1.0,
        gt=0.0,
        le=60.0,
        description="Seconds, at most, before the second attempt at an answer that broke off; three times as many "
        "before each further one, ten at most.",
    )
    redeliver_after_s: float = Field(
        default=10.0, gt=0.0, le=600.0, description="Seconds after which the queue gives an unclaimed turn to another."
    )
    hand_back_after_s: float = Field(
        default=10.0,
        ge=0.0,
        le=600.0,
        description="Seconds after SIGTERM, half the drain at most, until turns under way are handed back.",
    )
    history_messages_max: int = Field(
        default=100, ge=0, le=998, description="Messages before the question that a prompt holds at most."
    )
    history_keep_s: int = Field(default=3_600, ge=1, le=86_400, description="Seconds for which a history is cached.")
    prompt_tokens_max: int = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="Tokens that a model is given to read for an answer at most; as many as its window holds when 0.",
    )
    summary_model: str = Field(
        default="",
        max_length=200,
        description="Model or route that summarises the oldest part of long conversations; none are made when empty.",
    )
    summary_above_tokens: int = Field(
        default=6_000,
        ge=100,
        le=1_000_000,
        description="Tokens of history without a summary, estimated, above which the oldest part is summarised.",
    )
    summary_keep_tokens: int = Field(
        default=2_000,
        ge=0,
        le=1_000_000,
        description="Tokens of the newest history that are shown as they are, whatever is summarised.",
    )
    summary_tokens_max: int = Field(
        default=1_000, ge=50, le=8_000, description="Tokens of a summary at most, reasoning of its model included."
    )
    summary_input_tokens_max: int = Field(
        default=16_000,
        ge=1_000,
        le=1_000_000,
        description="Tokens of history that one summary is made of at most; it has to fit the window of its model.",
    )
    summary_s_max: float = Field(default=60.0, gt=0.0, le=600.0, description="Seconds for one summary.")
    passages_max: int = Field(default=8, ge=1, le=50, description="Passages that a prompt holds at most.")
    search_s_max: float = Field(default=5.0, gt=0.0, le=60.0, description="Seconds for one search.")
    silence_s_max: float = Field(
        default=150.0, gt=0.0, le=3_600.0, description="Seconds without a word from inference until it is given up."
    )

    @property
    def makes_summaries(self) -> bool:
        """Whether the oldest part of long conversations is summarised."""
        return bool(self.summary_model) and self.history_messages_max > 0

    @model_validator(mode="after")
    def _summaries_shorten(self) -> Self:
        if self.summary_keep_tokens >= self.summary_above_tokens:
            raise ValueError("summary_keep_tokens must be less than summary_above_tokens, or nothing is summarised")
        return self
