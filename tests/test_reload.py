"""Another configuration while the gateway runs: what is served, what goes on, and what is said of mistakes."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import commandlab
import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway, eventually
from storm import Storm, descriptors

CHAT = "/openai/v1/chat/completions"
STREAM = BODIES[CHAT] | {"stream": True}


class Lab:
    """A gateway with two workers, and two providers that say who they are."""

    def __init__(self, gateway: Gateway, one: FakeProvider, two: FakeProvider) -> None:
        self.gateway = gateway
        self.one = one
        self.two = two
        self.file = gateway.folder / "bridgecore.toml"
        self.good = self.file.read_text()
        self.admin = gateways.make_key(gateway.folder, "root", is_admin=True)

    def write(self, text: str) -> None:
        """Put another file in the place of the configuration, in one step."""
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)

    def logged(self, event: str) -> list[str]:
        """Return the lines of the log that tell of an event."""
        return [line for line in (self.gateway.folder / "gateway.log").read_text().splitlines() if event in line]

    def wait_for_log(self, event: str, count: int) -> str:
        """Return the newest line that tells of an event, once there are so many."""
        return eventually(lambda: lines[-1] if len(lines := self.logged(event)) >= count else None)

    def reload(self, act: Callable[[], object]) -> None:
        """Do something that makes the gateway read its sources again, and wait until every worker follows."""
        before = self.readiness()["last_success"]
        act()

        def has_followed() -> bool | None:
            now = self.readiness()
            follows = all(worker["generation"] == now["generation"] for worker in now["workers"])
            return True if now["last_success"] > before and follows else None

        eventually(has_followed)

    def readiness(self) -> dict[str, Any]:
        """Return the detail of readiness."""
        return dict(self.ask("GET", "/-/readyz"))

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Make an administrative request and return what the answer says."""
        encoded = None if body is None else json.dumps(body).encode()
        headers = {"authorization": f"Bearer {self.admin}"}
        answer = self.gateway.ask(path, encoded, method=method, headers=headers)
        assert answer.status < 300, answer
        return answer.json if answer.body else None

    def says(self) -> str:
        """Return what the answer to a small request says."""
        return str(self.gateway.ask(CHAT, BODIES[CHAT]).json["choices"][0]["message"]["content"])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A gateway whose providers are the one that says `one`."""
    with fakeprovider.running() as one, fakeprovider.running() as two:
        one.script, two.script = Script(text="one"), Script(text="two")
        gateways.write_config(tmp_path, one.url, server='workers = 2\nlog_format = "json"')
        with gateways.running(tmp_path) as gateway:
            yield Lab(gateway, one, two)


def test_p9_a_changed_file_is_followed(lab: Lab) -> None:
    """Every worker sends what comes next to the new address, and closes its connections to the old one."""
    assert lab.says() == "one"
    lab.reload(lambda: lab.write(lab.good.replace(lab.one.url, lab.two.url)))
    assert [lab.says() for _ in range(8)] == ["two"] * 8
    eventually(lambda: True if lab.one.connections == 0 else None)


def test_p13_a_stream_ends_on_the_generation_that_it_began_with(lab: Lab) -> None:
    """Its provider is moved and then switched off; neither is seen in it."""
    lab.one.push(Script(text="a long answer", gate=True))
    with lab.gateway.open(CHAT, STREAM) as stream:
        read = stream.read1()
        lab.reload(lambda: lab.write(lab.good.replace(lab.one.url, lab.two.url)))
        lab.reload(lambda: lab.write(lab.good.replace('name = "openai"', 'name = "openai"\nenabled = false')))
        assert lab.gateway.ask(CHAT, BODIES[CHAT]).status == 503
        lab.one.release(1000)
        read += stream.read()
    assert read.endswith(b"data: [DONE]\n\n")
    assert lab.gateway.record(stream.headers["x-bridge-interception-id"])["status"] == "completed"


def test_p35_a_disabled_provider_is_its_sentinel(lab: Lab) -> None:
    """On every path and method, before the body is read; the others serve on; nothing is recorded."""
    lab.reload(lambda: lab.write(lab.good.replace('name = "openai"', 'name = "openai"\nenabled = false')))
    for method in ("GET", "POST", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/openai/v1/responses", "/openai/v1/models", "/openai/nonsense"):
            answer = lab.gateway.ask(path, method=method)
            assert answer.status == 503
            assert answer.json["error"]["message"] == 'provider_disabled: AI provider "openai" is disabled'
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {lab.gateway.key}\r\n"
    without_body = lab.gateway.raw(f"{head}content-length: 1000000\r\nconnection: close\r\n\r\n".encode())
    assert without_body.startswith(b"HTTP/1.1 503 ")
    assert lab.gateway.ask("/anthropic/v1/messages", BODIES["/anthropic/v1/messages"]).status == 200
    lab.gateway.record()
    assert [record["provider_name"] for record in lab.gateway.records()] == ["anthropic"]
    lab.reload(lambda: lab.write(lab.good))
    assert lab.says() == "one"


def test_p38_no_providers_are_a_configuration_too(lab: Lab) -> None:
    """Every path is 404, and the gateway is ready."""
    lab.reload(lambda: lab.write(lab.good.partition("[[providers]]")[0]))
    for path in BODIES:
        answer = lab.gateway.ask(path, BODIES[path])
        assert answer.status == 404
        assert "route not supported" in answer.body.decode()
    assert lab.readiness()["ready"]


def test_sighup_reads_again_what_no_file_change_shows(lab: Lab, tmp_path: Path) -> None:
    """A key in a file of its own is another one after SIGHUP."""
    key = tmp_path / "key"
    key.write_text("first-key")
    lab.reload(lambda: lab.write(lab.good.replace('"central-openai-key"', f'"file:{key}"')))
    key.write_text("second-key")
    lab.reload(lambda: os.kill(lab.gateway.process.pid, signal.SIGHUP))
    lab.says()
    assert lab.one.requests[-1].header("authorization") == "Bearer second-key"


BAD_FILES: dict[str, tuple[Callable[[str], str], str]] = {
    "half written": (lambda good: good[: good.index("base_url") + 10], "found broken TOML"),
    "empty": (lambda _good: "", "found an empty file"),
    "not TOML": (lambda _good: "<html>", "found broken TOML"),
    "a name twice": (lambda good: good.replace('"switched-off"', '"openai"'), '"openai" a second time'),
    "an illegal name": (lambda good: good.replace('"switched-off"', '"Switched_Off"'), "lower-case letters"),
    "an unknown key": (lambda good: good.replace("enabled = false", "enable = false"), "enabled (the nearest name)"),
    "an unknown type": (lambda good: good.replace('type = "openai"', 'type = "openia"'), '"anthropic", "openai"'),
}


@pytest.mark.parametrize("mistake", BAD_FILES)
def test_a_bad_file_changes_nothing_and_is_named(lab: Lab, mistake: str) -> None:
    """The generation in force goes on; one line of the log, and readiness, say what is wrong; a good file mends it."""
    make, reason = BAD_FILES[mistake]
    before = lab.readiness()
    lab.write(make(lab.good))
    line = json.loads(lab.wait_for_log("reload_failed", 1))
    assert reason in line["reason"]
    assert "\n" not in line["reason"]
    now = lab.readiness()
    assert reason in now["last_error"]
    assert (now["generation"], now["ready"]) == (before["generation"], True)
    assert lab.says() == "one"
    lab.reload(lambda: lab.write(lab.good.replace(lab.one.url, lab.two.url)))
    assert lab.says() == "two"
    assert lab.readiness()["last_error"] is None


def test_a_deleted_file_changes_nothing(lab: Lab) -> None:
    """Until there is one again."""
    lab.file.unlink()
    assert "found no such file" in lab.wait_for_log("reload_failed", 1)
    assert lab.says() == "one"
    lab.reload(lambda: lab.write(lab.good.replace(lab.one.url, lab.two.url)))
    assert lab.says() == "two"


def test_sections_that_need_a_restart_are_named(lab: Lab) -> None:
    """The providers of the same file are followed all the same."""
    lab.reload(
        lambda: lab.write(lab.good.replace("port = 0", "port = 1").replace(lab.one.url, lab.two.url)),
    )
    assert lab.readiness()["restart_needed"] == ["server"]
    assert lab.says() == "two"
    lab.reload(lambda: lab.write(lab.good))
    assert lab.readiness()["restart_needed"] == []


def test_a_new_worker_has_the_generation_in_force(lab: Lab) -> None:
    """And not the one that the gateway began with, whether it takes over or replaces a dead one."""
    lab.reload(lambda: lab.write(lab.good.replace(lab.one.url, lab.two.url)))
    old = set(lab.gateway.workers())
    os.kill(min(old), signal.SIGKILL)
    eventually(lambda: True if len(set(lab.gateway.workers()) - old) == 1 else None)
    lab.gateway.process.send_signal(signal.SIGUSR2)
    eventually(lambda: True if len(now := lab.gateway.workers()) == 2 and not old & set(now) else None)
    eventually(lambda: True if len(lab.readiness()["workers"]) == 2 else None)
    assert [lab.says() for _ in range(8)] == ["two"] * 8


def test_the_commands_for_providers_are_followed(lab: Lab) -> None:
    """Disable, enable, reset, add and remove take effect while the gateway runs."""

    def run(*arguments: str) -> None:
        result = commandlab.bridgecore(lab.gateway.folder, "providers", *arguments)
        assert result.returncode == 0, result.stderr

    lab.reload(lambda: run("disable", "openai"))
    assert lab.gateway.ask(CHAT, BODIES[CHAT]).status == 503
    lab.reload(lambda: run("enable", "openai"))
    assert lab.says() == "one"
    lab.reload(lambda: run("disable", "openai"))
    lab.reload(lambda: run("reset", "openai"))
    assert lab.says() == "one"
    lab.reload(lambda: run("add", "mine", "--type", "openai", "--base-url", f"{lab.two.url}/v1", "--key", "a-key"))
    assert lab.gateway.ask("/mine/v1/chat/completions", BODIES[CHAT]).status == 200
    assert lab.two.requests[-1].header("authorization") == "Bearer a-key"
    lab.reload(lambda: run("remove", "mine"))
    assert lab.gateway.ask("/mine/v1/chat/completions", BODIES[CHAT]).status == 404


def test_the_admin_api_answers_when_every_worker_follows(lab: Lab) -> None:
    """What was changed is in force for the next request, wherever it goes."""
    fields = {"type": "openai", "name": "mine", "base_url": f"{lab.two.url}/v1", "api_keys": ["a-key"]}
    made = lab.ask("POST", "/-/api/v1/providers", fields)
    for _ in range(8):
        assert lab.gateway.ask("/mine/v1/chat/completions", BODIES[CHAT]).status == 200
    lab.ask("PATCH", f"/-/api/v1/providers/{made['id']}", {"enabled": False})
    for _ in range(8):
        assert lab.gateway.ask("/mine/v1/chat/completions", BODIES[CHAT]).status == 503
    lab.ask("DELETE", "/-/api/v1/providers/mine")
    for _ in range(8):
        assert lab.gateway.ask("/mine/v1/chat/completions", BODIES[CHAT]).status == 404


def test_a_store_that_is_down_at_start_is_waited_for(tmp_path: Path) -> None:
    """The gateway runs, is not ready and refuses requests; once the store can be read it serves."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        key = gateways.make_key(tmp_path)
        with closing(sqlite3.connect(tmp_path / "bridgecore.db", isolation_level=None)) as holder:
            holder.execute("PRAGMA locking_mode = EXCLUSIVE")
            holder.execute("BEGIN EXCLUSIVE")
            with gateways.started(tmp_path, key) as gateway:
                ready = gateway.ask("/-/readyz")
                refused = gateway.ask(CHAT, BODIES[CHAT])
                assert (ready.status, refused.status) == (503, 503)
                assert refused.headers["retry-after"]
                assert gateway.ask("/-/healthz").status == 200
                holder.execute("ROLLBACK")
                holder.close()
                eventually(lambda: True if gateway.ask("/-/readyz").status == 200 else None)
                assert gateway.ask(CHAT, BODIES[CHAT]).status == 200


def test_sighup_while_starting_ends_nothing(tmp_path: Path) -> None:
    """The signal that reloads must not kill a gateway that waits for its store."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9")
    gateways.make_key(tmp_path)
    with closing(sqlite3.connect(tmp_path / "bridgecore.db", isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN EXCLUSIVE")
        command = [sys.executable, "-m", "bridgeserver", "serve"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=gateways.clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            eventually(lambda: True if (tmp_path / "bridgecore.db.journal/lock").exists() else None)
            process.send_signal(signal.SIGHUP)
            holder.execute("ROLLBACK")
            holder.close()
            assert process.stdout is not None
            assert process.stdout.readline().startswith(b"bridgecore serves on ")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)


def brave_the_storm(folder: Path, *, clients: int, reloads: int, pause_s: float, stream_s: float) -> Storm:
    """Reload again and again while clients call; return what they saw, after looking for what is left."""
    answers = {name: f"{name}, {name}, {name}, {name}, {name}" for name in ("one", "two")}
    scripts = {
        name: {"m": Script(text=text), "slow": Script(text=text, events=20, gap_s=stream_s / 20)}
        for name, text in answers.items()
    }
    nowhere = "http://127.0.0.1:9"
    with fakeprovider.running(scripts=scripts["one"]) as one, fakeprovider.running(scripts=scripts["two"]) as two:
        gateways.write_config(folder, nowhere, server='workers = 2\nlog_format = "json"')
        with gateways.running(folder) as gateway:
            lab = Lab(gateway, one, two)
            for name, kind, url in (("openai", "openai", f"{one.url}/v1"), ("toggled", "anthropic", one.url)):
                fields = {"type": kind, "name": name, "base_url": url, "api_keys": ["key"]}
                lab.ask("POST", "/-/api/v1/providers", fields)

            def change(number: int) -> None:
                upstream = (two, one)[number // 2 % 2]
                patch = {"enabled": number // 2 % 2 == 1} if number % 2 else {"base_url": f"{upstream.url}/v1"}
                lab.ask("PATCH", f"/-/api/v1/providers/{('openai', 'toggled')[number % 2]}", patch)

            async def later(number: int) -> None:
                await asyncio.to_thread(change, number)

            def still() -> list[int]:
                """Leave the providers, and count descriptors once no connection to them is open."""
                for name, url in (("openai", f"{nowhere}/v1"), ("toggled", nowhere)):
                    lab.ask("PATCH", f"/-/api/v1/providers/{name}", {"base_url": url, "enabled": True})
                eventually(lambda: True if one.connections + two.connections == 0 else None)
                return [descriptors(pid) for pid in sorted(gateway.workers())]

            storm = Storm(gateway, tuple(answers.values()))
            asyncio.run(storm.rage(4, later, 2, 0.1))
            before = still()
            for name, url in (("openai", f"{one.url}/v1"), ("toggled", one.url)):
                lab.ask("PATCH", f"/-/api/v1/providers/{name}", {"base_url": url})
            asyncio.run(storm.rage(clients, later, reloads, pause_s))
            eventually(lambda: True if still() == before else None)
            metrics = gateway.ask("/-/metrics", headers={"authorization": f"Bearer {lab.admin}"}).body.decode()
            for gauge in ("leased", "retired"):
                assert f"bridgecore_pool_{gauge} 0.0" in metrics, metrics
            eventually(lambda: True if {record["status"] for record in gateway.records()} == {"completed"} else None)
    return storm


def test_p39_a_storm_of_reloads_fails_no_request(tmp_path: Path) -> None:
    """Every answer is whole and from one generation, and nothing but the sentinel is refused."""
    storm = brave_the_storm(tmp_path, clients=16, reloads=20, pause_s=0.1, stream_s=1.0)
    assert storm.faults == []
    assert min(storm.seen[kind] for kind in ("short", "stream", "sentinel", "one", "two")) > 0


@pytest.mark.soak
def test_p39_a_long_storm_of_reloads_fails_no_request(tmp_path: Path) -> None:
    """200 reloads in 20 s under 64 clients with streams of 10 s."""
    storm = brave_the_storm(tmp_path, clients=64, reloads=200, pause_s=0.1, stream_s=10.0)
    assert storm.faults == []
    assert min(storm.seen[kind] for kind in ("short", "stream", "sentinel", "one", "two")) > 0
