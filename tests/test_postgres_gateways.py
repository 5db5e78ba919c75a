"""Gateways on one PostgreSQL: what is changed through one holds for the other, and a server that is away."""

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import gateway as gateways
import outagelab
import samples
from bridgeserver import cli, fakeprovider, record_commands
from bridgeserver.fakeprovider import FakeProvider, Script
from bridgeserver.store import open_store
from gateway import BODIES, Gateway
from outagelab import Load
from pglab import PostgresLab

ID = "x-bridge-interception-id"
PATH = "/openai/v1/responses"
BODY = BODIES[PATH]
WITHIN_S = 1.0
ADD = ("providers", "add", "mine", "--type", "openai", "--key", "-")


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    """The provider behind all gateways of this file."""
    with fakeprovider.running() as fake:
        yield fake


@pytest.fixture
def url(postgres: PostgresLab) -> Iterator[str]:
    """A database with the schema."""
    with postgres.database() as url:
        yield url


@contextmanager
def running(folder: Path, fake: FakeProvider, url: str, key: str | None = None) -> Generator[Gateway]:
    """Run a gateway with a folder of its own on the database at *url*."""
    folder.mkdir(exist_ok=True)
    gateways.write_config(folder, fake.url, more=f'[store]\nurl = "{url}"')
    with gateways.started(folder, key or gateways.make_key(folder, is_admin=True)) as gateway:
        yield gateway


def seconds_until_refused(gateway: Gateway, status: int) -> float:
    """Ask again and again until the answer has that status; return how long that took."""
    began = time.monotonic()
    gateways.eventually(lambda: True if gateway.ask(PATH, BODY).status == status else None)
    return time.monotonic() - began


def wait_for_records(gateway: Gateway, ids: set[str]) -> None:
    """Wait until all of these interceptions are in the store with their ends."""

    def are_there() -> bool | None:
        ended = {record["id"] for record in gateway.records() if record["status"] == "completed"}
        return True if ids <= ended else None

    gateways.eventually(are_there)


def test_two_gateways_share_keys_providers_and_records(tmp_path: Path, fake: FakeProvider, url: str) -> None:
    """A provider that is disabled and a key that is revoked through one are refused by the other within a second."""
    with ExitStack() as stack:
        first = stack.enter_context(running(tmp_path / "a", fake, url))
        second = stack.enter_context(running(tmp_path / "b", fake, url, first.key))
        answers = [gateway.ask(PATH, BODY) for gateway in (first, second) * 3]
        assert {answer.status for answer in answers} == {200}
        ids = {answer.headers[ID] for answer in answers}
        for gateway in (first, second):
            wait_for_records(gateway, ids)
        disabled = first.ask("/-/api/v1/providers/openai", {"enabled": False}, method="PATCH")
        assert (disabled.status, first.ask(PATH, BODY).status) == (200, 503)
        assert seconds_until_refused(second, 503) < WITHIN_S
        assert first.ask("/-/api/v1/providers/openai", {"enabled": True}, method="PATCH").status == 200
        assert seconds_until_refused(second, 200) < WITHIN_S
        revoked = gateways.bridgecore(tmp_path / "a", "keys", "revoke", first.key.split("_")[1])
        assert (revoked.returncode, revoked.stderr) == (0, "")
        assert seconds_until_refused(second, 401) < WITHIN_S
        assert seconds_until_refused(first, 401) < WITHIN_S
        for gateway in (first, second):
            assert gateway.stop() == 0
            assert "Traceback" not in (gateway.folder / "gateway.log").read_text()


def provider_count(fake: FakeProvider) -> dict[str, tuple[int, int, int, int]]:
    """Return what the provider was asked and has sent, by model: requests; tokens of input, output and cache reads."""
    models = Counter[str](json.loads(request.body)["model"] for request in fake.requests)
    scripts = {model: outagelab.SCRIPTS.get(model, Script()) for model in models}
    return {
        model: (
            count,
            count * scripts[model].input_tokens,
            count * scripts[model].output_tokens,
            count * scripts[model].cache_read_tokens,
        )
        for model, count in models.items()
    }


def counts(row: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return the same of a row of a report."""
    return row["requests"], row["input_tokens"], row["output_tokens"], row["cache_read_tokens"]


def listed(gateway: Gateway, query: str = "") -> list[dict[str, Any]]:
    """Return all interceptions that the API tells of, page by page."""
    found, more = list[dict[str, Any]](), ""
    while True:
        page = gateway.ask(f"/-/api/v1/interceptions?limit=100{query}{more}").json
        found += page["interceptions"]
        if page["next"] is None:
            return found
        more = f"&after={page['next']}"


def completed(gateway: Gateway, count: int) -> list[dict[str, Any]]:
    """Return the completed interceptions as soon as there are so many."""

    def look() -> list[dict[str, Any]] | None:
        found = listed(gateway, "&status=completed")
        return found if len(found) >= count else None

    return gateways.eventually(look)


def test_totals_are_what_the_provider_has_counted(tmp_path: Path, url: str) -> None:
    """Of a load over two gateways each of them tells the same: all requests once, and their tokens, by model."""
    with outagelab.provider() as fake, ExitStack() as stack:
        first = stack.enter_context(running(tmp_path / "a", fake, url))
        second = stack.enter_context(running(tmp_path / "b", fake, url, first.key))
        with Load(first, "first", clients=3) as one, Load(second, "second", clients=3) as two:
            one.wait_for(60)
            two.wait_for(60)
        assert set(one.summary()) == set(two.summary()) == {200}
        expected = provider_count(fake)
        for gateway in (first, second):
            records = completed(gateway, len(fake.requests))
            assert len(listed(gateway)) == len(records)
            assert outagelab.markers(record["prompt"] for record in records) == outagelab.reached(fake)
            assert Counter(record["model"] for record in records) == {model: row[0] for model, row in expected.items()}
            report = gateway.ask("/-/api/v1/usage?group_by=model").json
            assert {row["model"]: counts(row) for row in report["rows"]} == expected
            assert counts(report["totals"]) == tuple(map(sum, zip(*expected.values(), strict=True)))
        assert len(expected) == 2


def test_a_server_that_was_away_loses_no_record(
    tmp_path: Path, postgres: PostgresLab, fake: FakeProvider, url: str
) -> None:
    """It is stopped for three seconds under load: no request fails, and every record is there afterwards."""
    with running(tmp_path, fake, url) as gateway, ThreadPoolExecutor(4) as clients:
        gateway.record(gateway.ask(PATH, BODY).headers[ID])
        until = time.monotonic() + 4.0

        def load(_client: int) -> list[tuple[int, str]]:
            answers = list[tuple[int, str]]()
            while time.monotonic() < until:
                answer = gateway.ask(PATH, BODY)
                answers.append((answer.status, answer.headers.get(ID, "")))
                time.sleep(0.02)
            return answers

        loads = [clients.submit(load, client) for client in range(4)]
        postgres.stop()
        time.sleep(3.0)  # the outage itself
        assert "shipping_failed" in (tmp_path / "gateway.log").read_text()
        postgres.start()
        answers = [answer for load in loads for answer in load.result()]
        assert {status for status, _id in answers} == {200}
        ids = {interception_id for _status, interception_id in answers}
        assert len(ids) == len(answers)

        wait_for_records(gateway, ids)
        gateways.eventually(lambda: True if gateway.ask("/-/readyz").status == 200 else None)
        assert gateway.stop() == 0
        assert "Traceback" not in (tmp_path / "gateway.log").read_text()
    assert len(gateways.read_records(tmp_path)) == len(answers) + 1


def test_commands_work_on_postgresql(tmp_path: Path, postgres: PostgresLab, fake: FakeProvider) -> None:
    """From an empty database on; what needs a sealing key says so, and a gateway serves without one while it can."""
    with postgres.bare_database() as url:
        gateways.write_config(tmp_path, fake.url, more=f'[store]\nurl = "{url}"')
        upgrades = [gateways.bridgecore(tmp_path, "store", "upgrade") for _ in range(2)]
        assert [upgrade.stderr for upgrade in upgrades] == ["", ""]
        assert upgrades[0].stdout.startswith("the schema went from revision none to ")
        assert upgrades[1].stdout.endswith(" already\n")
        key = gateways.bridgecore(tmp_path, "keys", "create", "--user", "ann").stdout.strip()
        assert key.startswith("bc_")
        listed = {
            command: gateways.bridgecore(tmp_path, *command.split())
            for command in ("users list", "providers list", "records")
        }
        assert {command: done.stderr for command, done in listed.items() if done.returncode} == {}
        assert "ann" in listed["users list"].stdout
        added = gateways.bridgecore(tmp_path, *ADD, input="sk-123456\n")
        assert added.returncode == 1
        assert "store.encryption_key: found nothing" in added.stderr
        with gateways.started(tmp_path, key) as gateway:
            assert gateway.ask(PATH, BODY).status == 200
        assert len(gateways.read_records(tmp_path)) == 1
        sealing = 'encryption_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="'
        config = (tmp_path / "bridgecore.toml").read_text()
        (tmp_path / "bridgecore.toml").write_text(f"{config}\n{sealing}\n")
        added = gateways.bridgecore(tmp_path, *ADD, input="sk-123456\n")
        assert (added.returncode, added.stderr) == (0, "")
        (tmp_path / "bridgecore.toml").write_text(config)
        refused = gateways.bridgecore(tmp_path, "serve")
        assert refused.returncode == 1
        assert refused.stderr.splitlines()[-1].startswith("bridgecore: store.encryption_key: found nothing")


def test_following_goes_on_after_the_server_was_away(
    tmp_path: Path,
    postgres: PostgresLab,
    url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`records --follow` says once that it waits, and then prints what has ended since."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9", more=f'[store]\nurl = "{url}"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record_commands, "end_with_the_pipe", lambda: None)  # which is for a whole process
    with closing(open_store(url)) as store:
        meanwhile: list[Callable[[], object]] = [
            lambda: store.apply(samples.whole(1)),
            postgres.stop,
            lambda: None,
            postgres.start,
            lambda: store.apply(samples.whole(2)),
        ]

        def wait() -> None:
            meanwhile.pop(0)()

        monkeypatch.setattr(record_commands, "_wait", wait)
        assert cli.run(["records", "--follow", "--json", "--limit", "2"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["i0001", "i0002"]
    assert err.count("bridgecore: ") == err.count("; waiting for it\n") == 1


def test_a_server_that_is_down_is_one_line(tmp_path: Path, fake: FakeProvider) -> None:
    """A command says where the database should be and what to look at, without a password or a traceback."""
    gateways.write_config(tmp_path, fake.url, more='[store]\nurl = "postgresql://me:hunter2@127.0.0.1:9/bridge"')
    failed = gateways.bridgecore(tmp_path, "keys", "list")
    assert failed.returncode == 1
    assert failed.stderr.startswith("bridgecore: the database bridge at 127.0.0.1:9 failed (")
    assert failed.stderr.count("\n") == 1
    assert "hunter2" not in failed.stderr + gateways.bridgecore(tmp_path, "check", "--print").stdout
