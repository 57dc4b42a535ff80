"""The anthropic SDK, unmodified, before a running stack."""

from collections.abc import Iterator

import anthropic
import pytest
from anthropic.types import MessageParam

from tests.support.stack import Stack


@pytest.fixture
def client(stack: Stack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=f"{stack.url}/anthropic", api_key=stack.api_key, max_retries=0) as sdk:
        yield sdk


def test_a_scripted_model_answers_whole_and_streamed_alike(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(
        model="scripted/quick", max_tokens=50, messages=[{"role": "user", "content": "Say hello."}]
    )
    with client.messages.stream(
        model="scripted/quick", max_tokens=50, messages=[{"role": "user", "content": "Say hello."}]
    ) as stream:
        streamed = stream.get_final_message()

    assert [block.text for block in whole.content if block.type == "text"] == ["Hello world."]
    assert [block.text for block in streamed.content if block.type == "text"] == ["Hello world."]
    assert whole.usage.model_dump() == streamed.usage.model_dump()
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (5, 2)
    assert whole.stop_reason == streamed.stop_reason == "end_turn"


def test_models_are_listed_and_tokens_counted(client: anthropic.Anthropic) -> None:
    listed = [model.id for model in client.models.list()]
    short = client.messages.count_tokens(model="scripted/quick", messages=[{"role": "user", "content": "Hello."}])
    long = client.messages.count_tokens(model="scripted/quick", messages=[{"role": "user", "content": "Hello." * 99}])

    assert client.models.retrieve(listed[0]).id == listed[0]
    assert 0 < short.input_tokens < long.input_tokens


def test_a_wrong_key_and_an_unknown_model_have_the_vendors_classes(client: anthropic.Anthropic) -> None:
    asked: list[MessageParam] = [{"role": "user", "content": "Hello."}]
    stranger = client.with_options(api_key="pk_wrong")
    with pytest.raises(anthropic.AuthenticationError):
        stranger.messages.create(model="scripted/quick", max_tokens=50, messages=asked)
    with pytest.raises(anthropic.NotFoundError) as caught:
        client.messages.create(model="nobody/knows", max_tokens=50, messages=asked)

    assert caught.value.type == "not_found_error"
    assert caught.value.request_id
