"""The gateway is killed again and again under load: what reached the provider is recorded, once."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

import gateway as gateways
import outagelab
from gateway import Gateway
from outagelab import ENGINES, Load

SEED = 8


def kill(gateway: Gateway, chance: random.Random) -> None:
    """Kill parent and workers, in any order."""
    pids = [*gateway.workers(), gateway.process.pid]
    chance.shuffle(pids)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # a worker whose parent is gone has left by itself
            assert pid != gateway.process.pid
    gateway.process.wait()


@pytest.mark.parametrize("engine_name", ENGINES)
@pytest.mark.parametrize(
    ("kills", "workers"), [pytest.param(5, 1, id="5-kills"), pytest.param(50, 2, id="50-kills", marks=pytest.mark.soak)]
)
def test_kill_9_at_any_moment(tmp_path: Path, engine_name: str, kills: int, workers: int) -> None:
    """Every request that reached the provider has exactly one interception, ended; none is invented or doubled."""
    chance = random.Random(SEED)
    sent = list[str]()
    with outagelab.provider() as fake, ENGINES[engine_name](tmp_path) as engine:
        key = outagelab.configure(tmp_path, engine, fake, server=f"workers = {workers}")
        for life in range(kills):
            with gateways.started(tmp_path, key) as gateway, Load(gateway, f"life{life}") as load:
                load.wait_for(chance.randint(1, 80))
                time.sleep(chance.random() / 20)
                kill(gateway, chance)
                load.stop()
            sent += load.sent
        with gateways.started(tmp_path, key):
            arrived = set(outagelab.reached(fake))
            records = outagelab.ended_records(
                engine, lambda found: set(outagelab.markers(record["prompt"] for record in found)) >= arrived
            )
        outagelab.judge(fake, records, sent)
        statuses = {record["status"] for record in records}
        assert {"completed", "interrupted"} <= statuses <= {"completed", "interrupted", "cancelled", "failed"}
        assert sorted(path.name for path in (tmp_path / "journal").iterdir()) == ["id", "lock"]
