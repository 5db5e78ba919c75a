"""The processes of a gateway: how it starts, stops, is killed, and what is recorded then."""

import http.client
import json
import os
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import commandlab
import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway, OpenAnswer

ID = "x-bridge-interception-id"
STREAM = "/openai/v1/responses"
BODY = BODIES[STREAM] | {"stream": True}


def open_streams(gateway: Gateway, fake: FakeProvider, count: int) -> list[OpenAnswer]:
    """Begin *count* streams, each with its first event read and its provider waiting."""
    for _ in range(count):
        fake.push(Script(gate=True))
    responses = [gateway.open(STREAM, BODY) for _ in range(count)]
    for response in responses:
        assert response.read1()
    return responses


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_kill_9_of_everything_during_50_streams(tmp_path: Path) -> None:
    """After a restart every one of the 50 has its interception, ended as interrupted."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server="workers = 2")
        with gateways.running(tmp_path) as gateway:
            responses = open_streams(gateway, fake, 50)
            ids = {response.headers[ID] for response in responses}
            for pid in (*gateway.workers(), gateway.process.pid):
                os.kill(pid, signal.SIGKILL)
            gateway.process.wait()
        for response in responses:
            response.close()
        assert len(ids) == 50
        with gateways.running(tmp_path) as gateway:
            gateways.eventually(lambda: True if all(r["status"] != "open" for r in gateway.records()) else None)
            records = {record["id"]: record for record in gateway.records()}
            assert set(records) == ids
            assert {(r["status"], r["error_type"]) for r in records.values()} == {("interrupted", "gateway_stopped")}
            assert all(record["ended_at"] >= record["started_at"] for record in records.values())
            assert gateway.ask("/openai/v1/models").status == 200


def test_kill_9_of_the_parent_takes_the_workers_along(tmp_path: Path) -> None:
    """Workers whose parent is gone exit at once, so that nothing runs unsupervised."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server="workers = 2")
        with gateways.running(tmp_path) as gateway:
            workers = gateway.workers()
            assert len(workers) == 2
            gateway.process.kill()
            gateway.process.wait()
            gateways.eventually(lambda: True if not any(map(is_alive, workers)) else None)


def test_a_killed_worker_is_replaced_and_its_requests_end(tmp_path: Path) -> None:
    """A worker that dies is started again, and what it had open is interrupted while the others serve."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway:
            (response,) = open_streams(gateway, fake, 1)
            (worker,) = gateway.workers()
            os.kill(worker, signal.SIGKILL)
            record = gateway.record(response.headers[ID])
            assert record["status"] == "interrupted"
            response.close()

            def replaced() -> bool | None:
                try:
                    return gateway.ask("/openai/v1/models").status == 200 or None
                except OSError:
                    return None

            gateways.eventually(replaced)
            assert gateway.workers() != [worker]


def test_a_second_serve_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Two gateways on one journal would ship it twice; the second says who is there and exits 1."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway:
            second = gateways.bridgecore(tmp_path, "serve")
            assert second.returncode == 1
            assert f"another gateway (process {gateway.process.pid}) serves from" in second.stderr
            assert second.stderr.count("\n") == 1
            assert gateway.ask("/openai/v1/models").status == 200


def test_a_taken_port_is_refused(tmp_path: Path, gateway: Gateway) -> None:
    """A port that another gateway listens on is not shared with it silently."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9")
    refused = gateways.bridgecore(tmp_path, "serve", "--port", str(gateway.port))
    assert refused.returncode == 1
    assert f"cannot listen on 127.0.0.1:{gateway.port}: Address already in use" in refused.stderr


def test_sigterm_lets_streams_end(tmp_path: Path) -> None:
    """While it drains the gateway takes nothing new, and what runs ends as if nothing had happened."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server="")
        config = tmp_path / "bridgecore.toml"
        config.write_text(config.read_text().replace("unready_s = 0.1", "unready_s = 2"))
        with gateways.running(tmp_path) as gateway:
            (response,) = open_streams(gateway, fake, 1)
            gateway.process.send_signal(signal.SIGTERM)
            gateways.eventually(lambda: True if gateway.ask("/-/readyz").status == 503 else None)
            refused = gateway.ask(STREAM, BODIES[STREAM])
            assert refused.status == 503
            assert refused.headers["retry-after"]
            assert gateway.ask("/-/healthz").status == 200
            fake.release(1000)
            with response:
                assert b"response.completed" in response.read()
            assert gateway.process.wait(30) == 0
    (record,) = gateways.read_records(tmp_path)
    assert record["status"] == "completed"


def test_the_drain_deadline_ends_and_records_what_still_runs(tmp_path: Path) -> None:
    """A stream that outlives `drain_s` is told, aborted, and recorded as interrupted with its tokens."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server="drain_s = 0.5")
        with gateways.running(tmp_path) as gateway:
            fake.push(Script(gate=True, input_tokens=5))
            response = gateway.open("/anthropic/v1/messages", BODIES["/anthropic/v1/messages"] | {"stream": True})
            assert response.read1()
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)) as broken:
                response.read()
            response.close()
            assert gateway.process.wait(30) == 0
        if isinstance(broken.value, http.client.IncompleteRead):
            assert b"event: error" in broken.value.partial
    (record,) = gateways.read_records(tmp_path)
    assert (record["status"], record["error_type"]) == ("interrupted", "gateway_stopped")
    assert record["input_tokens"] == 5


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """Somebody who presses Ctrl-C twice does not wait for streams; the next start ends them."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway:
            (response,) = open_streams(gateway, fake, 1)
            gateway.process.send_signal(signal.SIGINT)
            gateways.eventually(lambda: True if b"draining" in (tmp_path / "gateway.log").read_bytes() else None)
            assert gateway.stop(signal.SIGINT) == 0
            response.close()
        (record,) = gateways.read_records(tmp_path)
        assert record["status"] == "interrupted"


@pytest.mark.parametrize("policy", ["spool", "reject"])
def test_a_locked_database_loses_no_record(tmp_path: Path, policy: str) -> None:
    """While another process locks the store, `spool` serves on and `reject` refuses; nothing is lost either way."""
    with fakeprovider.running() as fake:
        more = f'[journal]\nmax_lag_s = 0.3\non_store_failure = "{policy}"'
        gateways.write_config(tmp_path, fake.url, more=more)
        with gateways.running(tmp_path) as gateway, closing(sqlite3.connect(tmp_path / "bridgecore.db")) as other:
            assert gateway.ask(STREAM, BODIES[STREAM]).status == 200
            other.execute("BEGIN IMMEDIATE")
            served = [gateway.ask(STREAM, BODIES[STREAM]) for _ in range(5)]
            log = tmp_path / "gateway.log"
            gateways.eventually(lambda: True if b"shipping_failed" in log.read_bytes() else None)
            if policy == "reject":
                refused = gateways.eventually(
                    lambda: answer if (answer := gateway.ask(STREAM, BODIES[STREAM])).status == 503 else None
                )
                assert "have not reached the store" in refused.json["error"]["message"]
                assert refused.headers["retry-after"]
                assert gateway.ask("/-/readyz").status == 503
            else:
                served += [gateway.ask(STREAM, BODIES[STREAM]) for _ in range(5)]
            assert {answer.status for answer in served} == {200}
            other.rollback()
            served.append(
                gateways.eventually(
                    lambda: answer if (answer := gateway.ask(STREAM, BODIES[STREAM])).status == 200 else None
                )
            )
            assert gateway.record(served[-1].headers[ID])["status"] == "completed"
            recorded = {record["id"] for record in gateway.records()}
            assert {answer.headers[ID] for answer in served} <= recorded
            assert len(recorded) == len(fake.requests)


def test_leaves_nothing_behind(tmp_path: Path) -> None:
    """After a clean stop the journal holds no worker's folder and no process is left."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server="workers = 2")
        with gateways.running(tmp_path) as gateway:
            for path, body in BODIES.items():
                assert gateway.ask(path, body).status == 200
            workers = gateway.workers()
            assert gateway.stop() == 0
            assert not any(map(is_alive, workers))
        assert sorted(path.name for path in (tmp_path / "bridgecore.db.journal").iterdir()) == ["id", "lock"]
        assert len(gateways.read_records(tmp_path)) == 3
        assert "Traceback" not in (tmp_path / "gateway.log").read_text()


def test_secrets_reach_no_log_and_no_record(tmp_path: Path) -> None:
    """Neither the gateway key nor a provider key stands anywhere but where it was put."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url, server='access_log = true\nlog_level = "debug"')
        with gateways.running(tmp_path) as gateway:
            for path, body in BODIES.items():
                gateway.ask(path, body)
                gateway.ask(
                    path, body, headers={"x-bridge-token": gateway.key, "authorization": "Bearer sk-own-key-000"}
                )
                gateway.ask(path, b"{")
                gateway.ask(path, body, headers={"x-api-key": gateway.key})
                gateway.ask(f"{path}/{gateway.key}", body)
            secret = gateway.key.split("_")[2].encode()
            gateway.stop()
        for file in tmp_path.rglob("*"):
            if file.is_file() and file.name != "bridgecore.toml":
                data = file.read_bytes()
                for value in (secret, b"central-openai-key", b"central-anthropic-key", b"sk-own-key-000"):
                    assert value not in data, file


def test_workers_do_not_import_what_only_the_parent_needs() -> None:
    """A worker starts fast and small: neither SQLAlchemy nor Alembic is in it, and no cipher before it is needed."""
    heavy = {"sqlalchemy", "alembic", "httpx", "cryptography"}
    code = f"import sys, bridgeserver.app; print({heavy} & sys.modules.keys())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output == "set()\n"


def paste(command: str) -> tuple[int, Any]:
    """Do what a printed curl line says, on machines without curl as well; return the status and the JSON."""
    _curl, url, *options = shlex.split(command)
    assert options[-2] == "-d"
    headers = dict(
        value.split(": ") for flag, value in zip(options[:-2:2], options[1:-2:2], strict=True) if flag == "-H"
    )
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc, timeout=10)
    connection.request("POST", address.path, options[-1], headers)
    with connection.getresponse() as response:
        status, body = response.status, response.read()
    connection.close()
    return status, json.loads(body)


def test_dev_mode_prints_commands_that_work(tmp_path: Path) -> None:
    """`serve --dev` needs no account and no configuration; its curl lines can be pasted, and the old key is revoked."""

    def start() -> tuple["subprocess.Popen[str]", str, list[str]]:
        process = subprocess.Popen(
            [sys.executable, "-m", "bridgeserver", "serve", "--dev", "--port", "0"],
            cwd=tmp_path,
            env=gateways.clean_environment(),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        lines = list[str]()
        while not lines or "Ctrl-C" not in lines[-1]:
            assert process.poll() is None
            lines.append(process.stdout.readline().rstrip())
        key = next(line.split()[-1] for line in lines if line.startswith("gateway key"))
        return process, key, [line for line in lines if line.startswith("curl ")]

    def stop(process: "subprocess.Popen[str]") -> None:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stdout is not None
        process.stdout.close()

    process, first_key, commands = start()
    assert len(commands) == 3
    for command in commands:
        status, answer = paste(command)
        assert status == 200
        assert "fake provider" in json.dumps(answer)
    stop(process)
    process, second_key, commands = start()
    assert paste(commands[0])[0] == 200
    assert paste(commands[0].replace(second_key, first_key))[0] == 401
    stop(process)


def test_demo_agrees_with_itself(tmp_path: Path) -> None:
    """`bridgecore demo` runs three protocols, blocking and streaming, and exits 0 when both sides agree."""
    done = gateways.bridgecore(tmp_path, "demo")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line for line in done.stdout.splitlines() if "blocking" in line or "streaming" in line]
    assert len(rows) == 6
    assert all(row.rstrip().endswith("yes") for row in rows)
    assert not any(tmp_path.iterdir())


def test_check_names_every_mistake_and_serve_does_not_start(tmp_path: Path) -> None:
    """File, key, what was found and what is expected, all at once, exit code 1, nothing created."""
    (tmp_path / "bridgecore.toml").write_text(
        '[server]\nport = "x"\nworker = 2\n[[providers]]\nname = "A B"\ntype = "x"\n'
    )
    for command in ("check", "serve"):
        done = gateways.bridgecore(tmp_path, command)
        assert done.returncode == 1
        for word in ("server.port", "server.worker", "providers[0].name", "providers[0].type"):
            assert word in done.stderr
        assert done.stderr.count("bridgecore.toml") >= 4
    assert [path.name for path in tmp_path.iterdir()] == ["bridgecore.toml"]


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Return what the command prints as JSON."""
    return [json.loads(line) for line in commandlab.bridgecore(folder, "records", "--json").stdout.splitlines()]


def test_records_follow_prints_what_ends(gateway: Gateway) -> None:
    """`records --follow --json` prints an interception once it has ended, and nothing that ended before."""
    gateway.count_recorded()
    process = subprocess.Popen(
        [sys.executable, "-m", "bridgeserver", "records", "--follow", "--json"],
        cwd=gateway.folder,
        env=gateways.clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        seen = list[str]()
        ids = list[str]()

        def follows() -> bool | None:
            # Until the command has begun to follow, what ends is of the past to it.
            ids.append(gateway.ask("/openai/v1/responses", BODIES["/openai/v1/responses"]).headers[ID])
            assert process.stdout is not None
            if select.select([process.stdout], [], [], 0.3)[0]:
                seen.append(process.stdout.readline())
            return True if seen else None

        gateways.eventually(follows)
        process.terminate()
    assert json.loads(seen[0])["id"] in ids
    assert json.loads(seen[0])["status"] == "completed"


def test_new_workers_take_over_on_sigusr2(tmp_path: Path) -> None:
    """SIGUSR2 starts a new worker, lets the old one finish its streams, and answers all the while."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway:
            (response,) = open_streams(gateway, fake, 1)
            (old,) = gateway.workers()
            gateway.process.send_signal(signal.SIGUSR2)
            gateways.eventually(lambda: True if len(gateway.workers()) == 2 else None)
            fake.release(1000)
            with response:
                assert b"response.completed" in response.read()
            gateways.eventually(lambda: True if not is_alive(old) else None)
            assert gateway.ask("/openai/v1/models").status == 200
            assert gateway.record(response.headers[ID])["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_to_the_process_group_are_for_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to the whole group, from a terminal or a service manager, ends no worker before its time."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        config = tmp_path / "bridgecore.toml"
        config.write_text(config.read_text().replace("unready_s = 0.1", "unready_s = 2"))
        with gateways.running(tmp_path) as gateway:
            workers = gateway.workers()
            os.killpg(gateway.process.pid, number)
            if number == signal.SIGTERM:
                gateways.eventually(lambda: True if gateway.ask("/-/readyz").status == 503 else None)
                assert gateway.process.wait(30) == 0
            else:
                log = tmp_path / "gateway.log"
                gateways.eventually(lambda: True if log.read_bytes().count(b"reloaded") == 2 else None)
                assert gateway.ask("/openai/v1/models").status == 200
                assert gateway.workers() == workers
        assert "Unexpected exit" not in (tmp_path / "gateway.log").read_text()


def test_a_closed_log_pipe_does_not_kill_the_gateway(tmp_path: Path) -> None:
    """When whoever read the log is gone, the gateway serves on."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        reader, writer = os.pipe()
        with gateways.running(tmp_path, stderr=writer) as gateway:
            os.close(writer)
            os.close(reader)
            gateway.process.send_signal(signal.SIGHUP)  # logs a line
            for _ in range(20):
                assert gateway.ask("/openai/v1/models").status == 200
            assert gateway.process.poll() is None


def test_the_commands_for_keys_users_providers_and_records(tmp_path: Path) -> None:
    """Keys are printed once and alone, lists show no secret, wrong usage exits 2."""
    gateways.write_config(tmp_path, "http://127.0.0.1:9")
    created = gateways.bridgecore(tmp_path, "keys", "create", "--user", "ann", "--name", "laptop", "--admin")
    token = created.stdout.strip()
    assert created.stdout.count("\n") == 1
    assert token.startswith("bc_")
    _prefix, key_id, secret = token.split("_")
    listed = commandlab.bridgecore(tmp_path, "keys", "list").stdout
    assert key_id in listed
    assert secret not in listed
    assert "laptop" in listed
    assert "ann" in commandlab.bridgecore(tmp_path, "users", "list").stdout
    assert commandlab.bridgecore(tmp_path, "users", "disable", "ann").returncode == 0
    assert commandlab.bridgecore(tmp_path, "users", "disable", "nobody").returncode == 1
    assert commandlab.bridgecore(tmp_path, "keys", "revoke", "nothing").returncode == 1
    providers = commandlab.bridgecore(tmp_path, "providers", "list").stdout
    assert "switched-off" in providers
    assert "disabled" in providers
    assert "central" not in providers
    assert records_of(tmp_path) == []
    assert commandlab.bridgecore(tmp_path, "keys", "create").returncode == 2
    assert commandlab.bridgecore(tmp_path, "nonsense").returncode == 2
    assert gateways.bridgecore(tmp_path, "version").stdout.strip() == "0.1.0"
