"""A stored response that the gateway made of several turns: its client knows the first, the provider the last."""

import gzip
import json
import sqlite3
from contextlib import closing

import pytest

from bridgeserver.records import ContinuedResponse, ProviderObject, now_us
from bridgeserver.store import open_store
from gatelab import PROVIDERS, GateLab, MakeLab
from toollab import RESPONSES, Box, events_of, give

LIST = "bmcp_coder_coder_list_workspaces"


@pytest.fixture
def lab(make_lab: MakeLab) -> GateLab:
    """Return a gateway whose tools and providers are ours."""
    lab = make_lab(PROVIDERS)
    give(lab, Box())
    return lab


def two_turns(lab: GateLab) -> list[ContinuedResponse]:
    """Have a stream of two turns, t1 and t2, and return what was recorded of its continuation."""
    lab.provider.push(
        RESPONSES.turn("t1", [RESPONSES.call("c1", LIST, "{}")], (1, 2), streaming=True),
        RESPONSES.turn("t2", [RESPONSES.say("ok")], (3, 4), streaming=True),
    )
    events = events_of(lab.ask(RESPONSES.path, {**RESPONSES.request, "stream": True}).body)
    assert {each["response"]["id"] for each in events if "response" in each} == {"t1"}
    return [record for record in lab.records() if isinstance(record, ContinuedResponse)]


def going_on(lab: GateLab, body: bytes, *fields: tuple[str, str], user: str = "ann") -> bytes | int:
    """Send a request that goes on, and return what the provider got of it, or the status if it got nothing."""
    lab.reset()
    lab.provider.push(RESPONSES.turn("t3", [RESPONSES.say("yes")], (1, 2), streaming=False))
    got = lab.ask(RESPONSES.path, body, user=user, fields=fields)
    return lab.provider.requests[0].body if lab.provider.requests else got.status


def test_a_stream_has_one_id_and_goes_on_from_its_last_turn(lab: GateLab) -> None:
    """The SDKs check the id; the provider's first turn lacks the results, and all that was said after."""
    (record,) = two_turns(lab)
    assert (record.provider_name, record.first_id, record.last_id) == ("openai", "t1", "t2")
    sent = going_on(lab, b'{"model":"m", "previous_response_id" : "t\\u0031","input":"and?"}')
    assert isinstance(sent, bytes)
    assert sent.endswith(b'"model":"m", "previous_response_id" : "t2","input":"and?"}')
    assert isinstance(going_on(lab, b'{"previous_response_id":"t2","model":"m","input":"x"}'), bytes)


def test_what_goes_on_from_elsewhere_is_left_alone(lab: GateLab) -> None:
    """A response of one turn is known by its own id, and null means none."""
    two_turns(lab)
    for value in (b'"t3"', b"null"):
        going_on(lab, b'{"model":"m","input":"x"}')
        sent = going_on(lab, b'{"model":"m","previous_response_id":%b,"input":"x"}' % value)
        assert isinstance(sent, bytes)
        assert b'"previous_response_id":%b,' % value in sent


def test_an_encoded_request_goes_on_too(lab: GateLab) -> None:
    """It is edited, and so it is sent as it is."""
    two_turns(lab)
    body = gzip.compress(b'{"model":"m","input":"x","previous_response_id":"t1"}')
    sent = going_on(lab, body, ("content-encoding", "gzip"))
    assert isinstance(sent, bytes)
    assert json.loads(sent)["previous_response_id"] == "t2"
    assert not lab.provider.requests[0].values("content-encoding")
    assert lab.provider.requests[0].values("content-length") == [str(len(sent))]


def test_another_user_cannot_go_on(lab: GateLab) -> None:
    """Whose response it is, is asked of the id that the client sent."""
    two_turns(lab)
    for response_id in ("t1", "t2"):
        body = json.dumps({"model": "m", "input": "x", "previous_response_id": response_id}).encode()
        assert going_on(lab, body, user="bob") == 404


def test_another_worker_goes_on_by_the_store(lab: GateLab) -> None:
    """What is not in the worker's memory is looked up."""
    with_stored(lab)
    sent = going_on(lab, b'{"previous_response_id":"a1","model":"m","input":"x"}')
    assert isinstance(sent, bytes)
    assert json.loads(sent)["previous_response_id"] == "a9"


def test_a_store_that_fails_leaves_the_id_as_it_is(lab: GateLab) -> None:
    """The provider still knows that response; that is better than none."""
    with_stored(lab)
    with closing(sqlite3.connect(lab.database)) as connection:
        connection.execute("DROP TABLE continued_responses")
    sent = going_on(lab, b'{"previous_response_id":"a1","model":"m","input":"x"}')
    assert isinstance(sent, bytes)
    assert json.loads(sent)["previous_response_id"] == "a1"


def with_stored(lab: GateLab) -> None:
    """Have ann's response a1, of which a9 is the last turn, in the store."""
    store = open_store(f"sqlite:///{lab.database}")
    store.apply(
        [
            ProviderObject("openai", "a1", lab.user_ids["ann"], now_us()),
            ContinuedResponse("openai", "a1", "a9", now_us()),
        ]
    )
    store.close()
