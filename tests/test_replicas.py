"""Two gateways on one database, as processes: neither ends what the other one is at."""

import os
import signal
from pathlib import Path

import pytest

import gateway as gateways
import outagelab
from bridgeserver.fakeprovider import Script
from gateway import BODIES
from outagelab import ENGINES, Engine


@pytest.mark.parametrize("engine_name", ENGINES)
def test_two_gateways_on_one_database(tmp_path: Path, engine_name: str) -> None:
    """A gateway that starts, and one that is killed, leave the other's running request alone; each ends its own."""
    path = "/openai/v1/responses"
    with outagelab.provider() as fake, ENGINES[engine_name](tmp_path) as engine:
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        first_key, second_key = (outagelab.configure(folder, engine, fake) for folder in folders)
        with gateways.started(folders[0], first_key) as first:
            fake.push(Script(gate=True), Script(gate=True))
            with first.open(path, BODIES[path] | {"stream": True}) as running:
                assert running.read1()
                gateways.eventually(lambda: outagelab.read_records(engine) or None)
                with gateways.started(folders[1], second_key) as second:
                    killed = second.open(path, BODIES[path] | {"stream": True})
                    assert killed.read1()
                    gateways.eventually(lambda: len(outagelab.read_records(engine)) == 2 or None)
                    for pid in (second.process.pid, *second.workers()):
                        os.kill(pid, signal.SIGKILL)
                    second.process.wait()
                    killed.close()
                assert [record["status"] for record in outagelab.read_records(engine)] == ["open", "open"]
                with gateways.started(folders[1], second_key):
                    gateways.eventually(lambda: statuses_are(engine, ["open", "interrupted"]))
                    fake.release(1000)
                    assert b"response.completed" in running.read()
                    gateways.eventually(lambda: statuses_are(engine, ["completed", "interrupted"]))


def statuses_are(engine: Engine, expected: list[str]) -> bool | None:
    """Whether the interceptions have these statuses, in the order of their beginning."""
    return [record["status"] for record in outagelab.read_records(engine)] == expected or None
