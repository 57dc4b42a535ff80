"""Settings of retrieval; `python -m services.retrieval config` shows them."""

from typing import Literal

from pydantic import Field

from services.mesh.postgres.shards.settings import ShardSettings
from services.mesh.settings import AuthTarget, ServerSettings, ValkeySettings, service_config

_MIB = 1024 * 1024


class Settings(ServerSettings, ShardSettings, ValkeySettings, AuthTarget):
    """One kind for both processes, `serve` and `worker`: they must agree on the encoder."""

    model_config = service_config("retrieval")

    encoder: Literal["onnx", "sentence-transformers"] = Field(
        default="onnx", description="Backend of the encoder; `sentence-transformers` needs that package."
    )
    encoder_model: str = Field(
        default="",
        description="Folder of a model, or its name on a hub for sentence-transformers; empty for the packaged MiniLM.",
    )
    encoder_threads: int = Field(
        default=0, ge=0, le=256, description="Cores that the encoder owns; 0 takes what the process may use, at most 4."
    )
    file_bytes_max: int = Field(default=25 * _MIB, ge=1, le=512 * _MIB, description="Largest file that is taken.")
    pages_max: int = Field(default=2_000, ge=1, le=100_000, description="Pages of a PDF at most.")
    characters_max: int = Field(
        default=5_000_000, ge=1, le=100_000_000, description="Characters of a document's text at most."
    )
    parse_cpu_s: int = Field(default=25, ge=1, le=600, description="Processor seconds that reading one file may cost.")
    parse_wall_s: float = Field(default=40.0, gt=0.0, le=900.0, description="Seconds that reading one file may take.")
    parse_memory_bytes: int = Field(
        default=1024 * _MIB, ge=256 * _MIB, description="Address space of the process that reads a file."
    )
    parse_parallel_max: int = Field(default=2, ge=1, le=64, description="Files that are read at once.")
    index_bytes_max: int = Field(
        default=2048 * _MIB, ge=_MIB, description="Memory of loaded indexes above which the least used are dropped."
    )
    index_threads: int = Field(default=2, ge=1, le=64, description="Searches and index builds that run at once.")
    index_poll_s: float = Field(
        default=0.5, gt=0.0, le=60.0, description="Seconds between looks for changes of loaded knowledge bases."
    )
    refresh_wait_s: float = Field(
        default=0.3, ge=0.0, le=10.0, description="Seconds that a search waits for changes that it did not ask for."
    )
    cached_questions_max: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Vectors of questions that the process remembers."
    )
    lease_s: float = Field(
        default=60.0,
        ge=1.0,
        le=3_600.0,
        description="Seconds without a sign of life after which a document is taken over.",
    )
    worker_poll_s: float = Field(
        default=0.25, gt=0.0, le=60.0, description="Seconds between looks for queued documents."
    )
    worker_retry_s: float = Field(
        default=5.0, ge=0.0, le=600.0, description="Pause before a document is tried again, times the attempt."
    )
