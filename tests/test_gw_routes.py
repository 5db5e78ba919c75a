"""Which paths lead where, and which lead nowhere; the rows R and N of the acceptance tables.

Those tables describe another gateway, which is called the reference here and in the tests beside this one.
"""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from bridgeserver import journal as journals
from bridgeserver.config import load
from bridgeserver.errors import ConfigError
from bridgeserver.providers import build
from gatelab import PROVIDERS, GateLab, MakeLab, answer
from gateway import BODIES

MESSAGES, CHAT, RESPONSES = BODIES
ROUTES = pytest.mark.parametrize("path", BODIES)

OK = answer(b'{"id":"x"}')


def provider(name: str, kind: str, base_url: str | None = "http://provider.example", more: str = "") -> str:
    """Return a provider in TOML."""
    url = "" if base_url is None else f'base_url = "{base_url}"\n'
    return f'[[providers]]\nname = "{name}"\ntype = "{kind}"\nkeys = ["central"]\n{url}{more}\n'


def read(folder: Path, text: str) -> Any:
    """Read a configuration."""
    file = folder / "bridgecore.toml"
    file.write_text(text)
    return load(file, {}, {})


def test_gw_r1_providers(tmp_path: Path) -> None:
    """Each type has a base URL of its own; many may be of one type, and many at one address."""
    text = provider("anthropic", "anthropic", None) + provider("openai", "openai", None)
    text += provider("one", "openai") + provider("two", "openai") + provider("three", "anthropic")
    config = read(tmp_path, text)
    assert [item.base_url for item in config.providers[:2]] == [
        "https://api.anthropic.com",
        "https://api.openai.com/v1",
    ]
    built = build(config.providers)
    assert {name: built[name].type for name in built} == {
        "anthropic": "anthropic",
        "openai": "openai",
        "one": "openai",
        "two": "openai",
        "three": "anthropic",
    }
    assert built["one"].origin == built["two"].origin == built["three"].origin


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("copilot/business", id="gw-R2-slash"),
        pytest.param("copilot business", id="gw-R2-space"),
        pytest.param("Copilot", id="gw-R2-capital"),
    ],
)
def test_provider_names(tmp_path: Path, name: str) -> None:
    """A name that could not be the first segment of a path is refused; in words of our own, with what was found."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, provider(name, "openai"))
    (mistake,) = caught.value.mistakes
    assert f'providers[0].name: found "{name}", expected lower-case letters and digits' in mistake


def test_gw_r3_two_of_one_name(tmp_path: Path) -> None:
    """No two providers share a prefix; the second one is named as the mistake."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, provider("same", "openai") + provider("same", "anthropic"))
    (mistake,) = caught.value.mistakes
    assert 'providers[1].name: found "same" a second time' in mistake


@pytest.mark.parametrize(
    ("kind", "base", "path", "target"),
    [
        pytest.param("openai", "", "/v1/conversations", "/conversations", id="gw-R4-bare"),
        pytest.param("openai", "/v1", "/v1/conversations", "/v1/conversations", id="gw-R4-v1"),
        pytest.param("openai", "/v1/", "/v1/conversations", "/v1/conversations", id="gw-R4-v1-slash"),
        pytest.param("openai", "/api", "/v1/chat/completions", "/api/chat/completions", id="gw-R8-api"),
    ],
)
def test_base_url(make_lab: MakeLab, kind: str, base: str, path: str, target: str) -> None:
    """A provider's path is its base URL's, and then the route's; a bridged route is joined like the others."""
    lab = make_lab(provider("x", kind, f"http://provider.example:81{base}"))
    lab.provider.push(OK)
    got = lab.ask(f"/x{path}", b"{}")
    (request,) = lab.provider.requests
    assert (got.status, got.body) == (200, b'{"id":"x"}')
    assert (request.target, request.body) == (target, b"{}")
    assert request.values("host") == ["provider.example:81"]


def test_gw_r9_query(lab: GateLab) -> None:
    """The query of a passthrough request is the provider's."""
    lab.provider.push(OK)
    lab.ask("/openai/v1/models?search=gpt&limit=10")
    assert lab.provider.requests[0].target == "/v1/models?search=gpt&limit=10"


def test_gw_r10_escape_in_the_base_url(make_lab: MakeLab) -> None:
    """An escaped percent sign in a base URL is sent as it is written: nothing here decodes it, so nothing is wrong."""
    lab = make_lab(provider("x", "openai", "http://provider.example/%25"))
    lab.provider.push(OK)
    assert lab.ask("/x/v1/models").status == 200
    assert lab.provider.requests[0].target == "/%25/models"


@pytest.mark.parametrize(
    "path",
    ["/anthropic/api/event_logging", "/openai/v1/responses/", "/openai/v1/conversations/"],
)
def test_gw_r12_no_redirects(lab: GateLab, path: str) -> None:
    """A path without the segment that it needs is refused and not redirected.

    Two spellings of one path would be one more way to be read differently here and at the provider.
    """
    got = lab.ask(path, b"{}")
    assert got.status in {400, 404}
    assert got.value("location") is None
    assert not lab.provider.requests


@ROUTES
def test_gw_r13_query_of_a_bridged_request(lab: GateLab, path: str) -> None:
    """Unlike in the reference the query reaches the provider, for it is what the client sent."""
    lab.provider.push(OK)
    assert lab.ask(f"{path}?beta=true&x=%20y", BODIES[path]).status == 200
    assert lab.provider.requests[0].target.endswith("?beta=true&x=%20y")


@ROUTES
def test_gw_r14_nobody(lab: GateLab, path: str) -> None:
    """Without a gateway key it is 401 and not 400, since who is calling is known here by the key alone."""
    got = lab.ask(path, BODIES[path], user=None)
    assert got.status == 401
    assert "no gateway key" in got.error["message"]
    assert not lab.provider.requests
    assert not lab.records()


@ROUTES
def test_gw_r15_a_disk_that_fails(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """What cannot be recorded is not sent.

    503 in place of 500, as it may be better later; and the attempt is in the records once the disk is back.
    """

    def fail(*_arguments: Any) -> int:
        raise OSError(errno.EIO, "no disk")

    lab = make_lab(PROVIDERS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        got = lab.ask(path, BODIES[path])
    assert (got.status, got.value("retry-after")) == (503, "5")
    assert "the journal cannot be written" in got.error["message"]
    assert not lab.provider.requests
    lab.pass_time(1)
    kept = lab.kept()
    assert kept.outcome == ("failed", 503, "overloaded")
    assert kept.end.attempts == 0


@ROUTES
def test_gw_r15_a_full_journal(make_lab: MakeLab, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """A request for which there is no room leaves nothing behind, neither at the provider nor in the records."""
    lab = make_lab(PROVIDERS)
    monkeypatch.setattr(journals, "RESERVE_BYTES", 1 << 40)
    got = lab.ask(path, BODIES[path])
    assert (got.status, got.value("retry-after")) == (503, "5")
    assert "the journal has no room" in got.error["message"]
    assert not lab.provider.requests
    assert not lab.records()


@ROUTES
def test_gw_r17_while_it_shuts_down(make_lab: MakeLab, path: str) -> None:
    """503 with the time to come again in, and not 500: behind a load balancer another replica serves the next try."""
    lab = make_lab(PROVIDERS)
    lab.worker.is_draining = True
    got = lab.ask(path, BODIES[path])
    assert (got.status, got.value("retry-after")) == (503, "1")
    assert got.error["message"] == "the gateway is shutting down"
    assert not lab.provider.requests
    assert not lab.records()


def test_gw_r18_two_of_one_type(make_lab: MakeLab) -> None:
    """Each answers below its own name, and the records tell the type and the name."""
    lab = make_lab(provider("one", "openai", "http://provider.example/1") + provider("two", "openai", "http://h/2"))
    for name in ("one", "two"):
        lab.provider.push(OK)
        assert lab.ask(f"/{name}/v1/chat/completions", BODIES[CHAT]).status == 200
        start = lab.kept().start
        assert (start.provider, start.provider_name) == ("openai", name)
    assert [request.target for request in lab.provider.requests] == ["/1/chat/completions", "/2/chat/completions"]


def test_gw_n3_an_enabled_neighbour(make_lab: MakeLab) -> None:
    """What is switched off takes nobody with it.

    Without a gateway key a neighbour's answer is 401, where the reference leaves the caller to its host and says 400.
    """
    lab = make_lab(provider("off", "openai", more="enabled = false") + provider("on", "openai"))
    assert lab.ask("/off/v1/models").status == 503
    lab.provider.push(OK)
    assert lab.ask("/on/v1/models").status == 200
    assert lab.ask("/on/v1/chat/completions", BODIES[CHAT], user=None).status == 401
    lab.provider.break_off()
    lab.provider.is_reachable = False
    got = lab.ask("/on/v1/models")
    assert got.status == 502
    assert got.error["message"] == "cannot connect to http://provider.example:80: nobody listens"


@pytest.mark.parametrize("path", [*BODIES, "/anthropic/v1/messages/count_tokens", "/openai/v1/conversations"])
def test_gw_n4_a_body_over_the_limit(make_lab: MakeLab, path: str) -> None:
    """It is 413 with the reference's words, in the shape of the protocol, before a byte of it was read; bridged or not.

    A body of just that length is read.
    """
    lab = make_lab(PROVIDERS)
    head = f"POST {path} HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {lab.tokens['ann']}\r\ncontent-length: "
    got = lab.ask_raw(f"{head}{(32 << 20) + 1}\r\n\r\n".encode())
    assert got.status == 413
    assert got.error["message"] == "Request body too large. The maximum allowed request body size is 32MiB."
    assert not lab.provider.requests
    lab.provider.push(OK)
    body = b'{"a":"' + b"x" * ((32 << 20) - 8) + b'"}'
    assert lab.ask(path, body).status == 200
    assert len(lab.provider.requests[0].body) == 32 << 20
