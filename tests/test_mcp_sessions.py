"""Sessions with MCP servers: real servers in processes of their own, of both generations of the protocol.

Rows P of the acceptance tables carry their numbers.
"""

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from bridgeserver.errors import ToolError
from bridgeserver.secret import Secret
from bridgeserver.tools.session import OFFERED_BYTES, TOOL_BYTES
from mcplab import PATIENCE_S, McpServer, session_with

TOOLS = ["add", "everything", "fail", "large", "learn", "odd.name/with spaces", "wait", "whoami"]


@pytest.fixture(scope="module", params=["new", "old"])
def server(request: pytest.FixtureRequest) -> Generator[McpServer]:
    """A server that speaks the newest version of the protocol, and one of before, with sessions."""
    with McpServer(*(["--old"] if request.param == "old" else [])) as found:
        yield found


@pytest.fixture
def own(request: pytest.FixtureRequest) -> Generator[McpServer]:
    """A server for tests that stop it or change what it has."""
    with McpServer(*getattr(request, "param", ())) as found:
        yield found


both = pytest.mark.parametrize("own", [(), ("--old",)], ids=["new", "old"], indirect=True)


def run(test: Any) -> None:
    """Run a test's coroutine."""
    asyncio.run(test)


def test_lists_and_calls(server: McpServer) -> None:
    """The tools are there as soon as the session is, in the order of their names."""

    async def test() -> None:
        async with session_with(server.config()) as held:
            assert held.session.is_connected
            assert held.session.failure == ""
            assert held.names() == TOOLS
            add = held.session.tools[0]
            assert add.description == "Add two numbers."
            assert add.schema["required"] == ["a", "b"]
            assert await held.said("add", a=2, b=40) == "42"

    run(test())


def test_takes_content_of_every_kind(server: McpServer) -> None:
    """Blocks are as MCP spells them."""

    async def test() -> None:
        async with session_with(server.config()) as held:
            result = await held.session.call("everything", {})
            kinds = [block["type"] for block in result.content]
            assert kinds == ["text", "image", "audio", "resource", "resource_link"]
            assert result.content[1]["mimeType"] == "image/png"
            assert result.content[3]["resource"]["text"] == "from a file"
            assert result.structured == {"answer": 42}
            assert not result.is_error

    run(test())


def test_p8_an_error_of_the_tools_own_is_a_result(server: McpServer) -> None:
    """P8: the model is told what the tool says."""

    async def test() -> None:
        async with session_with(server.config()) as held:
            result = await held.session.call("fail", {})
            assert result.is_error
            assert "fail" in result.content[0]["text"]
            invalid = await held.session.call("add", {"a": "many"})
            assert invalid.is_error
            assert "validation" in invalid.content[0]["text"]
            assert (await held.session.call("no_such_tool", {})).is_error

    run(test())


def test_p6_says_who_it_is(server: McpServer) -> None:
    """P6: by name and version, also in the header that HTTP has for it."""

    async def test() -> None:
        async with session_with(server.config()):
            pass

    run(test())
    seen = server.ask("/seen")
    first = next(each for each in seen if each["rpc"] in {"initialize", "server/discover"})
    told = str(first["body"])
    assert "'name': 'bridgecore'" in told
    assert "'version': ''" not in told
    assert first["headers"]["user-agent"].startswith("bridgecore/")


def test_shows_the_users_token_or_the_headers_of_the_configuration(server: McpServer) -> None:
    """A tool sees as whom the caller comes."""

    async def test() -> None:
        async with session_with(server.config(user_token=True), token="anns-own-token") as held:
            assert await held.said("whoami") == "Bearer anns-own-token"
        headers = {"X-Team": Secret("blue")}
        async with session_with(server.config(headers=headers)) as held:
            assert await held.said("whoami") == "blue"
        async with session_with(server.config()) as held:
            assert await held.said("whoami") == "nobody"

    run(test())


def test_filters_by_name(server: McpServer) -> None:
    """Denied ones and ones that are not allowed are not offered."""

    async def test() -> None:
        async with session_with(server.config(allow="^(add|wait|learn)$", deny="wa")) as held:
            assert held.names() == ["add", "learn"]

    run(test())


@both
def test_follows_changes_of_the_list(own: McpServer) -> None:
    """The server says that it has one tool more; it is offered without a new session."""

    async def test() -> None:
        async with session_with(own.config()) as held:
            await held.listening(own)
            await held.said("learn", name="juggle")
            await held.until(lambda session: "juggle" in [tool.name for tool in session.tools])
            assert await held.said("juggle") == "I am juggle"

    run(test())


@both
def test_a_server_that_was_restarted_is_called_in_a_new_session(own: McpServer) -> None:
    """The call that finds the session gone is the one that gets a new one."""

    async def test() -> None:
        async with session_with(own.config()) as held:
            assert await held.said("add", a=1, b=1) == "2"
            own.stop()
            own.start()
            assert await held.said("add", a=1, b=2) == "3"
            assert await held.said("add", a=1, b=3) == "4"

    run(test())


@both
def test_a_server_that_is_away_is_tried_until_it_is_back(own: McpServer) -> None:
    """Its tools come when it does."""

    async def test() -> None:
        own.stop()
        async with session_with(own.config()) as held:
            assert not held.session.is_connected
            assert "ConnectError" in held.session.failure
            assert held.names() == []
            own.start()
            await held.until(lambda session: session.is_connected)
            assert held.names() == TOOLS

    run(test())


@both
def test_a_server_that_goes_away_fails_calls_and_is_called_again_when_it_is_back(own: McpServer) -> None:
    """The model is told why; the tools stay, so that prompt caches hold."""

    async def test() -> None:
        async with session_with(own.config()) as held:
            own.stop()
            with pytest.raises(ToolError, match="Connect"):
                await held.session.call("add", {"a": 1, "b": 2})
            assert held.names() == TOOLS
            own.start()
            assert await held.said("add", a=1, b=2) == "3"

    run(test())


@both
def test_a_server_that_goes_away_in_the_middle_of_a_call_fails_it(own: McpServer) -> None:
    """At once and with a reason, and not again in a new session: it may have been done."""

    async def test() -> None:
        async with session_with(own.config()) as held:
            call = asyncio.create_task(held.session.call("wait", {"seconds": 60, "label": "cut"}))
            async with asyncio.timeout(PATIENCE_S):
                while ["begun", "cut"] not in await asyncio.to_thread(own.ask, "/calls"):
                    await asyncio.sleep(0.01)
            own.stop()
            with pytest.raises(ToolError, match=r"disconnected|ended without"):
                await call
            own.start()
            assert await held.said("add", a=1, b=2) == "3"
            assert own.ask("/calls") == [["add", 1, 2]]

    run(test())


@both
def test_a_call_outlives_the_session_it_was_made_in(own: McpServer) -> None:
    """What ends a session, here a list that cannot be read again, may be no concern of the calls that run."""

    async def test() -> None:
        async with session_with(own.config()) as held:
            call = asyncio.create_task(held.said("wait", seconds=60, label="long"))
            async with asyncio.timeout(PATIENCE_S):
                while ["begun", "long"] not in await asyncio.to_thread(own.ask, "/calls"):
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(own.ask, "/mode", "list:503")
            await held.said("learn", name="juggle")
            async with asyncio.timeout(PATIENCE_S):
                while held.session.is_connected:
                    await asyncio.sleep(0.01)
            await asyncio.to_thread(own.ask, "/open", "long")
            assert await call == "done"
            await asyncio.to_thread(own.ask, "/mode", "fine")
            await held.until(lambda session: session.is_connected)
            assert "juggle" in held.names()

    run(test())


FAULTS = {
    "503": "status 503",
    "500": "status 500",
    "401": "status 401",
    "garbage": "text/html",
    "broken-json": "Failed to parse JSON",
    "redirect": "not followed",
    "gzip": "encodes its answers",
    "silence": "did not answer within 0.3 s",
    "error": "the arguments are no good",
    "endless": "longer|exceeded|without a response",
}


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "error"])
def test_a_fault_while_a_session_is_opened_is_named(server: McpServer, fault: str) -> None:
    """Nothing is raised, and the reason is there for the log."""

    async def test() -> None:
        with server.mode(fault):
            async with session_with(server.config(), connect_timeout_s=0.3) as held:
                assert not held.session.is_connected
                assert held.session.failure
                assert held.session.is_refused == (fault == "401")
                assert len(held.session.failure) < 600

    run(test())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_call_is_told_and_the_session_goes_on(server: McpServer, fault: str) -> None:
    """The model is told what was wrong; calls beside it and after it are answered."""

    async def test() -> None:
        async with session_with(server.config(), call_timeout_s=0.3 if fault == "silence" else 10) as held:
            with server.mode(f"call:{fault}"), pytest.raises(ToolError) as caught:
                await held.session.call("add", {"a": 1, "b": 2})
            assert any(part in str(caught.value) for part in FAULTS[fault].split("|")), caught.value
            assert await held.said("add", a=1, b=2) == "3"

    run(test())


def test_what_the_server_was_shown_is_in_no_error(server: McpServer) -> None:
    """A server may repeat the token in what it says."""

    async def test() -> None:
        async with session_with(server.config(user_token=True), token="arguments are no") as held:
            with server.mode("call:error"), pytest.raises(ToolError, match=r"the \[redacted\] good"):
                await held.session.call("add", {"a": 1, "b": 2})

    run(test())


@pytest.mark.parametrize(
    ("value", "said"),
    [("Bearer arguments", "the [redacted] are no good"), ("the arguments", "[redacted] are no good"), ("e", None)],
)
def test_a_header_of_the_configuration_is_in_no_error(server: McpServer, value: str, said: str | None) -> None:
    """Nor is what follows the name of a scheme; a letter is no secret."""

    async def test() -> None:
        async with session_with(server.config(headers={"Authorization": Secret(value)})) as held:
            with server.mode("call:error"), pytest.raises(ToolError) as caught:
                await held.session.call("add", {"a": 1, "b": 2})
            assert str(caught.value) == (said or "the arguments are no good")

    run(test())


def test_a_call_that_is_cancelled_is_cancelled_at_the_server(server: McpServer) -> None:
    """So is one that takes too long."""

    async def ended(label: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while ["cancelled", label] not in server.ask("/calls"):
                await asyncio.sleep(0.01)

    async def begun(label: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while ["begun", label] not in await asyncio.to_thread(server.ask, "/calls"):
                await asyncio.sleep(0.01)

    async def test() -> None:
        async with session_with(server.config(), call_timeout_s=30) as held:
            call = asyncio.create_task(held.session.call("wait", {"seconds": 60, "label": "left"}))
            await begun("left")
            call.cancel()
            await asyncio.wait([call])
            assert call.cancelled()
            await ended("left")
        async with session_with(server.config(), call_timeout_s=0.2) as held:
            with pytest.raises(ToolError, match=r"did not answer within 0.2 s"):
                await held.session.call("wait", {"seconds": 60, "label": "slow"})
            await ended("slow")

    run(test())


def test_calls_run_side_by_side(server: McpServer) -> None:
    """One that takes its time holds up no other."""

    async def test() -> None:
        async with session_with(server.config()) as held:
            slow = asyncio.create_task(held.said("wait", seconds=60, label="gate"))
            assert await held.said("add", a=1, b=1) == "2"
            assert not slow.done()
            await asyncio.to_thread(server.ask, "/open", "gate")
            assert await slow == "done"

    run(test())


def test_a_result_that_is_too_long_is_refused_and_not_read_to_its_end(server: McpServer) -> None:
    """A hundred megabytes end the call and neither the session nor the memory."""

    async def test() -> None:
        async with session_with(server.config()) as held:
            with pytest.raises(ToolError, match="more than 1048576 are not taken"):
                await held.session.call("large", {"megabytes": 1})
            for megabytes in (5, 100):
                with pytest.raises(ToolError, match=r"longer than|byte limit"):
                    await held.session.call("large", {"megabytes": megabytes})
            assert await held.said("add", a=1, b=1) == "2"
        async with session_with(server.config(), max_result_bytes=3 << 20) as held:
            assert len(await held.said("large", megabytes=2)) == 2 << 20

    run(test())


def test_a_tool_with_a_huge_schema_is_left_out(server: McpServer) -> None:
    """The others of the same server are offered."""

    async def test() -> None:
        with server.mode("list:heavy"):
            async with session_with(server.config()) as held:
                assert held.names() == ["light"]

    assert TOOL_BYTES < 1 << 20
    run(test())


def test_a_list_without_end_is_not_kept_without_end(server: McpServer) -> None:
    """Of a server whose pages go on and on the first tools are offered."""

    async def test() -> None:
        with server.mode("list:pages"):
            async with session_with(server.config(), connect_timeout_s=60) as held:
                count = OFFERED_BYTES // 60_000
                assert held.names() == [f"tool_{number:04d}" for number in range(count)]

    run(test())


@pytest.mark.parametrize("own", [("--old",)], indirect=True)
def test_the_end_of_a_session_is_told_to_the_server(own: McpServer) -> None:
    """By the DELETE of its protocol; newer servers have no sessions."""

    async def test() -> None:
        async with session_with(own.config()) as held:
            assert held.session.is_connected
        with pytest.raises(ToolError, match="ended"):
            await held.session.call("add", {})

    run(test())
    (deleted,) = [each for each in own.ask("/seen") if each["method"] == "DELETE"]
    assert deleted["headers"]["mcp-session-id"]


def test_a_session_ends_soon_although_its_server_is_silent(server: McpServer) -> None:
    """Also while it is still being opened."""

    async def test() -> None:
        with server.mode("silence"):
            held = session_with(server.config(), connect_timeout_s=600)
            entering = asyncio.create_task(held.__aenter__())
            await asyncio.sleep(0)
            async with asyncio.timeout(PATIENCE_S):
                while not [each for each in await asyncio.to_thread(server.ask, "/seen") if each["rpc"]]:
                    await asyncio.sleep(0.01)
            entering.cancel()
            await asyncio.wait([entering], timeout=PATIENCE_S)
            assert entering.done()

    run(test())
