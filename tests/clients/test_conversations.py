"""Claude Code, Codex and opencode run a tool and answer from its result, and the gateway records it."""

import base64
import json
import time

import pytest

from stage import CENTRAL_KEYS, COLOUR, QUESTION, MakeStage, Stage, has_only_loopback

pytestmark = pytest.mark.clients

QUIET_CLAUDE = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
}
QUIET_OPENCODE = {
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
}
CLAUDE_MODEL, OPENAI_MODEL = "claude-sonnet-5", "gpt-5.5"

CODEX_CONFIG = f"""
model = "{OPENAI_MODEL}"
check_for_update_on_startup = false
analytics.enabled = false
features.apps = false
features.plugins = false
"""
CODEX_PROVIDER = """
model_provider = "bridgecore"

[model_providers.bridgecore]
name = "bridgecore"
base_url = "{url}/openai/v1"
wire_api = "responses"
"""


def ask_claude(stage: Stage, **env: str) -> None:
    """Ask Claude Code, and check all but its credentials."""
    stage.teach("Read", {"file_path": "note.txt"})
    url = {"ANTHROPIC_BASE_URL": f"{stage.gateway.url}/anthropic"}
    assert COLOUR in stage.run("claude", "-p", QUESTION, "--model", CLAUDE_MODEL, env=QUIET_CLAUDE | url | env)
    stage.check_records(client="Claude Code", model=CLAUDE_MODEL, tool="Read")


def ask_codex(stage: Stage, config: str, **env: str) -> None:
    """Ask Codex, and check all but its credentials."""
    stage.teach("exec_command", {"cmd": "cat note.txt"})
    folder = stage.home / ".codex"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(CODEX_CONFIG + config.replace("{url}", stage.gateway.url))
    assert COLOUR in stage.run("codex", "exec", "--skip-git-repo-check", QUESTION, env=env)
    stage.check_records(client="Codex", model=OPENAI_MODEL, tool="exec_command")


def ask_opencode(stage: Stage, model: str, **provider: object) -> None:
    """Ask opencode with one provider configured, and check all but its credentials."""
    stage.teach("read", {"filePath": "note.txt"})
    name, _, model_name = model.partition("/")
    folder = stage.home / ".config/opencode"
    folder.mkdir(parents=True)
    config = {"autoupdate": False, "share": "disabled", "provider": {name: provider}}
    (folder / "opencode.json").write_text(json.dumps(config))
    assert COLOUR in stage.run("opencode", "run", "--model", model, QUESTION, env=QUIET_OPENCODE)
    stage.check_records(client="OpenCode", model=model_name, tool="read")
    assert stage.refused() == []


def test_there_is_no_network() -> None:
    """The clients can reach nothing but the gateway."""
    if not has_only_loopback():
        pytest.skip("there is a network, as the kernel grants no namespace without: the clients get a closed proxy")


def test_claude_code_with_a_gateway_key(make_stage: MakeStage) -> None:
    """The gateway key is the auth token, and the central key pays."""
    stage = make_stage("claude")
    ask_claude(stage, ANTHROPIC_AUTH_TOKEN=stage.gateway.key)
    assert stage.shown("x-api-key") == {CENTRAL_KEYS["x-api-key"]}
    assert stage.refused() == []


@pytest.mark.parametrize(
    ("variable", "header", "shown"),
    [
        ("ANTHROPIC_API_KEY", "x-api-key", "sk-ant-own"),
        ("CLAUDE_CODE_OAUTH_TOKEN", "authorization", "Bearer sk-ant-own"),
    ],
    ids=["key", "subscription"],
)
def test_claude_code_with_its_own(make_stage: MakeStage, variable: str, header: str, shown: str) -> None:
    """A key or a subscription of the caller's own reaches the provider, the gateway key beside it does not."""
    stage = make_stage("claude")
    ask_claude(stage, **{variable: "sk-ant-own", "ANTHROPIC_CUSTOM_HEADERS": f"X-Bridge-Token: {stage.gateway.key}"})
    assert stage.shown(header) == {shown}
    assert stage.refused() == []


def test_codex_with_a_gateway_key(make_stage: MakeStage) -> None:
    """The gateway key is the provider's key."""
    stage = make_stage("codex")
    ask_codex(stage, CODEX_PROVIDER + 'env_key = "BRIDGECORE_KEY"\n', BRIDGECORE_KEY=stage.gateway.key)
    assert stage.shown("authorization") == {CENTRAL_KEYS["authorization"]}
    assert stage.refused() == []


def test_codex_with_its_own_key(make_stage: MakeStage) -> None:
    """A header from the environment carries the gateway key."""
    stage = make_stage("codex")
    more = 'env_key = "OPENAI_API_KEY"\nenv_http_headers = { "X-Bridge-Token" = "BRIDGECORE_KEY" }\n'
    ask_codex(stage, CODEX_PROVIDER + more, OPENAI_API_KEY="sk-own", BRIDGECORE_KEY=stage.gateway.key)
    assert stage.shown("authorization") == {"Bearer sk-own"}
    assert stage.refused() == []


def test_codex_with_a_subscription(make_stage: MakeStage) -> None:
    """Signed in with ChatGPT, Codex compresses what it sends, and the gateway reads it all the same."""
    stage = make_stage("codex")
    token = unsigned_token(
        {
            "exp": int(time.time()) + 86400,
            "email": "ann@example.com",
            "https://api.openai.com/auth": {"chatgpt_plan_type": "pro", "chatgpt_account_id": "a-1"},
        }
    )
    tokens = {"id_token": token, "access_token": token, "refresh_token": "r", "account_id": "a-1"}
    signed_in = {"auth_mode": "chatgpt", "tokens": tokens, "last_refresh": time.strftime("%Y-%m-%dT%H:%M:%SZ")}
    (stage.home / ".codex").mkdir()
    (stage.home / ".codex/auth.json").write_text(json.dumps(signed_in))
    more = 'requires_openai_auth = true\nenv_http_headers = { "X-Bridge-Token" = "BRIDGECORE_KEY" }\n'
    ask_codex(
        stage, CODEX_PROVIDER.replace('name = "bridgecore"', 'name = "OpenAI"') + more, BRIDGECORE_KEY=stage.gateway.key
    )
    assert stage.shown("authorization") == {f"Bearer {token}"}
    assert stage.shown("content-encoding") == {None, "zstd"}  # what has no body is not compressed
    assert stage.refused() == []


def unsigned_token(claims: dict[str, object]) -> str:
    """Return a JSON web token that nobody has signed."""
    parts = [json.dumps(part).encode() for part in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (*parts, b"unsigned"))


def test_codex_without_a_provider_of_its_own(make_stage: MakeStage) -> None:
    """With only its base URL changed Codex asks for a WebSocket, is refused once, and goes on without."""
    stage = make_stage("codex")
    (stage.home / ".codex").mkdir()
    stage.run("codex", "login", "--with-api-key", env={}, stdin=stage.gateway.key)
    ask_codex(stage, 'openai_base_url = "{url}/openai/v1"\n')
    assert stage.shown("authorization") == {CENTRAL_KEYS["authorization"]}
    assert stage.refused() == [("GET", "/openai/v1/responses", 426)]


def test_opencode_with_a_gateway_key(make_stage: MakeStage) -> None:
    """The gateway key is the API key of its Anthropic provider."""
    stage = make_stage("opencode")
    options = {"baseURL": f"{stage.gateway.url}/anthropic/v1", "apiKey": stage.gateway.key}
    ask_opencode(stage, f"anthropic/{CLAUDE_MODEL}", options=options)
    assert stage.shown("x-api-key") == {CENTRAL_KEYS["x-api-key"]}


def test_opencode_with_its_own_key(make_stage: MakeStage) -> None:
    """A header of its OpenAI provider carries the gateway key; it speaks Responses there."""
    stage = make_stage("opencode")
    headers = {"X-Bridge-Token": stage.gateway.key}
    options = {"baseURL": f"{stage.gateway.url}/openai/v1", "apiKey": "sk-own", "headers": headers}
    ask_opencode(stage, f"openai/{OPENAI_MODEL}", options=options)
    assert stage.shown("authorization") == {"Bearer sk-own"}
    assert {path for _method, path, _status in stage.answers()} == {"/openai/v1/responses"}


def test_opencode_with_chat_completions(make_stage: MakeStage) -> None:
    """A provider that is only compatible with OpenAI speaks Chat Completions."""
    stage = make_stage("opencode")
    options = {"baseURL": f"{stage.gateway.url}/openai/v1", "apiKey": stage.gateway.key}
    ask_opencode(
        stage, f"bridgecore/{OPENAI_MODEL}", npm="@ai-sdk/openai-compatible", options=options, models={OPENAI_MODEL: {}}
    )
    assert {path for _method, path, _status in stage.answers()} == {"/openai/v1/chat/completions"}
