"""Names of settings are promised to operators."""

import pytest

from services.conversation.settings import ApiSettings, WorkerSettings
from services.mesh.settings import MeshSettings, variable_of


@pytest.mark.parametrize(
    ("kind", "field", "variable"),
    [
        (ApiSettings, "database_url", "PARLEY_DATABASE_URL"),
        (ApiSettings, "lease_s", "PARLEY_CONVERSATION_LEASE_S"),
        (ApiSettings, "grpc_listen", "PARLEY_GRPC_LISTEN"),
        (WorkerSettings, "lease_s", "PARLEY_CONVERSATION_LEASE_S"),
        (WorkerSettings, "concurrency", "PARLEY_CONVERSATION_CONCURRENCY"),
        (WorkerSettings, "workload_secret", "PARLEY_WORKLOAD_SECRET"),
    ],
)
def test_a_setting_has_its_name(kind: type[MeshSettings], field: str, variable: str) -> None:
    assert variable_of(kind, field) == variable


def worker(**changes: object) -> WorkerSettings:
    given = {
        "database_url": "postgresql://x",
        "valkey_url": "redis://x",
        "auth_target": "127.0.0.1:1",
        "retrieval_target": "127.0.0.1:1",
        "inference_target": "127.0.0.1:1",
        "workload_secret": "a-secret-of-sixteen",
    }
    return WorkerSettings(**given | changes)  # type: ignore[arg-type] # pydantic reads texts


@pytest.mark.parametrize(
    ("changes", "makes_summaries"),
    [
        ({}, False),
        ({"summary_model": "cheap/one"}, True),
        ({"summary_model": "cheap/one", "history_messages_max": 0}, False),
    ],
)
def test_summaries_are_made_where_a_model_is_named_and_prompts_have_a_history(
    changes: dict[str, object], *, makes_summaries: bool
) -> None:
    assert worker(**changes).makes_summaries is makes_summaries


def test_what_is_kept_of_a_history_is_less_than_what_may_be_summarised() -> None:
    assert worker(summary_above_tokens=500, summary_keep_tokens=499).summary_keep_tokens == 499
    with pytest.raises(ValueError, match="summary_keep_tokens"):
        worker(summary_above_tokens=500, summary_keep_tokens=500)
