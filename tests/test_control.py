"""The control socket: what a worker hears first, and where it cannot be."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from bridgeserver.asks import Answer, Ask
from bridgeserver.config import McpServerConfig, ProviderConfig, ToolsConfig
from bridgeserver.control import ControlClient, ControlServer, Drain, Lag, Look, Report, Snapshot
from bridgeserver.errors import BridgeError
from bridgeserver.secret import Secret
from gateway import eventually

PROVIDER = ProviderConfig(name="x", type="openai", base_url="http://x/v1", auth="bearer", keys=(Secret("a-key"),))
WIKI = McpServerConfig(name="wiki", url="http://x/mcp?k=v", headers={"Authorization": Secret("Bearer a b")}, allow="^a")


class Worker:
    """One end of the socket, which writes down what it hears."""

    def __init__(self, path: Path) -> None:
        self.heard: list[Any] = []
        self.refuses = False
        self.counters = {"counted": 1}
        self.client = ControlClient(path, self.report, dict.fromkeys((Drain, Lag, Look, Snapshot), self.hear))

    def hear(self, message: Any) -> None:
        """Take a message; those about the lag come all the time."""
        if not isinstance(message, Lag):
            self.heard.append(message)
            if self.refuses:
                raise OSError("no")

    def report(self) -> Report:
        """Say which generation was heard of, and what was counted since the last time."""
        counters, self.counters = self.counters, {}
        numbers = [message.number for message in self.heard if isinstance(message, Snapshot)]
        return Report(1, max(numbers, default=0), "", counters, {"held": 1})


def serve(run: Callable[[ControlServer], Any], answer: Callable[[Ask], Answer] | None = None) -> None:
    """Run a coroutine function beside a server."""
    server = ControlServer(lambda: 0.0, answer or (lambda ask: Answer(200, ask.body)))
    server.start()
    try:
        asyncio.run(run(server))
    finally:
        server.close()


def test_a_worker_hears_of_the_generation_first_and_of_every_later_one() -> None:
    """With the provider keys and the MCP servers' headers in it; the parent knows who follows."""

    async def run(server: ControlServer) -> None:
        snapshot = Snapshot(1, (PROVIDER,), mcp_servers=(WIKI,), tools=ToolsConfig(max_turns=3))
        server.publish(snapshot)
        worker = Worker(server.path)
        await worker.client.start()
        assert worker.heard == [snapshot]
        worker.client.report()
        assert await asyncio.to_thread(server.wait_for, 1, 10.0)
        server.publish(Snapshot(2, ()))
        assert not await asyncio.to_thread(server.wait_for, 3, 0.01)
        assert await asyncio.to_thread(server.wait_for, 2, 10.0)
        assert server.totals() == {"counted": 1, "held": 1}
        await worker.client.close()
        await asyncio.to_thread(eventually, lambda: True if server.totals() == {"counted": 1} else None)

    serve(run)


def test_what_was_counted_is_told_once() -> None:
    """Before there is a connection nothing is taken to be told, the last report is told whole, and it all stays."""

    async def run(server: ControlServer) -> None:
        server.publish(Snapshot(1, ()))
        workers = [Worker(server.path) for _ in range(2)]
        for worker in workers:
            worker.client.report()
            assert worker.counters == {"counted": 1}
            await worker.client.start()
            worker.client.report()
            worker.client.report()
        for number, worker in enumerate(workers):
            worker.counters = {f"prompts.p\x1fm{each}\x1fc\x1f": 1 for each in range(1000)} | {"counted": 10**number}
            await worker.client.close()
        await asyncio.to_thread(eventually, lambda: True if not server.workers() else None)
        totals = dict(server.totals())
        assert totals.pop("counted") == 13
        assert set(totals.values()) <= {2, 2 * 800}
        assert sum(totals.values()) == 2 * 1000

    serve(run)


def test_a_report_that_was_cut_off_counts_nothing() -> None:
    """A worker that is killed in the middle of one loses that, and what it has told before stays as it was."""

    async def run(server: ControlServer) -> None:
        server.publish(Snapshot(1, ()))
        _reader, writer = await asyncio.open_unix_connection(server.path)
        line = msgspec.json.encode(Report(1, 1, "", {"counted": 5}, {"held": 1}))
        writer.write(line + b"\n")
        assert await asyncio.to_thread(server.wait_for, 1, 10.0)
        assert server.totals() == {"counted": 5, "held": 1}
        writer.write(line[: len(line) // 2])
        writer.close()
        await asyncio.to_thread(eventually, lambda: True if not server.workers() else None)
        assert server.totals() == {"counted": 5}

    serve(run)


def test_a_report_that_fails_ends_nothing() -> None:
    """The next one is told."""

    async def run(server: ControlServer) -> None:
        server.publish(Snapshot(1, ()))
        worker = Worker(server.path)
        nothing: dict[str, int] = {}
        reports = iter([{"counted": 1}])

        def report() -> Report:
            if not reported:
                reported.append(True)
                raise OSError("no")
            return Report(1, 1, "", next(reports, nothing), nothing)

        reported = list[bool]()
        worker.client = ControlClient(server.path, report, dict.fromkeys((Drain, Lag, Look, Snapshot), worker.hear))
        await worker.client.start()
        with structlog.testing.capture_logs() as logged:
            await asyncio.to_thread(eventually, lambda: True if server.totals() == {"counted": 1} else None)
        assert [line["event"] for line in logged] == ["report_failed"]
        await worker.client.close()

    serve(run)


def test_a_worker_is_told_to_look() -> None:
    """When keys have changed, at once and each time."""

    async def run(server: ControlServer) -> None:
        server.publish(Snapshot(1, ()))
        worker = Worker(server.path)
        await worker.client.start()
        server.look()
        server.look()
        while len(worker.heard) < 3:
            await asyncio.sleep(0.01)
        assert worker.heard[1:] == [Look(), Look()]
        await worker.client.close()

    serve(run)


def test_a_message_that_fails_ends_nothing() -> None:
    """The worker listens on."""

    async def run(server: ControlServer) -> None:
        server.publish(Snapshot(1, ()))
        worker = Worker(server.path)
        await worker.client.start()
        worker.refuses = True
        server.publish(Snapshot(2, ()))
        server.publish(Snapshot(3, ()))
        assert await asyncio.to_thread(server.wait_for, 3, 10.0)
        await worker.client.close()

    serve(run)


def test_a_large_body_is_answered() -> None:
    """Whatever bytes are in it."""

    async def run(server: ControlServer) -> None:
        server.publish(Snapshot(0, ()))
        worker = Worker(server.path)
        await worker.client.start()
        body = bytes(range(256)) * 4096
        answers = await asyncio.gather(
            *(worker.client.ask(Ask("POST", "/", "", body + bytes([number]), "me")) for number in range(4))
        )
        assert [answer.body for answer in answers] == [body + bytes([number]) for number in range(4)]
        await worker.client.close()

    serve(run)


def test_a_folder_whose_name_is_too_long_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket's name has a limit; the start fails at once, and leaves nothing."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    server = ControlServer(lambda: 0.0, lambda _ask: Answer(200, b""))
    with pytest.raises(BridgeError, match="set TMPDIR"):
        server.start()
    assert list(folder.iterdir()) == []
