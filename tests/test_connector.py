"""From callers to their tools: real MCP servers, and a clock in the test's hands."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import structlog

from bridgeserver.config import McpServerConfig, ToolsConfig
from bridgeserver.errors import BridgeError, StoreError
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.secret import Secret
from bridgeserver.tools.connector import AWAY_S, Connector
from bridgeserver.tools.tool import Toolbox
from bridgeserver.usertokens import UserTokens
from mcplab import PATIENCE_S, McpServer
from tracelab import Spans

ANN = Caller("u-ann", "ann", "k-1", is_admin=False)
BOB = Caller("u-bob", "bob", "k-2", is_admin=False)
FOR_EVER_S = 600.0


class Tokens:
    """Users' tokens, or why there are none."""

    def __init__(self) -> None:
        self.of_user: dict[str, Mapping[str, Secret]] = {}
        self.error: BridgeError | None = None

    async def of(self, user_id: str) -> Mapping[str, Secret]:
        """Return a user's tokens."""
        if self.error is not None:
            raise self.error
        return self.of_user.get(user_id, {})


class Lab:
    """A connector, what it reads, and what it logs."""

    def __init__(self, logs: list[Any]) -> None:
        self.logs = logs
        self.tokens = Tokens()
        self.now = 1000.0
        self._connector = Connector(cast(UserTokens, self.tokens), lambda: self.now)

    @asynccontextmanager
    async def box(self, *servers: McpServerConfig, caller: Caller = ANN, **options: Any) -> AsyncGenerator[Toolbox]:
        """Hold a caller's toolbox."""
        box = await self.connect(*servers, caller=caller, **options)
        assert box is not None
        try:
            yield box
        finally:
            await box.close()

    async def connect(self, *servers: McpServerConfig, caller: Caller = ANN, **options: Any) -> Toolbox | None:
        """Return a caller's toolbox."""
        generation = Generation(1, {}, mcp_servers=servers, tools=ToolsConfig(**options))
        async with asyncio.timeout(PATIENCE_S):
            return await self._connector.connect(caller, generation)


@pytest.fixture(scope="module")
def server() -> Generator[McpServer]:
    """A server that is there."""
    with McpServer() as found:
        yield found


@pytest.fixture
def other() -> Generator[McpServer]:
    """A server for what others must not see."""
    with McpServer() as found:
        yield found


def run(test: Callable[[Lab], Coroutine[Any, Any, None]]) -> list[Any]:
    """Run a test's coroutine, and return what was logged."""

    async def body(logs: list[Any]) -> None:
        await test(Lab(logs))

    with structlog.testing.capture_logs() as logs:
        asyncio.run(body(logs))
    return [log for log in logs if log["log_level"] != "debug"]


async def said(box: Toolbox, tool_id: str, **arguments: Any) -> str:
    """Return the text that a tool answers."""
    tool = box.catalog.find(tool_id)
    assert tool is not None
    return str((await box.call(tool, arguments)).content[0]["text"])


def ids(box: Toolbox) -> list[str]:
    """Return by what models call the tools."""
    return [tool.id for tool in box.catalog.tools]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until it is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.01)


def test_without_servers_there_is_no_toolbox(server: McpServer) -> None:
    """Nor with one that is switched off."""

    async def test(lab: Lab) -> None:
        assert await lab.connect() is None
        assert await lab.connect(server.config(enabled=False)) is None

    run(test)


def test_two_servers_with_the_same_tools_do_not_meet(server: McpServer, other: McpServer) -> None:
    """Each call goes to its own."""

    async def test(lab: Lab) -> None:
        allow = "^(add|whoami)$"
        blue = server.config("one", allow=allow, headers={"X-Team": Secret("blue")})
        red = other.config("two", allow=allow, headers={"X-Team": Secret("red")})
        async with lab.box(red, blue) as box:
            assert ids(box) == ["bmcp_one_add", "bmcp_one_whoami", "bmcp_two_add", "bmcp_two_whoami"]
            assert [await said(box, "bmcp_one_whoami"), await said(box, "bmcp_two_whoami")] == ["blue", "red"]
            assert (box.sessions, box.is_degraded) == (2, False)

    run(test)


def test_a_server_that_is_silent_holds_up_the_first_and_nobody_after(server: McpServer, other: McpServer) -> None:
    """P7: it is waited for as long as connect_timeout_s, then not at all for AWAY_S, and after that again."""

    async def test(lab: Lab) -> None:
        servers = server.config("well", allow="^add$"), other.config("ill")
        with other.mode("silence"):
            async with lab.box(*servers, connect_timeout_s=0.3) as box:
                assert (ids(box), box.is_degraded) == (["bmcp_well_add"], True)
                await until(lambda: "mcp_server_failed" in [log["event"] for log in lab.logs])
            lab.now += AWAY_S - 1
            async with lab.box(*servers, caller=BOB, connect_timeout_s=FOR_EVER_S) as box:
                assert (ids(box), box.is_degraded) == (["bmcp_well_add"], True)
            lab.now += 2
            asked = len(other.ask("/seen"))
            waiting = asyncio.create_task(lab.connect(*servers, connect_timeout_s=FOR_EVER_S))
            await until(lambda: len(other.ask("/seen")) > asked)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])

    logs = run(test)
    assert [(log["event"], log["server"], log["reason"]) for log in logs] == [
        ("mcp_server_failed", "ill", "it did not answer within 0.3 s")
    ]


def test_a_server_that_comes_back_brings_its_tools(other: McpServer) -> None:
    """Into the toolboxes that are there; the log says once that it was away, and once that it is back."""

    async def test(lab: Lab) -> None:
        other.stop()
        config = other.config(allow="^add$")
        async with lab.box(config) as box, lab.box(config, caller=BOB) as bobs:
            assert (ids(box), ids(bobs)) == ([], [])
            other.start()
            await until(lambda: not box.is_degraded and not bobs.is_degraded)
            assert ids(box) == ids(bobs) == ["bmcp_lab_add"]
            assert await said(box, "bmcp_lab_add", a=1, b=2) == "3"

    logs = run(test)
    assert [log["event"] for log in logs] == ["mcp_server_failed", "mcp_server_back"]


def test_a_server_whose_address_was_mended_is_waited_for(server: McpServer) -> None:
    """That it was away is known of the address and not of the name."""

    async def test(lab: Lab) -> None:
        async with lab.box(McpServerConfig(name="lab", url="http://127.0.0.1:9/mcp")) as box:
            assert (ids(box), box.is_degraded) == ([], True)
        async with lab.box(server.config(allow="^add$")) as box:
            assert ids(box) == ["bmcp_lab_add"]

    assert [log["event"] for log in run(test)] == ["mcp_server_failed"]


def test_who_is_refused_is_not_waited_for_by_others(other: McpServer) -> None:
    """The server is there; that it does not let one user in says nothing of another."""

    async def test(lab: Lab) -> None:
        config = other.config(allow="^add$")
        with other.mode("401"):
            async with lab.box(config) as box:
                assert (ids(box), box.is_degraded) == ([], True)
        async with lab.box(config, caller=BOB) as box:
            assert ids(box) == ["bmcp_lab_add"]

    (log,) = run(test)
    assert (log["event"], log["reason"]) == ("mcp_server_failed", "the server answered with status 401")


def test_a_server_sees_each_users_own_token(server: McpServer) -> None:
    """Who has none has the tools of the other servers; nobody's token is seen by another server."""

    async def test(lab: Lab) -> None:
        lab.tokens.of_user = {"u-ann": {"own": Secret("anns-token")}}
        servers = server.config("own", user_token=True, allow="^whoami$"), server.config("all", allow="^whoami$")
        async with lab.box(*servers) as box, lab.box(*servers, caller=BOB) as bobs:
            assert ids(box) == ["bmcp_all_whoami", "bmcp_own_whoami"]
            assert await said(box, "bmcp_own_whoami") == "Bearer anns-token"
            assert await said(box, "bmcp_all_whoami") == "nobody"
            assert (ids(bobs), bobs.is_degraded) == (["bmcp_all_whoami"], False)
        assert await lab.connect(servers[0], caller=BOB) is None

    assert run(test) == []


def test_tokens_that_cannot_be_read_leave_the_other_servers(server: McpServer) -> None:
    """The log says whose and why."""

    async def test(lab: Lab) -> None:
        lab.tokens.error = StoreError("the store cannot be read")
        servers = server.config("own", user_token=True), server.config("all", allow="^add$")
        async with lab.box(*servers) as box:
            assert ids(box) == ["bmcp_all_add"]

    (log,) = run(test)
    assert (log["event"], log["user"], log["reason"]) == ("mcp_tokens_unread", "ann", "the store cannot be read")


def test_more_tools_than_are_offered(other: McpServer) -> None:
    """The first by their ids are taken, and the log says how many were not."""

    async def test(lab: Lab) -> None:
        with other.mode("list:many"):
            async with lab.box(other.config(), max_tools=3) as box:
                assert ids(box) == ["bmcp_lab_tool_0000", "bmcp_lab_tool_0001", "bmcp_lab_tool_0002"]

    (log,) = run(test)
    assert (log["event"], log["tools"]) == ("mcp_tools_left_out", 1997)


def test_the_catalog_is_another_one_only_when_tools_change(other: McpServer) -> None:
    """What was prepared of it for requests is kept as long."""

    async def test(lab: Lab) -> None:
        async with lab.box(other.config(allow="^(learn|juggle)$")) as box:
            before = box.catalog
            assert await said(box, "bmcp_lab_learn", name="swim") == "learnt"
            await until(lambda: len(other.asked("tools/list")) > 1)
            assert box.catalog is before
            assert await said(box, "bmcp_lab_learn", name="juggle") == "learnt"
            await until(lambda: box.catalog is not before)
            assert ids(box) == ["bmcp_lab_juggle", "bmcp_lab_learn"]

    run(test)


def test_gw_t11_spans_of_sessions(server: McpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """gw-T11: one of the manager, one a server, and one of its list with the number of tools."""
    spans = Spans.install(monkeypatch)

    async def test(lab: Lab) -> None:
        async with lab.box(server.config(allow="^add$")):
            pass

    run(test)
    attributes = {"mcp_proxy_name": "lab", "mcp_server_name": "lab", "mcp_server_url": server.url}
    assert spans.attributes() == {
        "ServerProxyManager.Init": {},
        "StreamableHTTPServerProxy.Init": attributes,
        "StreamableHTTPServerProxy.Init.fetchTools": {**attributes, "mcp_tool_count": 8},
    }
    assert not spans.failures


def test_a_session_that_fails_fails_its_span(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the reason."""
    spans = Spans.install(monkeypatch)

    async def test(lab: Lab) -> None:
        async with lab.box(McpServerConfig(name="away", url="http://127.0.0.1:9/mcp")):
            pass

    run(test)
    assert list(spans.failures) == ["StreamableHTTPServerProxy.Init"]
    assert "ConnectError" in spans.failures["StreamableHTTPServerProxy.Init"]
