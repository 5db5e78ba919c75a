"""Credentials and headers on their way to a provider; the rows H of the acceptance tables, and C13 as a whole.

Whose key it is differs from the reference throughout: the caller shows the gateway's own key, and a credential of the
caller's for the provider counts beside `X-Bridge-Token` alone. So each row with such a credential sends that header.
"""

import json

import pytest

from bridgeserver.credential import bearer_token
from bridgeserver.errors import Unauthorized
from bridgeserver.headers import answer_lines, held_back, request_lines
from gatelab import PROVIDERS, GateLab, MakeLab, Sent, answer
from gateway import BODIES

MESSAGES, CHAT, RESPONSES = BODIES
OPENAI = pytest.mark.parametrize("path", [CHAT, RESPONSES])
ROUTES = pytest.mark.parametrize("path", BODIES)
Fields = list[tuple[str, str]]

OK = answer(b'{"id":"x"}')


def sent(lab: GateLab, path: str, fields: Fields, *, byok: bool = False) -> Sent:
    """Send a request, which must be answered, and return it as the provider got it."""
    lab.provider.push(OK)
    assert lab.ask(path, BODIES.get(path), fields=fields, byok=byok).status == 200
    return lab.provider.requests[-1]


def credential(lab: GateLab) -> tuple[str, str]:
    """Return the kind and the hint that were recorded."""
    start = lab.kept().start
    return start.credential_kind, start.credential_hint


def test_gw_h1_central_anthropic_key(make_lab: MakeLab) -> None:
    """The central key goes into the header that Anthropic reads, and the gateway's own key nowhere."""
    lab = make_lab(PROVIDERS.replace("central-anthropic-key", "test-key"))
    request = sent(lab, MESSAGES, [])
    assert (request.values("x-api-key"), request.values("authorization")) == (["test-key"], [])
    assert credential(lab) == ("centralized", "t...y")
    assert lab.tokens["ann"] not in str(request)


def test_gw_h2_bearer_of_the_callers_own(lab: GateLab) -> None:
    """Beside X-Bridge-Token the caller's bearer token is shown to Anthropic as it was sent.

    Alone it would be taken for the gateway's key, since no host in front has authenticated the caller.
    """
    fields = [("Authorization", "Bearer user-access-token")]
    request = sent(lab, MESSAGES, fields, byok=True)
    assert (request.values("authorization"), request.values("x-api-key")) == (["Bearer user-access-token"], [])
    assert credential(lab) == ("byok", "us...en")
    assert lab.ask(MESSAGES, BODIES[MESSAGES], fields=fields, user=None).status == 401
    assert len(lab.provider.requests) == 1


def test_gw_h3_api_key_of_the_callers_own(lab: GateLab) -> None:
    """With X-Bridge-Token the caller's API key takes the place of the central one; alone it is no gateway key."""
    fields = [("X-Api-Key", "user-api-key")]
    request = sent(lab, MESSAGES, fields, byok=True)
    assert (request.values("x-api-key"), request.values("authorization")) == (["user-api-key"], [])
    assert credential(lab) == ("byok", "us...ey")
    assert lab.ask(MESSAGES, BODIES[MESSAGES], fields=fields, user=None).status == 401
    assert len(lab.provider.requests) == 1


def test_gw_h4_both_of_the_callers_own(lab: GateLab) -> None:
    """Beside X-Bridge-Token, which the reference has not, of the two the API key counts and the other stays here."""
    fields = [("Authorization", "Bearer user-access-token"), ("X-Api-Key", "user-api-key")]
    request = sent(lab, MESSAGES, fields, byok=True)
    assert (request.values("x-api-key"), request.values("authorization")) == (["user-api-key"], [])
    assert credential(lab) == ("byok", "us...ey")


@OPENAI
def test_gw_h5_central_openai_key(make_lab: MakeLab, path: str) -> None:
    """The central key is OpenAI's bearer token."""
    lab = make_lab(PROVIDERS.replace("central-openai-key", "centralized-key"))
    request = sent(lab, path, [])
    assert request.values("authorization") == ["Bearer centralized-key"]
    assert request.values("x-api-key") == []
    assert credential(lab) == ("centralized", "ce...ey")


@OPENAI
def test_gw_h6_bearer_for_openai(lab: GateLab, path: str) -> None:
    """Beside X-Bridge-Token, which the reference has not, the caller's bearer token is shown to OpenAI."""
    request = sent(lab, path, [("Authorization", "Bearer user-token")], byok=True)
    assert request.values("authorization") == ["Bearer user-token"]
    assert credential(lab) == ("byok", "us...en")


@OPENAI
def test_gw_h7_api_key_for_openai(lab: GateLab, path: str) -> None:
    """OpenAI knows no X-Api-Key, so it stays here.

    Alone beside X-Bridge-Token it is a 401, where the reference takes the central key: that must not pay for a mistake.
    """
    fields = [("Authorization", "Bearer user-token"), ("X-Api-Key", "some-key")]
    request = sent(lab, path, fields, byok=True)
    assert (request.values("authorization"), request.values("x-api-key")) == (["Bearer user-token"], [])
    assert credential(lab) == ("byok", "us...en")
    assert lab.ask(path, BODIES[path], fields=fields[1:], byok=True).status == 401
    assert len(lab.provider.requests) == 1


def test_gw_h10_beta_flags(lab: GateLab) -> None:
    """A list of beta flags is one value, with the spaces that it had."""
    flags = "claude-code-20250219,interleaved-thinking-2025-05-14, context-1m-2025-08-07,a-1,b-2"
    request = sent(lab, MESSAGES, [("Anthropic-Beta", flags), ("Anthropic-Version", "2023-06-01")])
    assert request.values("anthropic-beta") == [flags]
    assert request.values("anthropic-version") == ["2023-06-01"]


HOP = [
    ("Connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers"),
    ("Proxy-Authorization", "Basic eA=="),
]


@ROUTES
def test_gw_h11_what_belongs_to_the_hop(lab: GateLab, path: str) -> None:
    """It is left out or made anew; a header of the client's own travels on, each of its values in its place."""
    custom = [("X-Custom", "one"), ("X-Other", "x"), ("X-Custom", "two"), ("Accept-Encoding", "gzip, br")]
    request = sent(lab, path, HOP + custom)
    names = [name.lower() for name, _value in request.fields]
    assert not {name.lower() for name, _value in HOP} & set(names)
    assert request.values("x-custom") == ["one", "two"]
    assert request.values("x-other") == ["x"]
    assert request.values("accept-encoding") == ["identity"]
    assert request.values("host") == ["provider.example"]
    assert request.values("content-length") == [str(len(request.body))]


def test_gw_h11_a_chunked_body(lab: GateLab) -> None:
    """The framing of the client's body is its own, and the provider gets a length."""
    lab.provider.push(OK)
    body = json.dumps(BODIES[CHAT]).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {lab.tokens['ann']}\r\ntransfer-encoding: chunked"
    got = lab.ask_raw(f"{head}\r\n\r\n".encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    (request,) = lab.provider.requests
    assert got.status == 200
    assert (request.values("transfer-encoding"), request.values("content-length")) == ([], [str(len(body))])
    assert request.body == body


def test_gw_h11_nothing_is_changed_in_place() -> None:
    """The fields of a head are read, and stay as they were."""
    pairs = [(b"connection", b"x-a"), (b"x-a", b"1"), (b"x-b", b"2"), (b"te", b"trailers"), (b"x-b", b"3")]
    before = list(pairs)
    assert request_lines(pairs, held_back(is_central=True)) == b"x-b: 2\r\nx-b: 3\r\n"
    assert answer_lines(pairs) == b"x-b: 2\r\nx-b: 3\r\n"
    assert pairs == before


@ROUTES
def test_gw_h12_empty_credentials(lab: GateLab, path: str) -> None:
    """An empty credential is none: the central key is shown, once, and no header is left without a value."""
    request = sent(lab, path, [("X-Api-Key", ""), ("Authorization", "")], byok=True)
    shown = request.values("x-api-key") + request.values("authorization")
    assert shown == ["central-anthropic-key" if path == MESSAGES else "Bearer central-openai-key"]
    assert credential(lab)[0] == "centralized"


def test_gw_h12_a_provider_without_credentials(make_lab: MakeLab) -> None:
    """Where a provider wants none, none is sent."""
    config = '[[providers]]\nname = "openai"\ntype = "openai"\nbase_url = "http://h/v1"\nauth = "none"\n'
    lab = make_lab(config)
    request = sent(lab, CHAT, [])
    assert request.values("authorization") == request.values("x-api-key") == []
    assert credential(lab) == ("centralized", "")


def test_gw_h15_variables_of_the_vendors_sdks(make_lab: MakeLab) -> None:
    """Of the environment only the keys of the implied providers count; what else the SDKs read there does not."""
    environ = {
        "ANTHROPIC_API_KEY": "a-key",
        "ANTHROPIC_AUTH_TOKEN": "a-token",
        "ANTHROPIC_BASE_URL": "http://elsewhere.example",
        "OPENAI_API_KEY": "o-key",
        "OPENAI_ORG_ID": "org",
        "OPENAI_PROJECT_ID": "project",
        "OPENAI_BASE_URL": "http://elsewhere.example",
    }
    lab = make_lab("", environ)
    shown = [sent(lab, path, []) for path in (MESSAGES, CHAT)]
    assert shown[0].values("x-api-key") == ["a-key"]
    assert shown[1].values("authorization") == ["Bearer o-key"]
    assert [request.values("host") for request in shown] == [["api.anthropic.com"], ["api.openai.com"]]
    everything = str(shown).lower()
    assert not [name for name in ("a-token", "openai-organization", "openai-project") if name in everything]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        pytest.param("/anthropic/v1/models", "x-api-key", "central-anthropic-key", id="gw-H16-anthropic"),
        pytest.param("/openai/v1/models", "authorization", "Bearer central-openai-key", id="gw-H16-openai"),
    ],
)
def test_passthrough_with_the_central_key(lab: GateLab, path: str, name: str, value: str) -> None:
    """A passthrough request is shown the central key as a bridged one is, and no other credential."""
    request = sent(lab, path, [])
    other = {"x-api-key": "authorization", "authorization": "x-api-key"}[name]
    assert (request.values(name), request.values(other)) == ([value], [])


BEARER, API_KEY = ("Authorization", "Bearer user-token"), ("X-Api-Key", "user-api-key")


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        pytest.param([BEARER], ["Bearer user-token"], id="gw-H17-bearer"),
        pytest.param([API_KEY], ["user-api-key"], id="gw-H17-key"),
        pytest.param([BEARER, API_KEY], ["user-api-key"], id="gw-H17-both"),
    ],
)
def test_passthrough_with_the_callers_own(lab: GateLab, fields: Fields, shown: list[str]) -> None:
    """Beside X-Bridge-Token one credential travels on, and of two the API key.

    That is the rule of bridged routes, and one for all is simpler than the reference's, which lets both through here.
    """
    request = sent(lab, "/anthropic/v1/models", fields, byok=True)
    assert request.values("x-api-key") + request.values("authorization") == shown
    assert lab.tokens["ann"] not in str(request)


FORWARDED = [
    ("X-Forwarded-For", "2.2.2.2, 3.3.3.3"),
    ("X-Forwarded-Host", "a"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("Forwarded", "for=2.2.2.2"),
]


@pytest.mark.parametrize(
    "peer",
    [pytest.param(("1.1.1.1", 5), id="gw-H19"), pytest.param(None, id="gw-H21"), pytest.param(("x", 5), id="odd")],
)
@pytest.mark.parametrize("path", ["/anthropic/v1/models", *BODIES])
def test_where_a_request_came_from(lab: GateLab, peer: tuple[str, int] | None, path: str) -> None:
    """No provider learns from where a request came, whatever the peer's address; and no user agent is made up.

    The reference tells both on passthrough routes; whoever uses a gateway has not agreed to that.
    """
    lab.provider.push(OK)
    assert lab.ask(path, BODIES.get(path), fields=FORWARDED, peer=peer).status == 200
    (request,) = lab.provider.requests
    names = {name.lower() for name, _value in request.fields}
    assert not {name.lower() for name, _value in FORWARDED} & names
    assert "user-agent" not in names
    assert request.values("accept-encoding") == ["identity"]
    assert request.values("host") == ["provider.example"]


@pytest.mark.parametrize("path", ["/anthropic/v1/models", *BODIES])
def test_gw_h22_user_agent(lab: GateLab, path: str) -> None:
    """The client's own."""
    assert sent(lab, path, [("User-Agent", "custom-agent/1.0")]).values("user-agent") == ["custom-agent/1.0"]


@pytest.mark.parametrize(
    ("value", "token"),
    [
        pytest.param("", None, id="gw-H24-empty"),
        pytest.param(" ", None, id="gw-H24-blank"),
        pytest.param("some-token", None, id="gw-H24-bare"),
        pytest.param("Bearer", None, id="gw-H24-without"),
        pytest.param("Bearer a b", None, id="gw-H24-two"),
        pytest.param("Basic a", None, id="another-scheme"),
        pytest.param("BeArEr t", "t", id="gw-H24-case"),
        pytest.param("  Bearer t", "t", id="gw-H24-before"),
        pytest.param("Bearer t  ", "t", id="gw-H24-after"),
    ],
)
def test_bearer_token(value: str, token: str | None) -> None:
    """Two fields, the first of which is the scheme in any case of letters."""
    assert bearer_token(value.encode()) == token


SESSION = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


@pytest.mark.parametrize(
    ("fields", "user_id", "client", "session_id"),
    [
        pytest.param(
            [("User-Agent", "mux/0.19.0-next.2"), ("X-Mux-Workspace-Id", "mux-workspace-321")],
            None,
            "Xum",
            "mux-workspace-321",
            id="gw-C13-mux",
        ),
        pytest.param(
            [("User-Agent", "claude-cli/2.0.67 (external, cli)")],
            f"user_ab12_account_cd34_session_{SESSION}",
            "Claude Code",
            SESSION,
            id="gw-C13-claude",
        ),
        pytest.param(
            [("User-Agent", "Zed/0.219.4+stable")],
            f"user_ab12_account_cd34_session_{SESSION}",
            "Zed",
            None,
            id="gw-C13-zed",
        ),
    ],
)
def test_client_and_session(
    lab: GateLab, fields: Fields, user_id: str | None, client: str, session_id: str | None
) -> None:
    """The record tells which client it was and in which of its sessions."""
    lab.provider.push(OK)
    body = BODIES[MESSAGES] if user_id is None else BODIES[MESSAGES] | {"metadata": {"user_id": user_id}}
    assert lab.ask(MESSAGES, body, fields=fields).status == 200
    start = lab.kept().start
    assert (start.client, start.session_id, start.user_agent) == (client, session_id, fields[0][1])
    assert json.loads(lab.provider.requests[0].body) == body


def test_no_central_key(make_lab: MakeLab) -> None:
    """A provider without a key serves those who bring their own, and tells the others so."""
    lab = make_lab('[[providers]]\nname = "anthropic"\ntype = "anthropic"\nbase_url = "http://h"\n')
    got = lab.ask(MESSAGES, BODIES[MESSAGES])
    assert (got.status, "has no central key" in got.error["message"]) == (Unauthorized.status, True)
    assert not lab.provider.requests
    assert sent(lab, MESSAGES, [API_KEY], byok=True).values("x-api-key") == ["user-api-key"]
