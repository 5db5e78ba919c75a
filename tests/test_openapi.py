"""A running gateway answers as its OpenAPI document says, to what the document allows and to what it does not."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

import gateway as gateways
from bridgeserver.api.routes import OPERATIONS, ROOT, Operation
from bridgeserver.store import open_store
from gateway import Gateway
from querylab import fill, request

EXAMPLES = 4
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

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
    fill(store, *(request(number, session_id=f"s{number % 3}") for number in range(9)), roots={4: 1})
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
        suppress_health_check=list(HealthCheck),
    )
    @given(described.as_strategy(generation_mode=mode))
    def answers(case: Any) -> None:
        case.call_and_validate(
            base_url=served.url,
            headers={"authorization": f"Bearer {served.key}"},
            checks=[*CHECKS, negative_data_rejection] if refuses else CHECKS,
        )

    answers()
