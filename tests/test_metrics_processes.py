"""Metrics of a gateway in processes of its own: exact over all workers, whatever becomes of them."""

import json
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gateway as gateways
from bridgeserver import fakeprovider
from bridgeserver.fakeprovider import FakeProvider, Script
from gateway import BODIES, Gateway, eventually

TOKEN = "a-token-for-prometheus"
INPUT, OUTPUT = 7, 11


class Lab(NamedTuple):
    """A gateway with two workers, its provider, and where the parent tells its metrics."""

    gateway: Gateway
    fake: FakeProvider
    side: str

    def ask_all(self, times: int) -> None:
        """Send a request to each bridged route and one that is passed through, each over a connection of its own."""
        for _ in range(times):
            for path, body in BODIES.items():
                assert self.gateway.ask(path, body | {"stream": True}).status == 200
            assert self.gateway.ask("/openai/v1/models").status == 200

    def scrape(self) -> dict[str, float]:
        """Return the sums of all samples, by name."""
        with urlopen(f"{self.side}/-/metrics", timeout=30) as got:
            return sums(got.read().decode())

    def expected(self) -> dict[str, float]:
        """Return what there should be, by the provider's own count."""
        bridged = sum(request.method == "POST" for request in self.fake.requests)
        return {
            "bridgecore_interceptions_total": bridged,
            "bridgecore_interceptions_inflight": 0,
            "bridgecore_interceptions_duration_seconds_count": bridged,
            "bridgecore_upstream_first_byte_seconds_count": bridged,
            "bridgecore_prompts_total": bridged,
            "input tokens": bridged * INPUT,
            "output tokens": bridged * OUTPUT,
            "bridgecore_passthrough_total": len(self.fake.requests) - bridged,
            "bridgecore_upstream_sent_bytes_total": sum(len(request.body) for request in self.fake.requests),
            "bridgecore_workers_ready": 2,
        }

    def is_exact(self) -> bool | None:
        """Whether all has been told."""
        found, expected = self.scrape(), self.expected()
        return True if {name: found.get(name) for name in expected} == expected else None


def sums(text: str) -> dict[str, float]:
    """Return the sums of all samples, by name, and those of each type of tokens."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            is_token = sample.name == "bridgecore_tokens_total"
            name = f"{sample.labels['type']} tokens" if is_token else sample.name
            found[name] = found.get(name, 0) + sample.value
    return found


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A gateway with two workers."""
    folder = tmp_path_factory.mktemp("gateway")
    with fakeprovider.running() as fake:
        fake.script = Script(input_tokens=INPUT, output_tokens=OUTPUT)
        server = 'workers = 2\nadmin_listen = "127.0.0.1:0"'
        gateways.write_config(folder, fake.url, server=server, more=f'[metrics]\ntoken = "{TOKEN}"')
        with gateways.running(folder) as gateway:
            log = (folder / "gateway.log").read_text()
            listening = json.loads(next(line for line in log.splitlines() if "admin_listening" in line))
            yield Lab(gateway, fake, f"http://{listening['host']}:{listening['port']}")


def are_renewed(gateway: Gateway, before: list[int]) -> bool | None:
    """Whether none of the workers is there that were before."""
    now = gateway.workers()
    return True if len(now) == 2 and not set(now) & set(before) else None


def test_counts_are_the_providers_own(lab: Lab) -> None:
    """Over two workers; after all of them were replaced; and after one was killed that had told what it knew."""
    lab.ask_all(10)
    before = lab.gateway.workers()
    lab.gateway.process.send_signal(signal.SIGUSR2)
    lab.ask_all(10)
    eventually(partial(are_renewed, lab.gateway, before))
    lab.ask_all(5)
    eventually(lab.is_exact)
    os.kill(lab.gateway.workers()[0], signal.SIGKILL)
    lab.ask_all(5)
    eventually(lab.is_exact)
    assert lab.scrape()["bridgecore_interceptions_total"] == 90


def test_the_same_with_a_token_and_with_a_key(lab: Lab) -> None:
    """Whichever worker is asked, the answer is that of the whole gateway."""
    eventually(lab.is_exact)
    admin = gateways.make_key(lab.gateway.folder, "root", is_admin=True)
    for key, status in ((TOKEN, 200), (admin, 200), (lab.gateway.key, 403), ("", 401), (f"{TOKEN}x", 401)):
        got = lab.gateway.ask("/-/metrics", headers={"authorization": f"Bearer {key}"})
        assert got.status == status
        if status == 200:
            found, expected = sums(got.body.decode()), lab.expected()
            assert {name: found[name] for name in expected} == expected


def test_each_worker_tells_of_its_loop(lab: Lab) -> None:
    """Timers are looked at all the time, and a worker that is gone tells nothing any more."""
    with urlopen(f"{lab.side}/-/metrics", timeout=30) as got:
        text = got.read().decode()
    pids = re.findall(r'^bridgecore_loop_lag_max_seconds\{pid="([0-9]+)"\}', text, re.MULTILINE)
    assert sorted(map(int, pids)) == sorted(lab.gateway.workers())
    before = lab.scrape()["bridgecore_loop_lag_seconds_count"]
    eventually(lambda: True if lab.scrape()["bridgecore_loop_lag_seconds_count"] > before else None)


def test_connections_and_streams_that_are_open(lab: Lab) -> None:
    """Summed over the workers, and given back."""
    before = lab.scrape()["bridgecore_open_connections"]
    lab.fake.push(Script(gate=True))
    response = lab.gateway.open("/anthropic/v1/messages", BODIES["/anthropic/v1/messages"] | {"stream": True})
    eventually(lambda: True if lab.scrape()["bridgecore_open_streams"] == 1 else None)
    assert lab.scrape()["bridgecore_open_connections"] >= before
    response.close()
    eventually(lambda: True if lab.scrape()["bridgecore_open_streams"] == 0 else None)


def test_readiness_has_its_detail_there(lab: Lab) -> None:
    """Also while every worker is stopped, which answers nobody."""
    workers = lab.gateway.workers()
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        with urlopen(f"{lab.side}/-/readyz", timeout=30) as got:
            detail = json.load(got)
        assert detail["ready"]
        assert [worker["pid"] for worker in detail["workers"]] == workers or len(detail["workers"]) == 2
        assert lab.scrape()["bridgecore_workers"] == 2
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGCONT)


def test_the_log_of_the_end_says_how_much_there_was(tmp_path: Path) -> None:
    """Two sums, and not a line for each series."""
    with fakeprovider.running() as fake:
        gateways.write_config(tmp_path, fake.url)
        with gateways.running(tmp_path) as gateway:
            for path, body in BODIES.items():
                gateway.ask(path, body)
            gateway.ask("/openai/v1/models")
            assert gateway.stop() == 0
    (line,) = [line for line in (tmp_path / "gateway.log").read_text().splitlines() if '"stopped"' in line]
    assert {name: json.loads(line)[name] for name in ("interceptions", "passthrough")} == {
        "interceptions": 3,
        "passthrough": 1,
    }
