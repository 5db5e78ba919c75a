"""Writes the tables and plots of `docs/benchmarks.md` from the raw results, so that no figure is copied by hand.

python -m benchmarks.gateway.report           # rewrites what stands between the markers, and the plots
python -m benchmarks.gateway.report --check   # changes nothing; exits with 1 when it would
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.common import RESULTS, table
from benchmarks.gateway import plots
from benchmarks.gateway.budgets import Budget, budgets
from benchmarks.gateway.figures import ratio
from benchmarks.gateway.plots import Bar, Line
from benchmarks.gateway.processes import ROOT
from benchmarks.gateway.requests import BODIES, Kind
from benchmarks.gateway.results import DIRECT, KB_A_MB, LIMIT, OURS, Results, middle

PAGE = ROOT / "docs/benchmarks.md"
SHARES = ("p50", "p99", "p99.9")
REQUESTS = (Kind.CHAT, Kind.CLAUDE_100K, Kind.CLAUDE_1M)


def number(value: float) -> str:
    """Return a number with as many digits as mean something."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def spread(values: Sequence[float]) -> str:
    """Return the median, and the lowest and the highest round."""
    if not values:
        return ""
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))} to {number(max(values))})"


def _or_nothing(value: float | None) -> str:
    return "" if value is None else number(value)


def ratios(results: Results) -> str:
    """Return how many times what the gateway costs the others cost, round by round."""
    others = [name for name in results.programs if name != OURS]
    costs: dict[str, Callable[[str], list[float]]] = {
        f"CPU of a {kind}": partial(results.request_us, kind=kind) for kind in REQUESTS
    }
    costs |= {f"CPU of an event, {case}": partial(results.event_us, case=case) for case in results.cases()}
    rows = [
        [label, *(number(ratio(theirs, ours)) if (theirs := cost(name)) else "" for name in others)]
        for label, cost in costs.items()
        if (ours := cost(OURS))
    ]
    idle = results.idle_kb(OURS)
    kept = [results.idle_kb(name) for name in others]
    if idle:
        rows.append(["resident, idle", *("" if each is None else number(each / idle) for each in kept)])
    return table([f"times {OURS}'s worker", *(results.title(name) for name in others)], rows)


def budget_table(results: Results) -> str:
    """Return all budgets, and whether they are met."""
    return table(["budget", "limit", "measured", "met"], [_budget(budget) for budget in budgets(results)])


def _budget(budget: Budget) -> list[str]:
    limit = f"{'≥' if budget.is_least else '≤'} {budget.limit:,g} {budget.unit}"
    measured = "not measured" if budget.measured is None else f"{number(budget.measured)} {budget.unit}"
    return [budget.name, limit, measured, {None: "", True: "yes", False: "**no**"}[budget.is_met]]


def machine(results: Results) -> str:
    """Return what was measured, on what, and when."""
    about = results.about
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    versions = ", ".join(
        f"{each['title'].replace('`proxy_pass`', '').strip()} {each['version']}"
        for each in results.subjects
        if each["version"] and each["name"] != OURS
    )
    days = sorted({part["date"][:10] for part in results.parts.values()})
    minutes = sum(part["seconds"] for part in results.parts.values()) / 60
    wrong = results.wrong()
    return (
        f"{about['machine']}; {about['system']}; {about['python']}; {packages}"
        + (f"; {versions}" if versions else "")
        + f"; {' and '.join(days)}, {minutes:.0f} minutes; `{about['command']}`."
        + f" Load of the machine before it began: {about['load_before']}; of a machine that does something else too,"
        + f" latencies mean little. Answers that were not right, in all parts: {wrong}."
    )


def chat(results: Results) -> str:
    """Return requests a second and CPU time, program by program."""
    rows = [
        [
            results.title(name),
            kind,
            number(median(rates)),
            spread(results.request_us(name, kind)),
            spread(results.request_us(name, kind, "parent")),
        ]
        for kind in REQUESTS
        for name in (DIRECT, *results.programs)
        if (rates := results.rates(name, kind))
    ]
    return table(["", "", "requests/s", "CPU µs a request", "of its parent"], rows, words=2)


def ceiling(results: Results) -> str:
    """Return what the load generator and the upstream can do on their core."""
    sentences: list[str] = []
    for kind in REQUESTS:
        if rates := results.rates(DIRECT, kind):
            most = median(rates)
            used = ", ".join(
                f"{results.title(name)} {100 * median(through) / most:.0f} %"
                for name in results.programs
                if (through := results.rates(name, kind))
            )
            sentences.append(f"{kind} ({len(BODIES[kind]):,} bytes): {number(most)} requests/s; of that {used}.")
    return "\n".join(f"- {sentence}" for sentence in sentences)


def streams(results: Results) -> str:
    """Return the cost of an event and the time to the first one."""
    rows: list[list[str]] = []
    for case in results.cases():
        for name in (DIRECT, *results.programs):
            if first := results.first_us(name, case):
                added = results.first_added_us(name, case)
                rows.append(
                    [
                        results.title(name),
                        str(case),
                        f"{case.events_a_second:,}",
                        spread(results.event_us(name, case)),
                        spread(results.event_us(name, case, "parent")),
                        number(median(first) / 1000),
                        "" if name == DIRECT or added is None else number(added / 1000),
                    ]
                )
    header = ["", "streams", "events/s", "CPU µs an event", "of its parent", "first event, p50 ms", "added, ms"]
    return table(header, rows, words=2)


def latency(results: Results) -> str:
    """Return what is added to the latency at fixed rates."""
    rows: list[list[str]] = []
    for rate in results.paced_rates():
        for name in (DIRECT, *results.programs):
            if results.latency_us(name, rate, 0):
                values = [
                    median(results.latency_us(name, rate, place))
                    if name == DIRECT
                    else results.latency_added_us(name, rate, place) or 0.0
                    for place in range(len(SHARES))
                ]
                rows.append([results.title(name), f"{rate:,}", *(number(value / 1000) for value in values)])
    return table(["added ms; directly: all of it", "requests/s", *SHARES], rows)


def late(results: Results) -> str:
    """Return how punctual the load generator was."""
    parts = [
        f"{rate:,}/s p50 {middles[0]} µs, p99 {middles[1]} µs"
        for rate in results.paced_rates()
        if (middles := [number(median(results.late_us(rate, place))) for place in (0, 1)])
    ]
    unfit = [
        f"{results.title(row['subject'])}, which carries {row['carried']:,.0f}/s"
        for row in results.rows("latency")
        if row.get("left_out")
    ]
    left_out = f" Left out at rates beyond what they carry with some room: {'; '.join(unfit)}." if unfit else ""
    return f"Requests left later than they should by: {'; '.join(parts)}.{left_out}"


def memory(results: Results) -> str:
    """Return resident memory, and what an open stream takes."""
    rows: list[list[str]] = []
    for name in results.programs:
        idle = results.idle_kb(name)
        if idle is None:
            continue
        pss = results.idle_kb(name, measure="pss_kb")
        parent = results.idle_kb(name, "parent")
        held = "; ".join(f"{number(size)} with {count:,}" for count, size in results.held(name))
        held += "".join(f" (of {wanted:,} that were asked for)" for wanted in results.refused(name))
        busy = results.rows("memory", subject=name, streams=0)[0]["idle_us_a_second"]["worker"]
        cells = [number(idle / KB_A_MB), _or_nothing(pss and pss / KB_A_MB)]
        rows.append([results.title(name), *cells, _or_nothing(parent and parent / KB_A_MB), held, number(busy / 1000)])
    header = ["", "idle, RSS MB", "idle, PSS MB", "its parent, RSS MB", "KB more an open stream", "idle, CPU ms/s"]
    return table(header, rows)


def startup(results: Results) -> str:
    """Return the time to the first right answer."""
    rows = [[results.title(name), spread(found)] for name in results.programs if (found := results.start_s(name))]
    return table(["", "seconds from start to first right answer"], rows)


def workers(results: Results) -> str:
    """Return one worker beside two."""
    rows = [
        [
            f"{count} worker{'s' * (count > 1)}",
            spread(results.worker_rates(count)),
            spread(results.worker_us(count)),
            number(count * 1e6 / median(costs)),
        ]
        for count in (1, 2)
        if (costs := results.worker_us(count))
    ]
    header = ["", "requests/s here", "CPU µs a request, all workers", "requests/s with a core for each, computed"]
    scaling = results.scaling()
    words = "" if scaling is None else f"\n\nTwo carry {number(scaling)} times what one does, by CPU time."
    return table(header, rows) + words


def slow(results: Results) -> str:
    """Return the memory that slow clients cost."""
    rows = [
        [
            results.title(row["subject"]),
            f"{row['clients']}",
            number(row["bytes_each"] / 1e6),
            number(row["read_bytes"] / row["clients"] / 1e6),
            number(row["rss_kb_before"] / KB_A_MB),
            number(row["peak_rss_kb"] / KB_A_MB),
        ]
        for row in results.rows("slow")
    ]
    return table(["", "clients", "MB sent to each", "MB read by each", "RSS before, MB", "highest RSS, MB"], rows)


def missing(results: Results) -> str:
    """Return what each of the others does not do."""
    lines = [
        f"- **{each['title']}** {each['version']}: {each['missing']}" for each in results.subjects if each["missing"]
    ]
    return "\n".join(lines)


BLOCKS: Mapping[str, Callable[[Results], str]] = {
    "ratios": ratios,
    "budgets": budget_table,
    "machine": machine,
    "chat": chat,
    "ceiling": ceiling,
    "streams": streams,
    "latency": latency,
    "late": late,
    "memory": memory,
    "startup": startup,
    "workers": workers,
    "slow": slow,
    "missing": missing,
}


def between(text: str, marker: str, content: str) -> str:
    """Return the text with the content between the opening and the closing marker."""
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if text.count(opening) != 1 or text.count(closing) != 1 or text.index(opening) > text.index(closing):
        raise ValueError(f"expected one {opening} and after it one {closing}")
    before, _, rest = text.partition(opening)
    return f"{before}{opening}\n\n{content}\n\n{closing}{rest.partition(closing)[2]}"


def page(text: str, results: Results) -> str:
    """Return the page's text as it should be."""
    for marker, show in BLOCKS.items():
        text = between(text, marker, show(results))
    return text


def drawings(results: Results) -> Iterator[tuple[str, str]]:
    """Yield the name and the content of each plot that there are results for."""
    for name, kind in (("chat.svg", Kind.CHAT), ("body.svg", Kind.CLAUDE_1M)):
        if rows := list(_bars(results, kind)):
            title = f"CPU time of a {kind}, worker and (lighter) its parent; logarithmic"
            yield name, plots.bars(title, "µs", rows)
    for rate in results.paced_rates():
        if rate == 2000:
            found = [
                Line(results.title(name).replace("`", ""), list(_added(results, name, rate)))
                for name in sorted(results.programs, key=OURS.__ne__)
                if results.latency_us(name, rate, 0)
            ]
            title = f"Added latency of short chats, {rate:,} requests/s in an open loop"
            yield "latency.svg", plots.lines(title, "", "ms", found, dict(enumerate(SHARES)))
    if held := [
        Line(results.title(name).replace("`", ""), results.resident(name))
        for name in (OURS, LIMIT)
        if results.resident(name)
    ]:
        yield "memory.svg", plots.lines("Resident memory of a worker", "open streams", "MB", held)


def _bars(results: Results, kind: Kind) -> Iterator[Bar]:
    found = [(middle(results.request_us(name, kind)), name) for name in results.programs]
    for cost, name in sorted((cost, name) for cost, name in found if cost):
        parent = middle(results.request_us(name, kind, "parent")) or 0.0
        yield Bar(results.title(name).replace("`", ""), cost, parent, is_ours=name == OURS)


def _added(results: Results, name: str, rate: int) -> Iterator[tuple[float, float]]:
    for place in range(len(SHARES)):
        yield place, max((results.latency_added_us(name, rate, place) or 0.0) / 1000, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="docs/benchmarks.md from the raw results")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when something would change")
    parser.add_argument("--json", type=Path, default=RESULTS / "gateway.json", help="the raw results")
    parser.add_argument("--page", type=Path, default=PAGE, help="the file with the markers; plots go beside it")
    options = parser.parse_args()
    results = Results(json.loads(options.json.read_text(encoding="utf-8")))
    wanted = {options.page: page(options.page.read_text(encoding="utf-8"), results)}
    wanted |= {options.page.parent / f"benchmarks-{name}": text for name, text in drawings(results)}
    for path, text in wanted.items():
        if not options.check:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.name} is not what the results say: run python -m benchmarks.gateway.report")


if __name__ == "__main__":
    main()
