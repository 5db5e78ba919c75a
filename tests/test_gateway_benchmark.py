"""The benchmark of the gateway: it runs, its answers are right, and its figures are what they are called."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))  # behind everything, so that an installed package is still the one that is tested

from benchmarks.gateway import accounting, checks, plots, report  # noqa: E402
from benchmarks.gateway.bodies import claude_request, compact, stream_events, stream_text  # noqa: E402
from benchmarks.gateway.budgets import Budget, budgets  # noqa: E402
from benchmarks.gateway.figures import added, percentile, percentiles, ratio  # noqa: E402
from benchmarks.gateway.load.paced import arrivals  # noqa: E402
from benchmarks.gateway.peers import PINS  # noqa: E402
from benchmarks.gateway.plots import Bar, Line  # noqa: E402
from benchmarks.gateway.processes import NotAlone, alone  # noqa: E402
from benchmarks.gateway.requests import Kind  # noqa: E402
from benchmarks.gateway.results import Results  # noqa: E402
from benchmarks.gateway.subjects import PEERS  # noqa: E402
from benchmarks.gateway.upstream import chunk  # noqa: E402
from benchmarks.gateway.wire import Answer, BrokenAnswer  # noqa: E402

PAGE = ROOT / "docs/benchmarks.md"
RAW = ROOT / "benchmarks/results/gateway.json"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """What a quick run writes."""
    if sys.platform != "linux":
        pytest.skip("CPU time of other processes is read from /proc")
    out = tmp_path_factory.mktemp("benchmark") / "gateway.json"
    command = [sys.executable, "-m", "benchmarks.gateway", "--quick", "--json", str(out)]
    done = subprocess.run(command, cwd=ROOT, timeout=90, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(out.read_text()))


def test_every_answer_of_a_quick_run_is_right(quick: Mapping[str, Any]) -> None:
    """Each kind of request is answered as the upstream does, by each program, and no answer under load is another."""
    names = {subject["name"] for subject in quick["about"]["subjects"]}
    assert {"direct", "bridgecore"} <= names
    assert {(row["subject"], row["kind"]) for row in quick["checks"]} == {
        (name, kind) for name in names for kind in Kind
    }
    assert {(row["status"], row["events"]) for row in quick["checks"]} == {(200, 0), (200, checks.STREAM_EVENTS)}
    assert Results(quick).wrong() == 0
    assert all(row["answered"] == row["sent"] for row in quick["latency"] if "sent" in row)
    records = next(row for row in quick["chat"] if row["kind"] == "records")
    assert records["recorded"] >= records["answered"] > 0


def test_a_quick_run_has_every_figure(quick: Mapping[str, Any], tmp_path: Path) -> None:
    """Every block of the page is filled, every budget of the gateway is measured, and the page can be checked."""
    results = Results(quick)
    lacks = any(subject["missing"] for subject in quick["about"]["subjects"])  # where others are installed
    blocks = [name for name in report.BLOCKS if name != "missing" or lacks]
    assert [name for name in blocks if len(report.BLOCKS[name](results)) < 20] == []
    others = ["2,000 requests", *(pin.title for pin in PINS.values())] + ([] if shutil.which("nginx") else ["by nginx"])
    unmeasured = [budget.name for budget in budgets(results) if budget.measured is None]
    assert [name for name in unmeasured if not any(other in name for other in others)] == []
    raw, page = tmp_path / "gateway.json", tmp_path / "benchmarks.md"
    raw.write_text(json.dumps(quick))
    shutil.copy(PAGE, page)
    command = [sys.executable, "-m", "benchmarks.gateway.report", "--json", str(raw), "--page", str(page)]
    subprocess.run(command, cwd=ROOT, check=True)
    subprocess.run([*command, "--check"], cwd=ROOT, check=True)
    assert "bridgecore" in page.read_text()
    pictures = sorted(path.name for path in tmp_path.glob("*.svg"))
    assert pictures == ["benchmarks-body.svg", "benchmarks-chat.svg", "benchmarks-memory.svg"]
    page.write_text(page.read_text().replace("MB", "GB"))
    assert subprocess.run([*command, "--check"], cwd=ROOT, check=False, capture_output=True).returncode == 1


def test_the_page_is_rendered_from_the_results() -> None:
    """A figure on the page stands in benchmarks/results, and nobody edited it by hand; without results it has none."""
    text = PAGE.read_text()
    blocks = dict(re.findall(r"<!-- (\w+) -->(.*?)<!-- /\1 -->", text, re.DOTALL))
    assert set(blocks) == set(report.BLOCKS)
    if RAW.exists():
        assert report.page(text, Results(json.loads(RAW.read_text()))) == text
    else:
        assert {content.strip() for content in blocks.values()} == {""}


@given(st.lists(st.integers(0, 1000), min_size=1), st.sampled_from([0.5, 0.99, 0.999, 1.0]))
def test_percentile(samples: Sequence[int], share: float) -> None:
    """It is the smallest sample that at least that share does not exceed."""
    found = percentile(sorted(samples), share)
    needed = math.ceil(share * len(samples))
    assert sum(sample <= found for sample in samples) >= needed
    assert sum(sample < found for sample in samples) < needed


def test_percentiles_of_known_samples() -> None:
    """Of 1 to 1000 in any order p50 is 500, p99 is 990, p99.9 is 999; of nothing there is none."""
    assert percentiles([*range(1000, 0, -1)], (0.5, 0.99, 0.999, 1.0)) == [500, 990, 999, 1000]
    with pytest.raises(ValueError, match="at least one"):
        percentile([], 0.5)


def test_rounds_are_compared_with_themselves() -> None:
    """What disturbs one round on both sides changes neither the difference nor the quotient."""
    assert added([11, 61, 12], [1, 50, 1]) == 11
    assert ratio([10, 100, 12], [5, 50, 4]) == 2
    assert ratio([10, 100], [5, 50, 1]) == 2  # a peer has fewer rounds


def test_parse_stat_of_a_name_with_parentheses() -> None:
    """Fields are counted from the end of the name, whatever is in it."""
    line = "42 (a) b (c) S 7 42 42 0 -1 4194304 100 0 0 0 250 50 3 4 20 0 1 0 100 1 2\n"
    assert accounting.parse_stat(line) == (7, 250 * accounting.TICK_US, 50 * accounting.TICK_US)


def test_parse_memory() -> None:
    """Resident and proportional size are read from a rollup, the peak from a status."""
    rollup = "55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:   2048 kB\nPss:  1024 kB\nPss_Dirty: 512 kB\n"
    assert accounting.parse_memory(rollup) == (2048, 1024)
    assert accounting.parse_peak("Name:\tx\nVmPeak:\t 9 kB\nVmHWM:\t    4096 kB\nVmRSS:\t 1 kB\n") == 4096


def test_descend_finds_the_whole_tree() -> None:
    """Children of children belong to it, and nothing else."""
    assert accounting.descend(1, {1: 0, 2: 1, 3: 2, 4: 1, 5: 9, 9: 0}) == [1, 2, 4, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_cpu_time_is_that_of_the_process() -> None:
    """What the kernel says of this process from outside is what it says inside, ended threads included."""
    before = time.process_time_ns() / 1000
    found = accounting.cpu([os.getpid()])
    assert before <= found.total <= time.process_time_ns() / 1000
    assert found.user + found.system <= found.total + 2 * accounting.TICK_US
    assert os.getpid() in accounting.tree(os.getppid())


@given(st.data(), st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.booleans())
def test_an_answer_in_any_pieces(data: st.DataObject, parts: list[bytes], is_chunked: bool) -> None:
    """However an answer is cut, its body and its end are the same."""
    body = b"".join(parts)
    if is_chunked:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire = head + b"".join(map(chunk, parts)) + b"0\r\n\r\n"
    else:
        wire = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    answer = Answer()
    found = b""
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        assert not answer.is_whole or start == len(wire)
        if start < end:
            found += answer.feed(wire[start:end])
    assert (answer.status, answer.is_whole, found, answer.body_bytes) == (200, True, body, len(body))


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"HTTP/1.1 OK\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", id="no length"),
        pytest.param(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab", id="too much"),
        pytest.param(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nx", id="too much behind chunks"),
    ],
)
def test_an_answer_that_is_broken(wire: bytes) -> None:
    """What the client does not understand is an error, never a short answer."""
    with pytest.raises(BrokenAnswer):
        Answer().feed(wire)


def test_arrivals_are_fixed_and_as_frequent_as_asked() -> None:
    """The same seed gives the same times, in order, at about the rate; another seed gives others."""
    times = arrivals(1000, 10, seed=1)
    assert times == arrivals(1000, 10, seed=1) == sorted(times)
    assert times != arrivals(1000, 10, seed=2)
    assert times[-1] < 10_000_000_000
    assert len(times) == pytest.approx(10_000, rel=0.05)


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_claude_code_body_is_as_long_as_asked(size: int) -> None:
    """It is JSON, hardly longer than asked, and its turns alternate."""
    body = claude_request(size)
    found = json.loads(body)
    assert size <= len(body) < size + 15_000
    assert compact(found) == body
    roles = [message["role"] for message in found["messages"]]
    assert {"user", "assistant"} == set(roles)
    assert len(found["tools"]) == 16


def test_a_stream_has_as_many_events_as_asked() -> None:
    """And it says the text that the check expects."""
    events = stream_events(checks.STREAM_EVENTS)
    assert len(events) == checks.STREAM_EVENTS
    assert checks.said(Kind.STREAM, b"".join(events)) == stream_text(checks.STREAM_EVENTS)


def test_a_budget_is_met_or_not() -> None:
    """Some limits are upper ones and some lower; what was not measured is neither."""
    assert Budget("cost", 10, "µs", 10).is_met
    assert Budget("cost", 10, "µs", 10.1).is_met is False
    assert Budget("load", 2, "times", 1.9, is_least=True).is_met is False
    assert Budget("cost", 10, "µs", None).is_met is None


def test_two_workers_are_compared_by_cpu_time() -> None:
    """Two that pay a quarter more for each request carry 1.6 times the load of one."""
    rows = [
        {"workers": 1, "answered": 100, "seconds": 1.0, "cpu": {"worker 0": [10_000.0, 0, 0], "parent": [1.0, 0, 0]}},
        {
            "workers": 2,
            "answered": 100,
            "seconds": 1.0,
            "cpu": {"worker 0": [6_250.0, 0, 0], "worker 1": [6_250.0, 0, 0], "parent": [1.0, 0, 0]},
        },
    ]
    results = Results({"about": {"subjects": []}, "parts": {}, "workers": rows})
    assert results.worker_us(2) == [125.0]
    assert results.scaling() == pytest.approx(1.6)


def test_plots_are_drawings() -> None:
    """They are XML, with a bar or a point for each figure and names that are safe."""
    bars = plots.bars("CPU", "µs", [Bar("a<b", 16), Bar("ours", 64, more=30, is_ours=True), Bar("theirs", 12_000)])
    drawn = ET.fromstring(bars)
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {"a<b", "16", "64 + 30", "12,000"} <= set(texts)
    widths = [float(element.get("width", "0")) for element in drawn.iter() if element.tag.endswith("rect")]
    assert all(width >= 0 for width in widths)
    lines = ET.fromstring(plots.lines("memory", "streams", "MB", [Line("ours", [(0, 35.0), (1000, 60.0)])]))
    assert len([element for element in lines.iter() if element.tag.endswith("circle")]) == 2
    assert {"1,000", "60 MB"} <= {element.text for element in lines.iter()}


def test_two_runs_do_not_measure_at_once(tmp_path: Path) -> None:
    """The second is turned away until the first has ended."""
    lock = tmp_path / "lock"
    with alone(lock), pytest.raises(NotAlone), alone(lock):
        pass
    with alone(lock):
        pass


def test_every_peer_is_pinned() -> None:
    """Who can be measured has a version and says what it does not do, and nobody else is pinned."""
    assert {peer.name for peer in PEERS} == set(PINS)
    assert all(re.fullmatch(r"[0-9.]+", pin.version) and pin.missing for pin in PINS.values())
