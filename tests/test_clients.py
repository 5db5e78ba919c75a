import json

import pytest

from bridgeserver.clients import detect


def found(user_agent: str | None, hint: str | None = None, **headers: str) -> tuple[str, str | None]:
    """Detect with headers whose names are written with underscores for hyphens."""
    sent = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    if user_agent is not None:
        sent[b"user-agent"] = user_agent.encode()
    return detect(sent.get, hint)


@pytest.mark.parametrize(
    ("user_agent", "client"),
    [
        pytest.param("mux/0.19.0-next.2.gcceff159", "Xum", id="gw-C1-mux"),
        pytest.param("claude-cli/2.0.67 (external, cli)", "Claude Code", id="gw-C1-claude-cli"),
        pytest.param("claude-code/1.0.0", "Claude Code", id="gw-C1-claude-code"),
        pytest.param("codex_cli_rs/0.87.0 (Mac OS)", "Codex", id="gw-C1-codex"),
        pytest.param("Zed/0.219.4+stable", "Zed", id="gw-C1-zed"),
        pytest.param("GitHubCopilotChat/0.37.2", "GitHub Copilot (VS Code)", id="gw-C2-copilot-chat"),
        pytest.param("copilot/0.0.403 (client/cli)", "GitHub Copilot (CLI)", id="gw-C2-copilot"),
        pytest.param("kilo-code/5.1.0 x", "Kilo Code", id="gw-C2-kilo"),
        pytest.param("roo-code/3.45.0 x", "Roo Code", id="gw-C2-roo"),
        pytest.param("coder-agents/v2.24.0 x", "Coder Agents", id="gw-C2-coder"),
        pytest.param("Charm Crush/0.1.11", "Charm Crush", id="gw-C2-crush"),
        pytest.param("charm-crush/0.2", "Charm Crush", id="newer-crush"),
        pytest.param("xum/1.0", "Xum", id="newer-xum"),
        pytest.param("OpenCode/1.0", "OpenCode", id="newer-opencode"),
        pytest.param("junie:1", "Junie", id="newer-junie"),
        pytest.param("ccclaude-cli/2.0", "Unknown", id="gw-C5-prefix-only"),
        pytest.param("", "Unknown", id="gw-C5-empty"),
        pytest.param(None, "Unknown", id="gw-C5-none"),
    ],
)
def test_user_agent(user_agent: str | None, client: str) -> None:
    """A client is known by how its user agent begins, in any case of letters."""
    assert found(user_agent) == (client, None)


def test_gw_c3_originator() -> None:
    """Two clients are known by an exact originator too."""
    assert found(None, originator="kilo-code") == ("Kilo Code", None)
    assert found(None, originator="roo-code") == ("Roo Code", None)
    assert found(None, originator="Roo-Code") == ("Unknown", None)


def test_gw_c4_cursor() -> None:
    """Cursor is known by a header of its own, unless it is empty."""
    assert found("connect-es/1.6.1", x_cursor_client_version="0.50.0") == ("Cursor", None)
    assert found("connect-es/1.6.1", x_cursor_client_version="") == ("Unknown", None)


LEGACY = "user_ab12_account_cd34_session_1b4e28ba-2fa1-11d2-883f-0016d3cca427"
SESSION = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


def test_gw_c6_header_before_body() -> None:
    """Claude Code's header wins over its body."""
    assert found("claude-cli/2", LEGACY, x_claude_code_session_id=" s-1 ") == ("Claude Code", "s-1")


@pytest.mark.parametrize("header", ["", "  \t"])
def test_gw_c7_blank_header(header: str) -> None:
    """A blank header leaves the word to the body."""
    assert found("claude-cli/2", LEGACY, x_claude_code_session_id=header) == ("Claude Code", SESSION)


@pytest.mark.parametrize(
    ("hint", "session_id"),
    [
        pytest.param(json.dumps({"device_id": "d", "session_id": " s-2 "}), "s-2", id="gw-C8-found"),
        pytest.param(json.dumps({"session_id": ""}), None, id="gw-C8-empty"),
        pytest.param(json.dumps({"device_id": "a_session_b"}), None, id="gw-C8-missing"),
        pytest.param(json.dumps({"session_id": 7}), None, id="gw-C8-another-type"),
        pytest.param('{"session_id": _session_s-3', "s-3", id="not-quite-json"),
        pytest.param(None, None, id="gw-C9-none"),
        pytest.param("", None, id="gw-C9-empty"),
        pytest.param("user_ab12", None, id="gw-C9-no-session"),
        pytest.param("user_ab12_session_", None, id="gw-C9-nothing-after"),
        pytest.param("a_session_b_session_c", "b_session_c", id="first-mark"),
        pytest.param("a_session_\ud800", "?", id="lone-surrogate"),
        pytest.param("a_session_" + "x" * 5000, "x" * 1024, id="long"),
    ],
)
def test_hint(hint: str | None, session_id: str | None) -> None:
    """The body's hint is read in its newer and in its older form."""
    assert found("claude-cli/2", hint) == ("Claude Code", session_id)


def test_gw_c10_codex() -> None:
    """Codex has its session in either of two headers, the newer first."""
    assert detect({b"user-agent": b"codex/1", b"session_id": b"  x  "}.get, None) == ("Codex", "x")
    sent = {b"user-agent": b"codex/1", b"session_id": b"x", b"session-id": b"y"}
    assert detect(sent.get, None) == ("Codex", "y")
    assert found("codex/1") == ("Codex", None)


@pytest.mark.parametrize(
    ("user_agent", "header"),
    [
        pytest.param("mux/1", "x_mux_workspace_id", id="gw-C11-mux"),
        pytest.param("GitHubCopilotChat/1", "x_interaction_id", id="gw-C11-copilot-chat"),
        pytest.param("copilot/1", "x_client_session_id", id="gw-C11-copilot"),
        pytest.param("kilo-code/1", "x_kilocode_taskid", id="gw-C11-kilo"),
        pytest.param("coder-agents/1", "x_coder_chat_id", id="gw-C11-coder"),
        pytest.param("opencode/1", "x_opencode_session", id="newer-opencode"),
        pytest.param("opencode/1", "x_session_affinity", id="newer-opencode-affinity"),
    ],
)
def test_session_headers(user_agent: str, header: str) -> None:
    """A client's session is in its own header; a blank one is none."""
    assert found(user_agent, **{header: " s-4 "})[1] == "s-4"
    assert found(user_agent, **{header: "  "})[1] is None
    assert found(user_agent)[1] is None


@pytest.mark.parametrize("user_agent", ["Zed/1", "curl/8", "roo-code/1", "codex/1"])
def test_gw_c12_foreign_session(user_agent: str) -> None:
    """No client is given the session of another's header or body."""
    assert found(user_agent, LEGACY, x_mux_workspace_id="w", x_claude_code_session_id="s")[1] is None


def test_gw_c13_examples() -> None:
    """Three clients of the same protocol are told apart, with their sessions."""
    assert found("mux/1", x_mux_workspace_id="mux-workspace-321") == ("Xum", "mux-workspace-321")
    assert found("claude-cli/2", LEGACY) == ("Claude Code", SESSION)
    assert found("Zed/0.219.4", LEGACY) == ("Zed", None)


def test_gw_c14_no_body() -> None:
    """Where the body could not be read there is no hint, and so no session."""
    assert found("claude-cli/2", None) == ("Claude Code", None)


def test_bytes_that_are_not_text() -> None:
    """A header in another encoding is no failure."""
    sent = {b"user-agent": b"codex/\xff", b"session-id": b"a\xff"}
    assert detect(sent.get, None) == ("Codex", "a\N{REPLACEMENT CHARACTER}")
