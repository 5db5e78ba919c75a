"""Routes, base URLs and heads of every provider type, without a socket; and Copilot through a running gateway."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import commandlab
import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.config import ProviderConfig
from bridgeserver.config.members import AUTHS, BASE_URLS
from bridgeserver.errors import NotFound, Unauthorized
from bridgeserver.fakeprovider import FakeProvider
from bridgeserver.headers import actor_lines
from bridgeserver.providers import Provider, build
from bridgeserver.secret import Secret
from gateway import BODIES, Gateway

CHAT = BODIES["/openai/v1/chat/completions"]


def provider(kind: str, base_url: str | None = None, name: str | None = None, **members: Any) -> Provider:
    """Return a provider of that type."""
    keys = () if kind == "copilot" else ("test-key",)
    members = {"auth": AUTHS[kind], "keys": tuple(map(Secret, keys))} | members
    config = msgspec.convert(
        {"name": name or kind, "type": kind, "base_url": base_url or BASE_URLS[kind]} | members, ProviderConfig
    )
    return build((config,))[config.name]


def head(found: Provider, method: str, path: str, fields: dict[str, str], query: bytes = b"") -> list[str]:
    """Return the lines of the head that a request to *path* would go out with."""
    values = {name.encode(): value.encode() for name, value in fields.items()}
    credential = found.credential(values, is_byok=not values.keys().isdisjoint({b"authorization", b"x-api-key"}))
    lines = found.request_head(method, found.route(method, path).path, query, list(values.items()), credential, b"")
    return lines.decode().split("\r\n")


@pytest.mark.parametrize(
    ("kind", "path", "base", "target"),
    [
        pytest.param("openai", "/openai/v1/conversations", "http://h", "/conversations", id="gw-R4"),
        pytest.param("openai", "/openai/v1/conversations", "http://h/v1", "/v1/conversations", id="gw-R4-path"),
        pytest.param("anthropic", "/anthropic/v1/models", "http://h", "/v1/models", id="gw-R5"),
        pytest.param("anthropic", "/anthropic/v1/models", "http://h/v1", "/v1/v1/models", id="gw-R5-version"),
        pytest.param("anthropic", "/anthropic/v1/models", "http://h/api", "/api/v1/models", id="gw-R5-path"),
        pytest.param("copilot", "/copilot/models", "http://h", "/models", id="gw-R6"),
        pytest.param("copilot", "/copilot/models", "http://h/v1", "/v1/models", id="gw-R6-path"),
        pytest.param("anthropic", "/anthropic/v1/messages", "http://h", "/v1/messages", id="gw-R7"),
        pytest.param("anthropic", "/anthropic/v1/messages", "http://h/api/", "/api/v1/messages", id="gw-R7-path"),
        pytest.param("openai", "/openai/v1/chat/completions", "http://h", "/chat/completions", id="gw-R8"),
        pytest.param("openai", "/openai/v1/chat/completions", "http://h/api", "/api/chat/completions", id="gw-R8-path"),
        pytest.param("openai", "/openai/v1/responses/compact", None, "/v1/responses/compact", id="compact"),
        pytest.param("copilot", "/copilot/v1/messages", None, "/v1/messages", id="copilot-messages"),
        pytest.param("openai", "/openai/v1/models", "https://openrouter.ai/api/v1", "/api/v1/models", id="openrouter"),
        pytest.param(
            "openai",
            "/openai/v1/chat/completions",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "/v1beta/openai/chat/completions",
            id="gemini",
        ),
        pytest.param("openai", "/openai/v1/responses", "http://127.0.0.1:11434/v1", "/v1/responses", id="ollama"),
    ],
)
def test_where_a_request_goes(kind: str, path: str, base: str | None, target: str) -> None:
    """The route's path is put below the base URL's, with one slash between them."""
    method = "GET" if path.endswith("models") else "POST"
    assert head(provider(kind, base), method, path, {"authorization": "Bearer t"})[0] == f"{method} {target} HTTP/1.1"


def test_azure_and_the_chatgpt_subscription() -> None:
    """A key in `api-key` with a version in the query; and a subscription whose token is the caller's own."""
    azure = provider("openai", "https://x.openai.azure.com/openai/v1", auth="api-key", query={"api-version": "v1"})
    lines = head(azure, "POST", "/openai/v1/chat/completions", {}, b"a=1")
    assert lines[0] == "POST /openai/v1/chat/completions?api-version=v1&a=1 HTTP/1.1"
    assert "api-key: test-key" in lines
    chatgpt = provider("openai", "https://chatgpt.com/backend-api/codex", "chatgpt", keys=())
    lines = head(chatgpt, "POST", "/chatgpt/v1/responses", {"authorization": "Bearer own", "chatgpt-account-id": "a-1"})
    assert lines[0] == "POST /backend-api/codex/responses HTTP/1.1"
    assert {"authorization: Bearer own", "chatgpt-account-id: a-1", "host: chatgpt.com"} <= set(lines)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/chat/completions"),
        ("POST", "/responses"),
        ("POST", "/responses/compact"),
        ("POST", "/v1/messages"),
        ("POST", "/v1/messages/count_tokens"),
        ("GET", "/models"),
        ("POST", "/models/session"),
        ("GET", "/_ping"),
        ("GET", "/auto"),
        ("POST", "/agents/x"),
        ("DELETE", "/mcp/x"),
        ("GET", "/.well-known/x"),
    ],
)
def test_what_copilot_serves(method: str, path: str) -> None:
    """The routes of Copilot's clients, the bridged ones for all three protocols."""
    protocol = provider("copilot").route(method, f"/copilot{path}").protocol
    names = {"/chat/completions": "chat", "/responses": "responses", "/v1/messages": "messages"}
    assert (protocol and protocol.name) == names.get(path.removesuffix("/compact"))


@pytest.mark.parametrize("path", ["/agents", "/v1/chat/completions", "/telemetry", "/responses/resp_1", "/"])
def test_gw_r12_what_copilot_does_not_serve(path: str) -> None:
    """Ours differs: a subtree without its slash is a 404 like every other unknown path, and no redirect."""
    with pytest.raises(NotFound, match=f"route not supported: GET /copilot{path}"):
        provider("copilot").route("GET", f"/copilot{path}")


@pytest.mark.parametrize(
    "fields",
    [{}, {"authorization": "InvalidFormat"}, {"authorization": "Bearer"}, {"x-api-key": "k"}],
    ids=["none", "form", "empty", "key"],
)
def test_gw_h8_copilot_needs_the_callers_token(fields: dict[str, str]) -> None:
    """Ours differs: what is wrong with the credential is a 401 that says so, and no 500."""
    with pytest.raises(Unauthorized):
        head(provider("copilot"), "POST", "/copilot/chat/completions", fields)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, FakeProvider]]:
    """A gateway with Copilot under two names, and two providers that are told who asks."""
    folder = tmp_path_factory.mktemp("providers")
    with fakeprovider.running() as fake:
        tables = [
            f'[[providers]]\nname = "{name}"\ntype = "copilot"\nbase_url = "{fake.url}{path}"'
            for name, path in (("copilot", "/v1"), ("copilot-business", "/v1"), ("copilot-messages", ""))
        ] + [
            f'[[providers]]\nname = "told-{kind}"\ntype = "{kind}"\nbase_url = "{fake.url}{path}"\nkeys = ["central"]\n'
            "actor_headers = true"
            for kind, path in (("anthropic", ""), ("openai", "/v1"))
        ]
        tables += [
            f'[[providers]]\nname = "{name}"\ntype = "anthropic"\nbase_url = "{url}"'
            for name, url in (("unparsable", "http://[h"), ("bad-escape", "http://h/%zz"))
        ]
        gateways.write_config(folder, fake.url, more="\n".join(tables))
        with gateways.running(folder) as gateway:
            yield gateway, fake


def test_gw_r10_a_provider_that_cannot_be_reached_as_configured(lab: tuple[Gateway, FakeProvider]) -> None:
    """A base URL that cannot be parsed: that provider answers 502 and has the status `error`, the others serve.

    Ours differs: every route of it does so, the bridged ones too, and an escape of a percent sign is none of this.
    """
    gateway, _fake = lab
    for name in ("unparsable", "bad-escape"):
        for method, path in (("POST", "/v1/messages"), ("GET", "/v1/models"), ("HEAD", "")):
            answer = gateway.ask(f"/{name}{path}", b"{}" if method == "POST" else None, method=method)
            assert (answer.status, answer.headers["x-should-retry"]) == (502, "false")
        assert gateway.ask(f"/{name}/v1/models").json["error"]["message"].startswith(f'AI provider "{name}" cannot be')
    admin = {"authorization": f"Bearer {gateways.make_key(gateway.folder, 'root', is_admin=True)}"}
    views = {view["name"]: view for view in gateway.ask("/-/api/v1/providers", headers=admin).json["providers"]}
    for name in ("unparsable", "bad-escape"):
        assert (views[name]["status"], views[name]["source"]) == ("error", "file")
        assert "base_url: found" in views[name]["status_reason"]
    assert views["copilot"]["status"] == "enabled"
    listed = commandlab.bridgecore(gateway.folder, "providers", "list")
    assert "provider unparsable is not served" in listed.stderr
    checked = commandlab.bridgecore(gateway.folder, "check")
    assert (checked.returncode, checked.stderr.count("base_url: found")) == (1, 2)


def own(gateway: Gateway, **fields: str) -> dict[str, str]:
    """Return the fields of a call with a token of its own."""
    token = {"x-bridge-token": gateway.key, "authorization": "Bearer test-token"}
    return token | {name.replace("_", "-"): value for name, value in fields.items()}


def test_gw_h9_r19_copilot_gets_the_callers_head(lab: tuple[Gateway, FakeProvider]) -> None:
    """Under any name: the token and the editor's fields arrive, the gateway's own key does not, and it is recorded."""
    gateway, fake = lab
    fields = own(gateway, editor_version="vscode/1.1", copilot_integration_id="vscode-chat", x_interaction_id="i-1")
    fields["user-agent"] = "GitHubCopilotChat/0.37"
    for path, body in (
        ("/copilot/chat/completions", CHAT),
        ("/copilot/responses", BODIES["/openai/v1/responses"]),
        ("/copilot-business/chat/completions", CHAT),
        ("/copilot-messages/v1/messages", BODIES["/anthropic/v1/messages"]),
    ):
        answer = gateway.ask(path, body, headers=fields)
        assert answer.status == 200, answer.body
        received = fake.requests[-1]
        assert received.header("authorization") == "Bearer test-token"
        assert received.header("editor-version") == "vscode/1.1"
        assert received.header("copilot-integration-id") == "vscode-chat"
        assert not any(gateway.key in value for _name, value in received.headers)
        assert received.header("x-api-key") is None
        record = gateway.record(answer.headers["x-bridge-interception-id"])
        assert (record["provider"], record["provider_name"]) == ("copilot", path.split("/")[1])
        assert (record["client"], record["session_id"]) == ("GitHub Copilot (VS Code)", "i-1")
        assert record["input_tokens"] > 0


def test_gw_h18_copilots_passthrough(lab: tuple[Gateway, FakeProvider]) -> None:
    """The caller's token is what arrives, and without one the answer is 401 and nothing is sent."""
    gateway, fake = lab
    assert gateway.ask("/copilot/models", headers=own(gateway)).status == 200
    assert fake.requests[-1].header("authorization") == "Bearer test-token"
    count = len(fake.requests)
    answer = gateway.ask("/copilot/models")
    assert answer.status == 401
    assert "X-Bridge-Token" in answer.json["error"]["message"]
    assert len(fake.requests) == count


@pytest.mark.parametrize("stream", [False, True], ids=["blocking", "streaming"])
def test_gw_h13_h14_actor_headers(lab: tuple[Gateway, FakeProvider], *, stream: bool) -> None:
    """With the option on the provider is told who asks, on bridged routes; a client's own claims never arrive."""
    gateway, fake = lab
    forged = {"x-ai-bridge-actor-id": "root", "x-ai-bridge-actor-metadata-team": "x"}
    for path, body in BODIES.items():
        assert gateway.ask(f"/told-{path[1:]}", body | {"stream": stream}, headers=forged).status == 200
        received = fake.requests[-1]
        assert received.header("x-ai-bridge-actor-metadata-username") == "tester"
        assert received.header("x-ai-bridge-actor-id") not in {None, "root"}
        assert received.header("x-ai-bridge-actor-metadata-team") is None
        assert gateway.ask(path, body | {"stream": stream}, headers=forged).status == 200
        assert not any(name.lower().startswith("x-ai-bridge") for name, _value in fake.requests[-1].headers)
    assert gateway.ask("/told-openai/v1/models").status == 200
    assert fake.requests[-1].header("x-ai-bridge-actor-id") is None


def test_an_actor_cannot_write_fields() -> None:
    """What a field cannot hold is percent-encoded, and so is a percent sign."""
    lines = actor_lines("id-1", "Zoë O'Neil\r\nx-evil: 1%\x7f (a+b)")
    assert lines == (
        b"x-ai-bridge-actor-id: id-1\r\n"
        b"x-ai-bridge-actor-metadata-username: Zo%C3%AB O'Neil%0D%0Ax-evil: 1%25%7F (a+b)\r\n"
    )


def test_compaction_is_recorded(lab: tuple[Gateway, FakeProvider]) -> None:
    """It costs tokens, so it is a bridged route."""
    gateway, fake = lab
    answer = {
        "id": "resp_c",
        "object": "response.compaction",
        "output": [{"id": "cmp_1", "type": "compaction", "encrypted_content": "x"}],
        "usage": {"input_tokens": 30, "output_tokens": 4, "total_tokens": 34},
    }
    body = msgspec.json.encode(answer)
    raw = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    fake.push(fakeprovider.Script(raw=(raw,)))
    got = gateway.ask("/openai/v1/responses/compact", {"model": "m", "input": "hello"})
    assert (got.status, got.body) == (200, body)
    record = gateway.record(got.headers["x-bridge-interception-id"])
    assert (record["status"], record["input_tokens"], record["output_tokens"]) == ("completed", 30, 4)


def test_items_of_others_cannot_be_referred_to(lab: tuple[Gateway, FakeProvider]) -> None:
    """With a central key a stored item answers only to the user whose response holds it."""
    gateway, fake = lab
    made = gateway.ask("/openai/v1/responses", {"model": "m", "input": "hello"})
    item_id = made.json["output"][0]["id"]
    count = len(fake.requests)
    other = {"authorization": f"Bearer {gateways.make_key(gateway.folder, 'other')}"}
    for item in ({"type": "item_reference", "id": item_id}, {"id": item_id}):
        asked = {"model": "m", "input": [item, {"role": "user", "content": "go on"}]}
        refused = gateway.ask("/openai/v1/responses", asked, headers=other)
        assert (refused.status, len(fake.requests)) == (404, count)
        assert gateway.ask("/openai/v1/responses", asked).status == 200
        count += 1
