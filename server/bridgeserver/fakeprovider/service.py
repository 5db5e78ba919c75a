"""From a request to what is written to its connection."""

from collections.abc import Callable, Mapping
from itertools import count

from bridgeserver import content
from bridgeserver.errors import ClientError
from bridgeserver.fakeprovider.answer import Answer, failed, gzipped, halved, json_answer
from bridgeserver.fakeprovider.asked import read_asked
from bridgeserver.fakeprovider.catalogue import DEFAULT
from bridgeserver.fakeprovider.faults import Family, not_json, without_credentials
from bridgeserver.fakeprovider.generation import GENERATING, Generator
from bridgeserver.fakeprovider.heads import make_head
from bridgeserver.fakeprovider.models import list_models, one_model
from bridgeserver.fakeprovider.objects import Objects
from bridgeserver.fakeprovider.plan import Plan
from bridgeserver.fakeprovider.received import Received
from bridgeserver.fakeprovider.routes import Route, find_route
from bridgeserver.fakeprovider.script import Fault, Script
from bridgeserver.fakeprovider.seed import make_seed

BODY_LIMIT_BYTES = 256 << 20
"""Of a compressed request, when it is unpacked."""

_CREDENTIALS = ("x-api-key", "authorization", "api-key")


class Service:
    """Answers requests; all its state is what the provider keeps."""

    def __init__(self, scripts: Mapping[str, Script], clock: Callable[[], float], *, is_unique: bool) -> None:
        self._scripts = scripts
        self._clock = clock
        self._salts = count(1) if is_unique else None
        self._objects = Objects()
        self._generator = Generator(scripts)

    def plan(self, received: Received, script: Script | None, *, is_http_1_0: bool, closes: bool) -> Plan:
        """Answer by *script*, or by the script of the model's name."""
        if script is not None and script.raw is not None:
            closes = script.close is not False
            return Plan(script, 0, b"", script.raw, is_chunked=False, is_stream=True, closes=closes)
        salt = next(self._salts) if self._salts else 0
        route = find_route(received.path)
        family = _family(route, received)
        script, answer = self._answer(received, route, family, salt, script)
        if script.encoding == "gzip":
            answer = gzipped(answer)
        if script.steps_through:
            answer = halved(answer)
        is_chunked = answer.is_stream and not is_http_1_0
        closes = closes or script.close is True or (answer.is_stream and is_http_1_0)
        seed = answer.seed or make_seed(salt, received.path.encode(), received.body)
        head = make_head(answer, family, seed, script.headers, is_chunked=is_chunked, closes=closes)
        pieces = (b"",) if received.method == "HEAD" else answer.pieces
        return Plan(script, answer.status, head, pieces, is_chunked, answer.is_stream, closes)

    def _answer(
        self, received: Received, route: Route | None, family: Family, salt: int, script: Script | None
    ) -> tuple[Script, Answer]:
        shown = script or DEFAULT
        fault = _refusal(received, route, family, shown)
        if fault or route is None:
            return shown, failed(family, fault or Fault(404))
        try:
            body = _plain_body(received)
        except ClientError as error:
            return shown, failed(family, Fault(error.status, message=str(error)))
        created_at = int(self._clock())
        if route.name not in GENERATING:
            return shown, self._look_up(received, route, family, body, salt, created_at)
        script, answer = self._generator.generate(route.name, family, body, salt, created_at, script)
        if answer.kept_id:
            self._objects.keep(answer.kept_id, answer.kept, body)
        return script, answer

    def _look_up(
        self, received: Received, route: Route, family: Family, body: bytes, salt: int, created_at: int
    ) -> Answer:
        """Answer where no model does."""
        if route.name == "events":
            return json_answer({})
        if route.name == "models":
            return list_models(family, self._scripts)
        if route.name == "model":
            return one_model(family, route.object_id)
        asked = read_asked(body, salt, created_at)
        if asked is None:
            return failed(family, not_json())
        if route.name == "count_tokens":
            script = self._scripts.get(asked.model, DEFAULT)
            total = script.input_tokens + script.cache_read_tokens + script.cache_write_tokens
            return json_answer({"input_tokens": total})
        return self._objects.answer(route, received, asked)


def _family(route: Route | None, received: Received) -> Family:
    """Tell by the path, or else by the headers that Anthropic's clients send."""
    if route is not None and route.family is not None:
        return route.family
    is_anthropic = received.header("anthropic-version") or received.header("x-api-key")
    return "anthropic" if is_anthropic or "anthropic" in received.path else "openai"


def _refusal(received: Received, route: Route | None, family: Family, script: Script) -> Fault | None:
    """Return what forbids an answer whatever the body says."""
    if script.fail and script.stream_error_after is None:
        return script.fail
    if route is None:
        return Fault(404, message=f"Invalid URL ({received.method} {received.path})")
    if received.method not in route.methods:
        return Fault(405)
    if route.name != "events" and not any(map(received.header, _CREDENTIALS)):
        return without_credentials(family)
    return None


def _plain_body(received: Received) -> bytes:
    encoding = received.header("content-encoding")
    return content.decode(received.body, encoding, BODY_LIMIT_BYTES) if encoding else received.body
