"""The rows D1 to D9 of the acceptance table for dumps: files of what was sent and what came back."""

import json
import stat
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.dumps import CUT, Dump, Dumps
from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway

HEAD = b"POST /v1/messages HTTP/1.1\r\n%b\r\n"


def lines(**fields: str) -> bytes:
    return b"".join(f"{name.replace('_', '-')}: {value}\r\n".encode() for name, value in fields.items())


class Lab:
    """Dumps in a folder of their own."""

    def __init__(self, folder: Path, *, max_file_bytes: int = 1 << 20, max_bytes: int = 1 << 30) -> None:
        self.folder = folder / "dumps"
        self.dumps = Dumps(self.folder, max_file_bytes=max_file_bytes, max_bytes=max_bytes)

    def dump(self) -> Dump:
        return self.dumps.bridged("p", "m", "id-1")

    def files(self) -> dict[str, bytes]:
        """Return what was written, by the kind of the file."""
        self.dumps.close()
        return {path.name.partition(".")[2]: path.read_bytes() for path in self.folder.rglob("*.txt")}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


def test_gw_d3_credentials_are_masked(lab: Lab) -> None:
    """Those of requests and answers, in any case; everything else stands as it is."""
    fields = lines(
        authorization="Bearer secret-token-12345",
        x_api_key="secret-api-key-value",
        cookie="session=abc123",
        x_team="a-secret-of-the-proxy",
        user_agent="x/1",
    )
    dump = lab.dump()
    dump.request(HEAD % fields, b"", [b"x-team"], b"")
    dump.answer(401, [(b"set-cookie", b"session=xyz; HttpOnly; Secure"), (b"www-authenticate", b'Bearer realm="api"')])
    found = lab.files()
    assert found["req.txt"].split(b"\r\n") == [
        b"POST /v1/messages HTTP/1.1",
        b"Authorization: Bear...2345",
        b"Cookie: se...23",
        b"User-Agent: x/1",
        b"X-Api-Key: secr...alue",
        b"X-Team: a-se...roxy",
        b"",
        b"\n",
    ]
    assert found["resp.txt"] == (b'HTTP/1.1 401\r\nSet-Cookie: sess...cure\r\nWww-Authenticate: Be...i"\r\n\r\n')


def test_a_secret_query_is_left_out(lab: Lab) -> None:
    """The parameters of the configuration may be secrets of a proxy in between."""
    dump = lab.dump()
    dump.request(b"GET /v1/models?code=hunter2&limit=5 HTTP/1.1\r\nhost: h\r\n\r\n", b"", [], b"code=hunter2")
    assert lab.files()["req.txt"].startswith(b"GET /v1/models?...&limit=5 HTTP/1.1\r\nHost: h\r\n")


def test_gw_d4_a_request_without_an_answer(lab: Lab) -> None:
    """The reason is in a file of its own; one that breaks off says so at its end."""
    with pytest.raises(OSError, match="refused"), lab.dump():
        raise OSError("refused")
    assert lab.files() == {"req_error.txt": b"refused\n"}


def test_an_answer_that_breaks_off(lab: Lab) -> None:
    """What had come is there, and why there is no more."""
    dump = lab.dump()
    dump.answer(200, [])
    dump.body(b"data: 1\n\n")
    dump.failed("the provider's answer broke off")
    assert lab.files()["resp.txt"].endswith(b"\r\n\r\ndata: 1\n\n\n[the provider's answer broke off]\n")


@pytest.mark.parametrize(
    ("model", "folder"),
    [
        pytest.param("gemini/1.5-pro", "gemini-1.5-pro", id="gw-D6"),
        ("../../etc/passwd", "-..-etc-passwd"),
        ("..", "-"),
        (".", "-"),
        ("", "no-model"),
        ("a\0b\nc", "a-b-c"),
        ("us.anthropic.claude-x:0", "us.anthropic.claude-x:0"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_model_names_a_folder_and_no_other_place(lab: Lab, model: str, folder: str) -> None:
    """Names come from clients: none of them leaves the folder of its provider."""
    lab.dumps.bridged("p", model, "id-1").failed("x")
    lab.files()
    assert [path.parent for path in lab.folder.rglob("*.txt")] == [lab.folder / "p" / folder]


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (
            b'{"b":1,"a":[1.0,{"x":"\\u00e9"}]}',
            b'{\n  "b": 1,\n  "a": [\n    1.0,\n    {\n      "x": "\\u00e9"\n    }\n  ]\n}',
        ),
        (b"not json", b"not json"),
        (b"test", b"test"),
        (b"f", b"f"),
        (b"", b""),
        (b"\x1f\x8b\x00", b"\x1f\x8b\x00"),
    ],
    ids=["gw-D7-json", "gw-D7-text", "gw-D7-test", "gw-D7-f", "gw-D7-empty", "gw-D7-gzip"],
)
def test_a_body_is_laid_out(lab: Lab, body: bytes, shown: bytes) -> None:
    """JSON with its members in their order and its numbers as written; the length is that of what is shown."""
    lab.dump().request(HEAD % lines(content_length=str(len(body))), body, [], b"")
    head, _, rest = lab.files()["req.txt"].partition(b"\r\n\r\n")
    assert rest == shown + b"\n"
    assert head.endswith(b"Content-Length: %d" % len(shown))


def test_gw_d8_what_the_client_gets_is_what_came(lab: Lab) -> None:
    """A watch that is watched gives on what it would have given on, and the file holds every piece."""
    dump = lab.dump()
    dump.answer(200, [(b"content-type", b"text/event-stream")])
    watch = dump.watching(lambda chunk, _is_last: chunk.upper())
    body = bytes(range(256)) * 4
    pieces = [body[at : at + 16] for at in range(0, len(body), 16)]
    assert b"".join(watch(piece, piece is pieces[-1]) for piece in pieces) == body.upper()
    assert lab.files()["resp.txt"].endswith(b"\r\n\r\n" + body)


def test_gw_d9_fields_are_sorted_and_repeated_ones_kept(lab: Lab) -> None:
    """By name, each value on a line of its own."""
    lab.dump().answer(200, [(b"x-b", b"2"), (b"x-a", b"1"), (b"x-b", b"1")])
    assert lab.files()["resp.txt"] == b"HTTP/1.1 200\r\nX-A: 1\r\nX-B: 1\r\nX-B: 2\r\n\r\n"


def test_files_are_bounded(tmp_path: Path) -> None:
    """Each by itself, with a note at the cut, and all together; what is there from before counts."""
    lab = Lab(tmp_path, max_file_bytes=100)
    dump = lab.dump()
    dump.request(HEAD % b"", b"x" * 1000, [], b"")
    dump.answer(200, [])
    for _ in range(10):
        dump.body(b"y" * 30)
    found = lab.files()
    assert len(found["req.txt"]) == len(found["resp.txt"]) == 100 + len(CUT)
    assert found["resp.txt"].endswith(b"y" + CUT)
    full = Lab(tmp_path, max_bytes=300)
    full.dump().answer(200, [(b"x", b"z" * 100)])
    assert b"z" not in b"".join(full.files().values())


def test_a_disk_that_fails_is_not_the_requests_matter(tmp_path: Path) -> None:
    """Nothing is raised when nothing can be written."""
    (tmp_path / "dumps").write_text("a file where a folder should be")
    lab = Lab(tmp_path)
    dump = lab.dump()
    dump.answer(200, [])
    dump.body(b"x")
    lab.dumps.close()


# Through a gateway


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, FakeProvider]]:
    """A gateway whose providers keep dumps, but for one."""
    folder = tmp_path_factory.mktemp("dumps")
    with fakeprovider.running() as fake:
        tables = [
            f'[[providers]]\nname = "{name}"\ntype = "{kind}"\nbase_url = "{fake.url}{path}"\ndumps = true\n'
            + ("" if kind == "copilot" else 'keys = ["the-central-key-of-many-characters"]')
            for name, kind, path in (
                ("a", "anthropic", ""),
                ("o", "openai", "/v1"),
                ("copilot-business", "copilot", "/v1"),
            )
        ]
        gateways.write_config(folder, fake.url, more="\n".join(tables))
        with gateways.running(folder) as gateway:
            yield gateway, fake


def parsed(path: Path) -> tuple[bytes, dict[str, str], bytes]:
    """Read a file as the HTTP message that it is."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    first, *fields = head.split(b"\r\n")
    return first, {name: value for name, _, value in (field.decode().partition(": ") for field in fields)}, body


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/a/v1/messages", BODIES["/anthropic/v1/messages"]),
        ("/o/v1/chat/completions", BODIES["/openai/v1/chat/completions"]),
        ("/o/v1/responses", BODIES["/openai/v1/responses"]),
        ("/copilot-business/chat/completions", BODIES["/openai/v1/chat/completions"]),
    ],
    ids=["gw-D1-messages", "gw-D1-chat", "gw-D1-responses", "gw-D1-copilot"],
)
@pytest.mark.parametrize("stream", [False, True], ids=["blocking", "streaming"])
def test_what_was_exchanged_is_kept(
    served: tuple[Gateway, FakeProvider], path: str, body: dict[str, object], *, stream: bool
) -> None:
    """One file for the request and one for the answer, named after the interception, for the gateway's user alone."""
    gateway, fake = served
    own = {"x-bridge-token": gateway.key, "authorization": "Bearer a-token-of-the-caller"}
    asked = body | {"stream": stream}
    answer = gateway.ask(path, asked, headers=own if "copilot" in path else {})
    folder = gateway.folder / "bridgecore.db.dumps" / path.split("/")[1] / "m"
    name = f"*-{answer.headers['x-bridge-interception-id']}"

    def files() -> tuple[Path, Path] | None:
        found = sorted(folder.glob(f"{name}.*")) if folder.is_dir() else []
        if len(found) < 2 or not found[1].read_bytes().endswith(fake.requests[-1].response):
            return None
        return found[0], found[1]

    request, response = gateways.eventually(files)
    line, fields, sent = parsed(request)
    received = fake.requests[-1]
    assert line.decode() == f"POST {received.target} HTTP/1.1"
    assert json.loads(sent) == json.loads(received.body)
    credential = fields["X-Api-Key"] if path.startswith("/a/") else fields["Authorization"]
    assert len(credential) == 11, credential
    assert gateway.key not in request.read_text()
    line, fields, got = parsed(response)
    assert (line, got) == (b"HTTP/1.1 200", received.response)
    assert fields["Set-Cookie"].startswith("__cf...")
    assert stat.S_IMODE(request.stat().st_mode) == stat.S_IMODE(response.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_gw_d2_passthrough(served: tuple[Gateway, FakeProvider]) -> None:
    """Named after the path, with characters that keep two apart."""
    gateway, _fake = served
    own = {"x-bridge-token": gateway.key, "authorization": "Bearer own"}
    below = gateway.folder / "bridgecore.db.dumps"
    for provider, path, name in (("a", "v1/models", "v1-models"), ("o", "v1/models", "models")):
        assert gateway.ask(f"/{provider}/{path}").status == 200
        gateways.eventually(partial(_first, below / provider / "passthrough", f"*-{name}-????.resp.txt"))
    assert gateway.ask("/copilot-business/models", headers=own).status == 200
    gateways.eventually(partial(_first, below / "copilot-business" / "passthrough", "*-models-????.req.txt"))


def _first(folder: Path, pattern: str) -> Path | None:
    return next(folder.glob(pattern), None)


def test_gw_d4_through_the_gateway(served: tuple[Gateway, FakeProvider]) -> None:
    """A provider that hangs up leaves the reason in a file."""
    gateway, fake = served
    fake.push(Script(cut_after=0), Script(cut_after=0))
    path = "/a/v1/messages"
    answer = gateway.ask(path, BODIES["/anthropic/v1/messages"] | {"model": "cut"})
    folder = gateway.folder / "bridgecore.db.dumps/a/cut"
    name = f"*-{answer.headers['x-bridge-interception-id']}.req_error.txt"
    found = gateways.eventually(partial(_first, folder, name))
    assert "closed the connection before it answered" in found.read_text()


def test_gw_d5_a_provider_without_dumps_has_no_files(served: tuple[Gateway, FakeProvider]) -> None:
    """It is off unless it is asked for."""
    gateway, _fake = served
    assert gateway.ask("/anthropic/v1/messages", BODIES["/anthropic/v1/messages"]).status == 200
    assert not (gateway.folder / "bridgecore.db.dumps/anthropic").exists()
    assert "dumps" not in tomllib.loads((gateway.folder / "bridgecore.toml").read_text())
