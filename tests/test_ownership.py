"""With a central key, what one user's requests have left at a provider is for no other user."""

import gzip
import json
from typing import Any

import pytest

from gatelab import PROVIDERS, GateLab, MakeLab, answer, stream
from gateway import BODIES
from test_gw_answers import event

RESPONSES = "/openai/v1/responses"
CONVERSATIONS = "/openai/v1/conversations"
ASKED = BODIES[RESPONSES]
COMPACT = f"{RESPONSES}/compact"
MADE = answer(b'{"id":"resp_1","status":"completed","output":[{"type":"message","id":"msg_1"}],"store":true}')
CONVERSATION = answer(b'{"id":"conv_1","object":"conversation"}')
OK = answer(b'{"id":"resp_2","status":"completed","output":[]}')

SUBPATHS = [
    pytest.param("GET", f"{RESPONSES}/resp_1", id="response-GET"),
    pytest.param("HEAD", f"{RESPONSES}/resp_1", id="response-HEAD"),
    pytest.param("POST", f"{RESPONSES}/resp_1", id="response-POST"),
    pytest.param("DELETE", f"{RESPONSES}/resp_1", id="response-DELETE"),
    pytest.param("GET", f"{RESPONSES}/resp_1?stream=true&starting_after=1", id="response-query"),
    pytest.param("GET", f"{RESPONSES}/resp%5F1", id="response-escaped"),
    pytest.param("POST", f"{RESPONSES}/resp_1/cancel", id="cancel-POST"),
    pytest.param("GET", f"{RESPONSES}/resp_1/input_items", id="input_items-GET"),
    pytest.param("HEAD", f"{RESPONSES}/resp_1/input_items", id="input_items-HEAD"),
    pytest.param("DELETE", f"{RESPONSES}/resp_1/input_items/msg_1", id="input_items-DELETE"),
    pytest.param("GET", f"{CONVERSATIONS}/conv_1", id="conversation-GET"),
    pytest.param("HEAD", f"{CONVERSATIONS}/conv_1", id="conversation-HEAD"),
    pytest.param("POST", f"{CONVERSATIONS}/conv_1", id="conversation-POST"),
    pytest.param("DELETE", f"{CONVERSATIONS}/conv_1", id="conversation-DELETE"),
    pytest.param("GET", f"{CONVERSATIONS}/c%6Fnv_1", id="conversation-escaped"),
    pytest.param("GET", f"{CONVERSATIONS}/conv_1/items", id="items-GET"),
    pytest.param("POST", f"{CONVERSATIONS}/conv_1/items", id="items-POST"),
    pytest.param("GET", f"{CONVERSATIONS}/conv_1/items/msg_1", id="item-GET"),
    pytest.param("DELETE", f"{CONVERSATIONS}/conv_1/items/msg_1", id="item-DELETE"),
]
"""Every route of a stored object, with every method that it lets through."""

MEMBERS = [
    pytest.param({"previous_response_id": "resp_1"}, id="previous_response_id"),
    pytest.param({"conversation": "conv_1"}, id="conversation-text"),
    pytest.param({"conversation": {"id": "conv_1"}}, id="conversation-object"),
    pytest.param({"conversation": "conv_1", "previous_response_id": None}, id="conversation-and-null"),
    pytest.param({"input": [{"type": "item_reference", "id": "msg_1"}]}, id="item_reference"),
    pytest.param({"input": [{"id": "msg_1"}]}, id="item-without-type"),
    pytest.param({"input": [{"id": "msg_1"}, {"role": "user", "content": "x"}]}, id="item-not-last"),
]
"""Every member of a request that goes on with a stored object."""

MODES = pytest.mark.parametrize("streaming", [False, True], ids=["blocking", "streaming"])


@pytest.fixture
def theirs(make_lab: MakeLab) -> GateLab:
    """A gateway through which ann has made a response and a conversation."""
    return with_objects(make_lab(PROVIDERS))


def with_objects(lab: GateLab) -> GateLab:
    """Have ann make a response and a conversation."""
    lab.provider.push(MADE, CONVERSATION)
    assert lab.ask(RESPONSES, ASKED).status == 200
    assert lab.ask(CONVERSATIONS, b"{}").status == 200
    lab.reset()
    return lab


def refused(lab: GateLab, path: str, body: Any, method: str = "POST", user: str = "bob") -> None:
    """Make sure that the object is not there for *user*, and that the provider has not been asked."""
    got = lab.ask(path, body, method=method, user=user)
    assert got.status == 404
    if method != "HEAD":
        assert "was made with your gateway keys" in got.error["message"]
    assert not lab.provider.requests
    assert not lab.records()


def served(lab: GateLab, path: str, body: Any, method: str = "POST", user: str = "ann", **options: Any) -> None:
    """Make sure that the provider is asked."""
    lab.provider.push(OK)
    assert lab.ask(path, body, method=method, user=user, **options).status == 200
    assert lab.provider.requests[-1].target == path.removeprefix("/openai")


def body_for(method: str) -> bytes | None:
    """Return a body where a method has one."""
    return b"{}" if method == "POST" else None


@pytest.mark.parametrize(("method", "path"), SUBPATHS)
def test_a_stored_object_is_its_users_alone(theirs: GateLab, method: str, path: str) -> None:
    """Another user can neither read nor change nor delete it, and cannot tell that it is there; its owner can."""
    refused(theirs, path, body_for(method), method)
    unknown = path.replace("_1", "_x").replace("F1", "Fx")
    refused(theirs, unknown, body_for(method), method, user="ann")
    served(theirs, path, body_for(method), method)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", [f"{RESPONSES}/resp_1", f"{CONVERSATIONS}/conv_1"])
def test_other_methods_are_nobodys(theirs: GateLab, method: str, path: str) -> None:
    """What is on no list does not reach the provider, its owner's neither."""
    for user in ("ann", "bob"):
        assert theirs.ask(path, b"{}", method=method, user=user).status == 404
    assert not theirs.provider.requests


@MODES
@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("path", [RESPONSES, COMPACT])
def test_a_conversation_goes_on_for_its_user_alone(
    theirs: GateLab, path: str, members: dict[str, Any], streaming: bool
) -> None:
    """Another user cannot build upon it, nothing is recorded of the attempt, and its owner can."""
    body = ASKED | members | {"stream": streaming}
    refused(theirs, path, body)
    served(theirs, path, body)


@pytest.mark.parametrize("object_id", ["resp_1", "conv_1"])
def test_an_object_of_no_ones_is_not_for_its_finder(make_lab: MakeLab, object_id: str) -> None:
    """An object that was not made through this gateway, by whomever, answers to nobody."""
    lab = make_lab(PROVIDERS)
    member = "previous_response_id" if object_id == "resp_1" else "conversation"
    for user in ("ann", "bob"):
        refused(lab, RESPONSES, ASKED | {member: object_id}, user=user)


def test_a_streamed_response_is_its_users_from_its_first_event_on(make_lab: MakeLab) -> None:
    """It can be read and cancelled by its user while it is made, and by nobody else."""
    lab = make_lab(PROVIDERS)
    created = event("response.created", response={"id": "resp_1", "status": "in_progress"})
    lab.provider.push(stream(created, end="silence"))
    visit = lab.begin(RESPONSES, ASKED | {"stream": True, "background": True})
    lab.settle()
    assert visit.got.body == created
    lab.provider.requests.clear()
    cancel = f"{RESPONSES}/resp_1/cancel"
    assert lab.ask(cancel, b"{}", user="bob").status == 404
    assert not lab.provider.requests
    served(lab, cancel, b"{}")
    visit.leave()


def test_the_conversation_of_a_response_is_its_users_too(make_lab: MakeLab) -> None:
    """Where a response tells of the conversation that it belongs to, that one is claimed with it."""
    lab = make_lab(PROVIDERS)
    lab.provider.push(answer(b'{"id":"resp_1","status":"completed","output":[],"conversation":{"id":"conv_1"}}'))
    assert lab.ask(RESPONSES, ASKED).status == 200
    lab.reset()
    refused(lab, f"{CONVERSATIONS}/conv_1/items", None, "GET")
    served(lab, f"{CONVERSATIONS}/conv_1/items", None, "GET")


def test_nobody_takes_over_what_is_anothers(theirs: GateLab) -> None:
    """An answer to bob that bears the id of ann's response changes nothing."""
    theirs.provider.push(MADE)
    assert theirs.ask(RESPONSES, ASKED, user="bob").status == 200
    theirs.reset()
    refused(theirs, f"{RESPONSES}/resp_1", None, "GET")
    served(theirs, f"{RESPONSES}/resp_1", None, "GET")


def test_what_is_not_stored_is_not_claimed(make_lab: MakeLab) -> None:
    """A response that the provider does not keep belongs to nobody."""
    lab = make_lab(PROVIDERS)
    lab.provider.push(answer(MADE.pieces[1].replace(b"true", b"false")))
    assert lab.ask(RESPONSES, ASKED | {"store": False}).status == 200
    lab.reset()
    refused(lab, f"{RESPONSES}/resp_1", None, "GET", user="ann")


@pytest.mark.parametrize(
    "body",
    [
        b'{"input":"x","previous_response_id":"resp_1","previous_response_id":null}',
        b'{"input":"x","previous_response_id":null,"previous_response_id":"resp_1"}',
        b'{"input":"x","previous_respons\\u0065_id":"resp_1"}',
        b'{"input":"x","previous_response_id":"resp\\u005f1"}',
        b'{"input":"x","conversation":{"id":"conv_1","id":null}}',
        b'{"input":"x","conversation":"conv_1","conversation":null}',
        b'{"input":"x","conversation":{"\\u0069d":"conv_1"}}',
        b'{"input":"x","\\u0063onversation":{"id":"conv_1"}}',
    ],
)
def test_no_spelling_hides_an_object(theirs: GateLab, body: bytes) -> None:
    """Whichever of several members a provider takes, and however it is escaped, it is looked at here too."""
    assert json.loads(body)["input"] == "x"
    refused(theirs, RESPONSES, body)
    served(theirs, RESPONSES, body)


def test_with_a_key_of_ones_own_the_provider_decides(theirs: GateLab) -> None:
    """Then the user's own account is asked, in which there is nothing of anybody else's."""
    fields = [("Authorization", "Bearer sk-bobs-own")]
    served(theirs, f"{RESPONSES}/resp_1", None, "GET", user="bob", byok=True, fields=fields)
    served(theirs, RESPONSES, ASKED | {"previous_response_id": "resp_1"}, user="bob", byok=True, fields=fields)
    assert {request.values("authorization")[0] for request in theirs.provider.requests} == {"Bearer sk-bobs-own"}


def test_shared_state_is_shared(make_lab: MakeLab) -> None:
    """A provider whose users trust each other can be told so."""
    lab = with_objects(make_lab(f"{PROVIDERS}shared_state = true\n"))
    served(lab, f"{RESPONSES}/resp_1", None, "GET", user="bob")
    served(lab, RESPONSES, ASKED | {"conversation": "conv_1"}, user="bob")


def test_no_encoding_hides_an_object(theirs: GateLab) -> None:
    """A compressed request is read for what it builds upon."""
    body = gzip.compress(json.dumps(ASKED | {"previous_response_id": "resp_1"}).encode(), mtime=0)
    fields = [("content-encoding", "gzip")]
    assert theirs.ask(RESPONSES, body, user="bob", fields=fields).status == 404
    assert not theirs.provider.requests
    served(theirs, RESPONSES, body, fields=fields)
