"""The official SDKs get the same objects through the gateway as from the provider itself."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import anthropic
import openai
import pytest

from bridgeserver.fakeprovider import FakeProvider, Fault, Script, ToolCall
from gateway import Gateway

SCRIPT = Script(
    text="It is sunny in Paris.",
    thinking="Weather, so a tool.",
    tools=(ToolCall("weather", '{"city": "Paris"}'),),
    input_tokens=12,
    output_tokens=34,
    cache_read_tokens=56,
)
QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]


@contextmanager
def anthropic_client(base_url: str, key: str) -> Generator[anthropic.Anthropic]:
    """Return a client that does not try again by itself."""
    with anthropic.Anthropic(base_url=base_url, api_key=key, max_retries=0) as client:
        yield client


@contextmanager
def openai_client(base_url: str, key: str) -> Generator[openai.OpenAI]:
    """Return a client that does not try again by itself."""
    with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as client:
        yield client


def message(client: anthropic.Anthropic) -> list[Any]:
    """Make a blocking request."""
    return [client.messages.create(model="claude-x", max_tokens=99, messages=QUESTION)]


def message_events(client: anthropic.Anthropic) -> list[Any]:
    """Read a stream event by event."""
    with client.messages.create(model="claude-x", max_tokens=99, messages=QUESTION, stream=True) as stream:
        return list(stream)


def message_stream(client: anthropic.Anthropic) -> list[Any]:
    """Use the streaming helper."""
    with client.messages.stream(model="claude-x", max_tokens=99, messages=QUESTION) as stream:
        return [*stream.text_stream, stream.get_final_message()]


def completion(client: openai.OpenAI) -> list[Any]:
    """Make a blocking request."""
    return [client.chat.completions.create(model="gpt-x", messages=QUESTION)]


def completion_chunks(client: openai.OpenAI) -> list[Any]:
    """Read a stream chunk by chunk, its usage included."""
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="gpt-x", messages=QUESTION, stream=True, stream_options=options
    ) as stream:
        return list(stream)


def response(client: openai.OpenAI) -> list[Any]:
    """Make a blocking request."""
    return [client.responses.create(model="gpt-x", input="What is the weather in Paris?")]


def response_events(client: openai.OpenAI) -> list[Any]:
    """Read a stream event by event."""
    with client.responses.create(model="gpt-x", input="What is the weather in Paris?", stream=True) as stream:
        return list(stream)


def response_stream(client: openai.OpenAI) -> list[Any]:
    """Use the streaming helper."""
    with client.responses.stream(model="gpt-x", input="What is the weather in Paris?") as stream:
        return [*stream, stream.get_final_response()]


def dumped(objects: list[Any]) -> list[Any]:
    """Return the objects as plain data."""
    return [item if isinstance(item, str) else item.model_dump(warnings=False) for item in objects]


@pytest.mark.parametrize("call", [message, message_events, message_stream])
def test_anthropic_objects_are_equal(
    gateway: Gateway, fake: FakeProvider, call: Callable[[anthropic.Anthropic], list[Any]]
) -> None:
    """Blocking, streaming and the helper give the same objects either way."""
    fake.push(SCRIPT)
    with anthropic_client(fake.url, "direct") as client:
        direct = dumped(call(client))
    fake.push(SCRIPT)
    with anthropic_client(f"{gateway.url}/anthropic", gateway.key) as client:
        bridged = dumped(call(client))
    assert direct
    assert bridged == direct


@pytest.mark.parametrize("call", [completion, completion_chunks, response, response_events, response_stream])
def test_openai_objects_are_equal(
    gateway: Gateway, fake: FakeProvider, call: Callable[[openai.OpenAI], list[Any]]
) -> None:
    """Blocking, streaming and the helper give the same objects either way."""
    fake.push(SCRIPT)
    with openai_client(f"{fake.url}/v1", "direct") as client:
        direct = dumped(call(client))
    fake.push(SCRIPT)
    with openai_client(f"{gateway.url}/openai/v1", gateway.key) as client:
        bridged = dumped(call(client))
    assert direct
    assert bridged == direct


def test_models_and_token_counts_are_equal(gateway: Gateway, fake: FakeProvider) -> None:
    """The passthrough routes work with the SDKs as well."""
    with (
        anthropic_client(fake.url, "direct") as direct,
        anthropic_client(f"{gateway.url}/anthropic", gateway.key) as bridged,
    ):
        assert dumped(list(bridged.models.list())) == dumped(list(direct.models.list()))
        counts = [client.messages.count_tokens(model="m", messages=QUESTION) for client in (direct, bridged)]
        assert counts[0] == counts[1]
    with (
        openai_client(f"{fake.url}/v1", "direct") as direct_openai,
        openai_client(f"{gateway.url}/openai/v1", gateway.key) as bridged_openai,
    ):
        assert dumped(list(bridged_openai.models.list())) == dumped(list(direct_openai.models.list()))


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (400, "BadRequestError"),
        (401, "InternalServerError"),  # the gateway's own key was refused: nothing that the client could mend
        (403, "PermissionDeniedError"),
        (404, "NotFoundError"),
        (409, "ConflictError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
def test_errors_become_the_sdks_own(gateway: Gateway, fake: FakeProvider, status: int, name: str) -> None:
    """A provider's error is the exception that the SDK has for it."""
    fake.push(Script(fail=Fault(status)))
    with (
        anthropic_client(f"{gateway.url}/anthropic", gateway.key) as client,
        pytest.raises(getattr(anthropic, name)),
    ):
        message(client)
    fake.push(Script(fail=Fault(status)))
    with openai_client(f"{gateway.url}/openai/v1", gateway.key) as openai_, pytest.raises(getattr(openai, name)):
        response(openai_)


def test_the_gateways_own_errors_become_the_sdks_own(gateway: Gateway) -> None:
    """A refused key is an authentication error with a message that helps."""
    with (
        anthropic_client(f"{gateway.url}/anthropic", "bc_wrong") as client,
        pytest.raises(anthropic.AuthenticationError, match="gateway key is not valid"),
    ):
        message(client)
    with (
        openai_client(f"{gateway.url}/openai/v1", "bc_wrong") as openai_,
        pytest.raises(openai.AuthenticationError, match="gateway key is not valid"),
    ):
        response(openai_)
