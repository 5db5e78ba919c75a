"""The store is taken away under load: nothing is lost, and what was asked for happens to new requests."""

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import gateway as gateways
import outagelab
from bridgeserver.fakeprovider import Script
from gateway import BODIES, Gateway
from outagelab import ENGINES, Load

OUTAGES = pytest.mark.parametrize(
    "outage_s", [pytest.param(3.0, id="3-s"), pytest.param(30.0, id="30-s", marks=pytest.mark.soak)]
)
ON_ENGINES = pytest.mark.parametrize("engine_name", ENGINES)


def shipping(gateway: Gateway) -> dict[str, Any]:
    """Return what the detail of readiness says of the way to the store."""
    answer = gateway.ask("/-/readyz")
    return dict(answer.json["shipping"])


@ON_ENGINES
@OUTAGES
def test_spool_serves_on(tmp_path: Path, engine_name: str, outage_s: float) -> None:
    """While the store is away no request fails, and every record is there afterwards."""
    with outagelab.provider() as fake, ENGINES[engine_name](tmp_path) as engine:
        key = outagelab.configure(tmp_path, engine, fake)
        with gateways.started(tmp_path, key) as gateway:
            with Load(gateway, "spool") as load:
                load.wait_for(20)
                engine.take_away()
                before = load.count(200)
                threading.Event().wait(outage_s)
                load.wait_for(1)
                during = shipping(gateway)
                engine.bring_back()
                load.wait_for(20)
            assert load.count(200) > before + 20
            assert set(load.summary()) == {200}
            assert during["lag_s"] >= outage_s * 0.8
            assert during["journal_bytes"] > 0
            records = outagelab.ended_records(engine, lambda found: len(found) == len(load.sent))
            outagelab.judge(fake, records, load.sent)
            assert {record["status"] for record in records} == {"completed"}
            gateways.eventually(lambda: True if shipping(gateway)["journal_bytes"] == 0 else None)
            assert shipping(gateway)["refused"] == shipping(gateway)["damaged"] == 0


@ON_ENGINES
@OUTAGES
def test_reject_refuses_what_cannot_be_stored(tmp_path: Path, engine_name: str, outage_s: float) -> None:
    """Once the lag is over its limit new requests get 503, none of which reaches the provider; then all is well."""
    policy = 'on_store_failure = "reject"\nmax_lag_s = 0.5'
    with outagelab.provider() as fake, ENGINES[engine_name](tmp_path) as engine:
        key = outagelab.configure(tmp_path, engine, fake, journal=policy)
        with gateways.started(tmp_path, key) as gateway:
            with Load(gateway, "reject") as load:
                load.wait_for(20)
                engine.take_away()
                load.wait_for(20, status=503)
                gateways.eventually(lambda: True if gateway.ask("/-/readyz").status == 503 else None)
                # Those that were on their way have reached the provider; from here on none does.
                gateways.eventually(lambda: True if all(request.ended.is_set() for request in fake.requests) else None)
                reached = len(fake.requests)
                threading.Event().wait(outage_s)
                load.wait_for(5, status=503)
                assert len(fake.requests) == reached
                engine.bring_back()
                load.wait_for(20)
            assert set(load.summary()) == {200, 503}
            assert load.without_retry_after == []
            assert load.with_status(503) & set(outagelab.reached(fake)) == set()
            served = load.with_status(200)
            records = outagelab.ended_records(engine, lambda found: len(found) == len(served))
            outagelab.judge(fake, records, served)


def ask_until_full(gateway: Gateway, path: str, text: str) -> tuple[int, gateways.Answer]:
    """Ask again and again; return how often that was served, and the first refusal."""
    body = dict(BODIES[path])
    body |= {"input": text} if path.endswith("/responses") else {"messages": [{"role": "user", "content": text}]}
    for served in range(100):
        answer = gateway.ask(path, body)
        if answer.status != 200:
            return served, answer
    raise AssertionError("the journal takes everything")


@ON_ENGINES
def test_a_full_journal_refuses_new_requests_only(tmp_path: Path, engine_name: str) -> None:
    """At its limit the answer is 503 with `Retry-After` in the protocol's shape; what runs is recorded to its end."""
    with outagelab.provider() as fake, ENGINES[engine_name](tmp_path) as engine:
        key = outagelab.configure(tmp_path, engine, fake, journal="max_bytes = 1048576")
        with gateways.started(tmp_path, key) as gateway:
            path = "/openai/v1/responses"
            assert gateway.ask(path, BODIES[path]).status == 200  # from here on the worker knows the key
            engine.take_away()
            fake.push(Script(gate=True))
            running = gateway.open(path, BODIES[path] | {"stream": True})
            assert running.read1()
            served = 2
            for path in BODIES:
                count, refused = ask_until_full(gateway, path, "x" * 900_000)
                served += count
                assert (refused.status, refused.headers["retry-after"]) == (503, "5")
                error = refused.json["error"]
                assert "the journal has no room for another request" in error["message"]
                assert ("type" in refused.json) == path.startswith("/anthropic")
            assert served > 10
            assert len(fake.requests) == served
            fake.release(1000)
            with running:
                assert b"response.completed" in running.read()
            engine.bring_back()
            records = outagelab.ended_records(engine, lambda found: len(found) == served)
            assert {record["status"] for record in records} == {"completed"}
            path = "/openai/v1/responses"
            gateways.eventually(lambda: True if gateway.ask(path, BODIES[path]).status == 200 else None)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 20 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mount.returncode:
        pytest.skip(f"no file system can be mounted here: {mount.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.soak
def test_a_disk_that_is_really_full(tmp_path: Path, small_disk: Path) -> None:
    """With the journal on a full disk new requests get 503, and everything that was served is recorded."""
    path = "/openai/v1/responses"
    with outagelab.provider() as fake, ENGINES["sqlite"](tmp_path) as engine:
        key = outagelab.configure(tmp_path, engine, fake)
        config = tmp_path / "bridgecore.toml"
        config.write_text(config.read_text().replace('path = "journal"', f'path = "{small_disk}/journal"'))
        with gateways.started(tmp_path, key) as gateway:
            engine.take_away()
            served, refused = ask_until_full(gateway, path, "x" * 900_000)
            assert served > 10
            assert "the journal has no room for another request" in refused.json["error"]["message"]
            assert b"No space left on device" in (tmp_path / "gateway.log").read_bytes()
            engine.bring_back()
            records = outagelab.ended_records(engine, lambda found: len(found) == served)
            assert {record["status"] for record in records} == {"completed"}
            gateways.eventually(lambda: True if gateway.ask(path, BODIES[path]).status == 200 else None)
