"""A running gateway answers as its OpenAPI document says, to what the document allows and to what it does not."""

import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

import gateway as gateways
from bridgeserver.api.routes import OPERATIONS, ROOT, Operation
from bridgeserver.store import open_store
from gateway import Gateway
from querylab import fill, request

EXAMPLES = 4
STORED = 1200
"""More than two parts of an export."""

NAMES = "not_a_server_error", "status_code_conformance", "content_type_conformance", "response_schema_conformance"
KNOWN: Any = importlib.import_module("schemathesis.checks")  # whose types are not whole
CHECKS: list[Any] = [getattr(KNOWN, name) for name in NAMES]
REFUSES: Any = KNOWN.negative_data_rejection

ALLOWED, NOT_ALLOWED = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
CASES = [(operation, ALLOWED) for operation in OPERATIONS] + [
    (operation, NOT_ALLOWED) for operation in OPERATIONS if operation.parameters or operation.body
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose store holds some requests, and an administrator's key."""
    folder = tmp_path_factory.mktemp("openapi")
    gateways.write_config(folder, "http://127.0.0.1:9")
    key = gateways.make_key(folder, "root", is_admin=True)
    store = open_store(f"sqlite:///{folder}/bridgecore.db")
    fill(store, *(request(number, session_id=f"s{number % 3}") for number in range(STORED)), roots={4: 1})
    store.close()
    with gateways.started(folder, key) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def document(served: Gateway) -> Any:
    """The document as it is served."""
    answer = served.ask(f"{ROOT}/openapi.json")
    assert answer.status == 200
    return schemathesis.openapi.from_dict(json.loads(answer.body))


@pytest.mark.parametrize(
    ("operation", "mode"), CASES, ids=[f"{operation.name}-{mode.name.lower()}" for operation, mode in CASES]
)
def test_answers_are_as_described(served: Gateway, document: Any, operation: Operation, mode: GenerationMode) -> None:
    """No answer is a failure of the gateway, and each has a status, a type and a shape that the document has.

    What it does not allow in a query is refused.
    """
    described = document[operation.path][operation.method]
    # What a body may not be is not all in its schema; of a query all of it is.
    refuses = mode is NOT_ALLOWED and bool(operation.parameters)

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(described.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        case.call_and_validate(
            base_url=served.url,
            headers={"authorization": f"Bearer {served.key}"},
            checks=[*CHECKS, REFUSES] if refuses else CHECKS,
        )

    answers()


def test_an_export_comes_whole_through_both_processes(served: Gateway) -> None:
    """It has every row once, in one answer, and a user's key gets that user's."""
    exported = f"{ROOT}/interceptions/export?format=jsonl"
    answer = served.ask(exported)
    ids = [json.loads(line)["id"] for line in answer.body.splitlines()]
    assert ids == [f"i{number:04d}" for number in range(STORED)]
    assert answer.headers["content-disposition"] == 'attachment; filename="interceptions.jsonl"'
    assert answer.headers["transfer-encoding"] == "chunked"
    headers = {"authorization": f"Bearer {gateways.make_key(served.folder, 'nobody-yet')}"}
    assert served.ask(exported, headers=headers).body == b""
    assert served.ask(f"{ROOT}/interceptions/i0001", headers=headers).status == 404
    assert served.ask(f"{ROOT}/interceptions/i0001").status == 200
