"""Signatures for AWS, and where their credentials come from."""

import hashlib
import hmac
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from botocore.credentials import RefreshableCredentials
from hypothesis import given
from hypothesis import strategies as st

from bridgeserver.bedrock.signing import (
    MADE_ANEW,
    Credentials,
    CredentialSource,
    Signer,
    load_credentials,
)
from bridgeserver.bedrock.translation import invoke_path
from bridgeserver.config.bedrock import base_url_of, region_of
from bridgeserver.errors import CredentialsMissing
from bridgeserver.secret import Secret

KEY, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "session-token=="
REGION = "eu-west-1"
HOST = f"bedrock-runtime.{REGION}.amazonaws.com"
FIELDS = [(b"host", HOST.encode()), (b"content-type", b"application/json")]
PAIR = CredentialSource(KEY, Secret(SECRET))
MODEL = "eu.anthropic.claude-opus-4-5-20251101-v1:0"


@pytest.fixture(autouse=True)
def _no_aws_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the credentials of whoever runs the tests, and of the machine, out of them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("NO_PROXY", "*")


def signature(method: str, url: str, fields: dict[str, str], body: bytes, scope: str, secret: str) -> str:
    """Return the signature as "Create a signed AWS API request" of AWS's IAM guide says, written anew from it."""
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/-_.~")  # every segment is encoded once more
    lines = "".join(f"{name}:{fields[name].strip()}\n" for name in sorted(fields))
    hashed = hashlib.sha256(body).hexdigest()
    canonical = "\n".join([method, path, parts.query, lines, ";".join(sorted(fields)), hashed])
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", fields["x-amz-date"], scope, hashed])
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def assert_signed(
    url: str, body: bytes, added: list[tuple[bytes, bytes]], given: list[tuple[bytes, bytes]], source: CredentialSource
) -> None:
    fields = {name.decode(): value.decode() for name, value in given + added}
    authorization = fields.pop("authorization")
    scope = f"{fields['x-amz-date'][:8]}/{REGION}/bedrock/aws4_request"
    assert source.access_key_secret is not None
    found = signature("POST", url, fields, body, scope, source.access_key_secret.reveal())
    assert authorization == (
        f"AWS4-HMAC-SHA256 Credential={source.access_key}/{scope}, "
        f"SignedHeaders={';'.join(sorted(fields))}, Signature={found}"
    )


def test_the_recomputation_is_that_of_the_published_example() -> None:
    """AWS's suite of signatures, `get-vanilla` and `post-x-www-form-urlencoded`, by what the other tests rely on."""
    fields = {"host": "example.amazonaws.com", "x-amz-date": "20150830T123600Z"}
    scope = "20150830/us-east-1/service/aws4_request"
    found = signature("GET", "https://example.amazonaws.com/", fields, b"", scope, SECRET)
    assert found == "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
    fields["content-type"] = "application/x-www-form-urlencoded"
    found = signature("POST", "https://example.amazonaws.com/", fields, b"Param1=value1", scope, SECRET)
    assert found == "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"


@pytest.mark.parametrize("source", [PAIR, PAIR._replace(session_token=Secret(TOKEN))], ids=["pair", "token"])
@pytest.mark.parametrize("model", [MODEL, "arn:aws:bedrock:eu-west-1:1:application-inference-profile/a b"])
def test_a_request_is_signed(source: CredentialSource, model: str) -> None:
    """Host, content type, date, token and body are signed, whatever is encoded in the path."""
    url = base_url_of(REGION) + invoke_path(model, stream=True)
    added = Signer(REGION, "bedrock", load_credentials(source, REGION)).sign("POST", url, FIELDS, b'{"a":1}')
    names = [name for name, _value in added]
    assert names == [b"authorization", b"x-amz-date", *([b"x-amz-security-token"] if source.session_token else [])]
    assert_signed(url, b'{"a":1}', added, FIELDS, source)


@given(st.binary(max_size=64), st.text(st.characters(codec="ascii"), max_size=12))
def test_any_body_and_model_is_signed(body: bytes, model: str) -> None:
    """The signature holds for every body, and for every model that a path can name."""
    url = base_url_of(REGION) + invoke_path(f"m{model}", stream=False)
    added = Signer(REGION, "bedrock", load_credentials(PAIR, REGION)).sign("POST", url, FIELDS, body)
    assert_signed(url, body, added, FIELDS, PAIR)


def test_only_what_the_gateway_sets_is_signed() -> None:
    """A proxy may change the other fields, and nobody's forged ones of the signature count."""
    url = base_url_of(REGION) + invoke_path(MODEL, stream=False)
    mine = [*FIELDS, (b"x-amzn-bedrock-trace", b"ENABLED"), (b"x-amz-thing", b"1")]
    others = [(b"user-agent", b"x"), (b"accept", b"*/*"), (b"content-length", b"2"), (b"anthropic-version", b"2023")]
    forged = [(name, b"20200101T000000Z") for name in MADE_ANEW]
    added = Signer(REGION, "bedrock", load_credentials(PAIR, REGION)).sign(
        "POST", url, [*mine, *others, *forged], b"{}"
    )
    assert_signed(url, b"{}", added, [*FIELDS, (b"x-amz-thing", b"1")], PAIR)


def test_a_host_with_a_port_is_signed_as_it_is_sent() -> None:
    """The field that is sent is the one that counts, and not what the URL would make of it."""
    url, fields = "https://proxy.test:443/base/model/m/invoke", [(b"host", b"proxy.test:443"), FIELDS[1]]
    added = Signer(REGION, "bedrock", load_credentials(PAIR, REGION)).sign("POST", url, fields, b"")
    assert_signed(url, b"", added, fields, PAIR)


@pytest.mark.parametrize(
    ("base_url", "region"),
    [
        ("https://bedrock-runtime.eu-west-1.amazonaws.com", "eu-west-1"),
        ("https://BEDROCK-RUNTIME.us-gov-west-1.amazonaws.com:443/x", "us-gov-west-1"),
        ("https://bedrock-runtime-fips.us-east-2.amazonaws.com", "us-east-2"),
        ("https://bedrock-runtime.cn-north-1.amazonaws.com.cn/", "cn-north-1"),
        ("https://bedrock-runtime.us-west-2.api.aws", "us-west-2"),
        ("https://bedrock-mantle.eu-west-1.api.aws/anthropic", "eu-west-1"),
        ("https://vpce-0a1b-2c.bedrock-runtime.ap-southeast-2.vpce.amazonaws.com", "ap-southeast-2"),
        ("https://bedrock.proxy.test", None),
        ("https://eu-west-1.amazonaws.com", None),
        ("https://bedrock-runtime.eu-west-1.amazonaws.com.evil.test", None),
        ("https://[::1", None),
        ("", None),
    ],
)
def test_the_region_of_a_host(base_url: str, region: str | None) -> None:
    """AWS's hosts name their region; no other one is taken for such a host."""
    assert region_of(base_url) == region


@pytest.mark.parametrize("region", ["eu-west-1", "cn-north-1", "us-gov-east-1"])
def test_a_region_has_a_host(region: str) -> None:
    """The host that is made for a region names it."""
    assert region_of(base_url_of(region)) == region


def test_gw_b2_no_credentials_anywhere() -> None:
    """The message says where they were looked for."""
    with pytest.raises(CredentialsMissing, match=r"^no AWS credentials found: neither keys .*$"):
        load_credentials(CredentialSource(), REGION)


@pytest.mark.parametrize("token", [None, TOKEN], ids=["gw-B2-environment", "gw-B2-environment-token"])
def test_the_environment_gives_credentials(monkeypatch: pytest.MonkeyPatch, token: str | None) -> None:
    """The start of botocore's chain."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    found = load_credentials(CredentialSource(), REGION)
    assert (found.frozen().access_key, found.frozen().secret_key, found.frozen().token) == (KEY, SECRET, token)
    assert found.is_fresh()
    assert found.is_usable()


def test_half_an_environment_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chain does not silently go on to somebody else's credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    with pytest.raises(CredentialsMissing, match=r"^no AWS credentials found: PartialCredentialsError: .*SECRET"):
        load_credentials(CredentialSource(), REGION)


def test_a_profile_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that is named wins over the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "other")
    (tmp_path / "credentials").write_text(f"[team]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    assert load_credentials(CredentialSource(profile="team"), REGION).frozen().access_key == KEY
    with pytest.raises(CredentialsMissing, match=r"profile \(nobody\) could not be found$"):
        load_credentials(CredentialSource(profile="nobody"), REGION)


def test_what_a_process_writes_is_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failing credential process may have written a secret; neither the message nor the log repeats it."""
    (tmp_path / "config").write_text(f"[profile team]\ncredential_process = sh -c 'echo {SECRET} >&2; exit 1'\n")
    with caplog.at_level(logging.DEBUG), pytest.raises(CredentialsMissing) as failure:
        load_credentials(CredentialSource(profile="team"), REGION)
    assert str(failure.value) == "no AWS credentials found: CredentialRetrievalError"
    assert SECRET not in caplog.text


class Sts(ThreadingHTTPServer):
    """A stand-in for AWS's Security Token Service."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[dict[str, list[str]]] = []
        self.shown: list[str] = []
        self.lifetime = timedelta(hours=1)
        self.refuses = False


class _Answers(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        sts = self.server
        assert isinstance(sts, Sts)
        sts.asked.append(parse_qs(self.rfile.read(int(self.headers["content-length"])).decode()))
        sts.shown.append(self.headers["authorization"])
        until = (datetime.now(UTC) + sts.lifetime).strftime("%Y-%m-%dT%H:%M:%SZ")
        if sts.refuses:
            text = f"<Error><Code>AccessDenied</Code><Message>signed with {TOKEN}</Message></Error>"
            body = f"<ErrorResponse>{text}</ErrorResponse>".encode()
        else:
            keys = f"<AccessKeyId>ROLE{len(sts.asked)}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
            keys += f"<SessionToken>{TOKEN}</SessionToken><Expiration>{until}</Expiration>"
            result = f"<AssumeRoleResult><Credentials>{keys}</Credentials></AssumeRoleResult>"
            body = f"<AssumeRoleResponse>{result}</AssumeRoleResponse>".encode()
        self.send_response(403 if sts.refuses else 200)
        self.send_header("content-type", "text/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Write nothing."""
        del format, args


@pytest.fixture
def sts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sts]:
    server = Sts()
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


ROLE = PAIR._replace(role_arn="arn:aws:iam::123456789012:role/bridge", external_id="chosen-once")


def test_a_role_is_taken(sts: Sts) -> None:
    """The role's credentials sign, and AWS was told the external id."""
    found = load_credentials(ROLE, REGION)
    (asked,) = sts.asked
    assert (asked["RoleArn"], asked["ExternalId"]) == ([ROLE.role_arn], ["chosen-once"])
    assert f"Credential={KEY}/" in sts.shown[0]
    assert f"/{REGION}/sts/" in sts.shown[0]
    assert (found.is_fresh(), found.is_usable()) == (True, True)
    url = base_url_of(REGION) + invoke_path(MODEL, stream=False)
    added = Signer(REGION, "bedrock", found).sign("POST", url, FIELDS, b"{}")
    assert dict(added)[b"x-amz-security-token"] == TOKEN.encode()
    assert_signed(url, b"{}", added, FIELDS, ROLE._replace(access_key="ROLE1"))


def test_a_role_needs_no_external_id(sts: Sts) -> None:
    """Without one none is sent."""
    load_credentials(ROLE._replace(external_id=""), REGION)
    assert "ExternalId" not in sts.asked[0]


def test_a_profile_may_name_a_role(sts: Sts, tmp_path: Path) -> None:
    """It is taken in the provider's region too, with the keys of the profile that it names."""
    lines = ["[profile team]", f"role_arn = {ROLE.role_arn}", "source_profile = base", "[profile base]"]
    lines += [f"aws_access_key_id = {KEY}", f"aws_secret_access_key = {SECRET}"]
    (tmp_path / "config").write_text("\n".join(lines))
    found = load_credentials(CredentialSource(profile="team"), REGION)
    assert found.frozen().access_key == "ROLE1"
    assert f"Credential={KEY}/" in sts.shown[0]
    assert f"/{REGION}/sts/" in sts.shown[0]


def test_a_role_is_taken_again_in_time(sts: Sts) -> None:
    """What ends soon is usable and no longer fresh; what has ended is neither, and after a refresh it is both."""
    sts.lifetime = timedelta(minutes=12)
    found = load_credentials(ROLE, REGION)
    assert (found.is_fresh(), found.is_usable()) == (False, True)
    sts.lifetime = timedelta(hours=1)
    found.refresh()
    assert (found.is_fresh(), found.frozen().access_key) == (True, "ROLE2")
    found.refresh()
    assert len(sts.asked) == 2


def test_a_role_that_is_refused(sts: Sts) -> None:
    """AWS's code is told, and not its text, which may hold what was signed."""
    sts.refuses = True
    with pytest.raises(CredentialsMissing) as failure:
        load_credentials(ROLE, REGION)
    assert str(failure.value) == "no AWS credentials found: AWS answered AccessDenied to AssumeRole"


def test_a_refused_refresh_waits_while_the_old_ones_are_good(sts: Sts) -> None:
    """Nobody is refused because AWS was in trouble some minutes before the end."""
    sts.lifetime = timedelta(minutes=12)
    found = load_credentials(ROLE, REGION)
    sts.refuses = True
    found.refresh()
    assert (found.is_fresh(), found.is_usable(), found.frozen().access_key) == (False, True, "ROLE1")


def test_what_has_run_out_does_not_sign() -> None:
    """Credentials that nobody could refresh in time are not shown to AWS."""

    def refuse() -> None:
        raise OSError(SECRET)

    now = datetime.now(UTC)
    held = RefreshableCredentials(
        KEY, SECRET, TOKEN, now + timedelta(hours=1), refuse, "test", time_fetcher=lambda: now
    )
    found = Credentials(held)
    with pytest.raises(CredentialsMissing, match=r"not loaded yet$"):
        found.frozen()
    assert (found.is_fresh(), found.is_usable()) == (False, False)
    found.refresh()
    assert (found.is_fresh(), found.is_usable()) == (True, True)
    now += timedelta(minutes=59, seconds=45)
    assert (found.is_fresh(), found.is_usable()) == (False, False)
    with pytest.raises(CredentialsMissing, match=r"^no AWS credentials found: OSError$"):
        found.refresh()


def test_botocore_is_loaded_for_nobody_who_does_not_need_it() -> None:
    """Importing the package costs no gateway without Bedrock anything, and works without the extra."""
    check = (
        "import sys; sys.modules['botocore'] = None\n"
        "from bridgeserver.bedrock import eventstream, signing, translation\n"
        "try: signing.load_credentials(signing.CredentialSource(), 'eu-west-1')\n"
        "except Exception as exc: print(exc)"
    )
    ran = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert ran.stdout == "botocore is not installed, and Bedrock needs it: install `bridgecore[bedrock]`\n"
