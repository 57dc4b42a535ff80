"""Names of settings are promised to operators."""

import pytest

from services.conversation.settings import ApiSettings, StorageSettings, WorkerSettings
from services.mesh.settings import MeshSettings, variable_of


@pytest.mark.parametrize(
    ("kind", "field", "variable"),
    [
        (StorageSettings, "database_url", "PARLEY_DATABASE_URL"),
        (ApiSettings, "lease_s", "PARLEY_CONVERSATION_LEASE_S"),
        (ApiSettings, "grpc_listen", "PARLEY_GRPC_LISTEN"),
        (WorkerSettings, "lease_s", "PARLEY_CONVERSATION_LEASE_S"),
        (WorkerSettings, "concurrency", "PARLEY_CONVERSATION_CONCURRENCY"),
        (WorkerSettings, "workload_secret", "PARLEY_WORKLOAD_SECRET"),
    ],
)
def test_a_setting_has_its_name(kind: type[MeshSettings], field: str, variable: str) -> None:
    assert variable_of(kind, field) == variable
