"""Which queue is chosen, by names that are promised to operators."""

import json

import pytest

from services.conversation.settings import QueueSettings
from services.mesh.effective import effective
from services.mesh.settings import SettingsError, load


@pytest.fixture(autouse=True)
def valkey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_VALKEY_URL", "redis://127.0.0.1:6379")


def test_turns_wait_on_valkey_by_default() -> None:
    assert load(QueueSettings).queue == "valkey"


def test_kafka_is_chosen_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_QUEUE", "kafka")
    monkeypatch.setenv("PARLEY_KAFKA_BOOTSTRAP", "broker:9092,other:9092")
    monkeypatch.setenv("PARLEY_KAFKA_OPTIONS", json.dumps({"sasl.password": "hush"}))

    config = load(QueueSettings)

    assert (config.queue, config.kafka_bootstrap) == ("kafka", "broker:9092,other:9092")
    assert config.kafka_options["sasl.password"].get_secret_value() == "hush"
    assert "hush" not in str(effective(config))


def test_kafka_without_an_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_QUEUE", "kafka")

    with pytest.raises(SettingsError, match="PARLEY_KAFKA_BOOTSTRAP"):
        load(QueueSettings)


def test_another_queue_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_QUEUE", "rabbits")

    with pytest.raises(SettingsError, match="PARLEY_QUEUE"):
        load(QueueSettings)
