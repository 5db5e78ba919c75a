"""A gateway that speaks TLS to its clients."""

import http.client
import json
import signal
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

import gateway as gateways
from bridgeserver import fakeprovider
from gateway import BODIES

CHAT = "/openai/v1/chat/completions"


@pytest.fixture
def trusting(tmp_path: Path) -> ssl.SSLContext:
    """Write a certificate and its key into the folder, and return the context of a client that trusts it."""
    authority: Any = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(str(tmp_path / "cert.pem"), append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


TLS = 'tls_cert = "cert.pem"\ntls_key = "key.pem"'


def test_gw_h20_requests_and_streams_over_tls(tmp_path: Path, trusting: ssl.SSLContext) -> None:
    """On one connection, with the protocol that both speak, until the client asks to close; then it stops as ever.

    The provider is not told that the client came by TLS, which the reference does: where a request came from is not
    its business.
    """
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server=TLS)
        with gateways.running(tmp_path) as gateway:
            assert gateway.url.startswith("https://127.0.0.1:")
            connection = http.client.HTTPSConnection("127.0.0.1", gateway.port, context=trusting, timeout=30)
            headers = {"authorization": f"Bearer {gateway.key}"}
            for stream in (False, True, False):
                connection.request("POST", CHAT, json.dumps(BODIES[CHAT] | {"stream": stream}), headers)
                with connection.getresponse() as response:
                    assert response.status == 200
                    assert response.read()
            assert connection.sock.selected_alpn_protocol() == "http/1.1"
            names = {name.lower() for request in fake.requests for name, _value in request.headers}
            assert "host" in names
            assert not {name for name in names if name.startswith("x-forwarded-")}
            connection.request("GET", "/nowhere", headers={"connection": "close"})
            with connection.getresponse() as response:
                assert response.status == 401
            connection.close()
            assert gateway.stop(signal.SIGTERM) == 0
