"""One call for many callers: threads, tasks and loops, with every way to leave, to fail and to be interrupted."""

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Literal, NoReturn, Self, cast

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from bridgecore.singleflight import FlightAborted, FlightGroup, FlightStats, RecursiveFlight

Policy = Literal["finish", "cancel"]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
POLICIES: tuple[Policy, ...] = ("finish", "cancel")
both_policies = pytest.mark.parametrize("policy", POLICIES)


@pytest.fixture(params=LOOPS)
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    """An event loop of each kind; what it reports to its handler fails the test."""
    reports: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        runner.get_loop().set_exception_handler(lambda _, report: reports.append(report))
        yield runner
        gc.collect(1)
    assert reports == []


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Threads enough for every test."""
    with ThreadPoolExecutor(80) as pool:
        yield pool


def ignore(loop: asyncio.AbstractEventLoop, report: dict[str, Any]) -> None:
    """Keep what a test does on purpose out of the log."""


async def settle() -> None:
    """Let every task run until it waits for something that the test has not done yet."""
    for _ in range(20):
        await asyncio.sleep(0)


def until(condition: Callable[[], bool]) -> None:
    """Give other threads the processor until *condition* holds."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.0005)


async def until_async(condition: Callable[[], bool]) -> None:
    """Let other threads and tasks run until *condition* holds."""
    while not condition():
        await asyncio.sleep(0.0005)


class Work:
    """Work for tasks that waits for the test's word and keeps a record of what happened to it."""

    def __init__(self) -> None:
        self.calls = 0
        self.cancelled = 0
        self.gates: list[asyncio.Future[Any]] = []

    async def __call__(self) -> Any:
        self.calls += 1
        gate = asyncio.get_running_loop().create_future()
        self.gates.append(gate)
        try:
            return await gate
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


class Gate:
    """Work for threads that waits for the test's word."""

    def __init__(self, outcome: object = "value") -> None:
        self.outcome = outcome
        self.calls = 0
        self.entered = threading.Event()
        self.open = threading.Event()

    def __call__(self) -> Any:
        self.calls += 1
        self.entered.set()
        assert self.open.wait(30)
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Boom(Exception):
    """An error whose constructor wants what `args` does not hold."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


async def outcome(awaitable: Awaitable[Any]) -> Any:
    """Return what *awaitable* returns or raises."""
    try:
        return await awaitable
    except BaseException as error:
        return error


# --- One caller ---------------------------------------------------------------------------------------------------


def test_do_returns_the_value_and_forgets_it() -> None:
    """Each call that finds nobody at work calls anew, with the counters to show for it."""
    group = FlightGroup()
    values = iter([1, 2])
    assert group.do("key", lambda: next(values)) == 1
    assert group.do("key", lambda: next(values)) == 2
    assert len(group) == 0
    assert group.stats() == FlightStats(started=2, joined=0, failed=0, abandoned=0)


def test_run_returns_the_value_and_forgets_it(runner: asyncio.Runner) -> None:
    """The same for tasks, whether the work waits or not."""
    group = FlightGroup()

    async def at_once() -> int:
        return 1

    async def later() -> int:
        await asyncio.sleep(0)
        return 2

    async def main() -> None:
        assert await group.run("key", at_once) == 1
        assert await group.run("key", later) == 2

    runner.run(main())
    assert len(group) == 0
    assert group.stats() == (2, 0, 0, 0)


def test_any_awaitable_will_do(runner: asyncio.Runner) -> None:
    """What `coroutine_function` returns may be a future, or an object with `__await__`."""
    group = FlightGroup()

    class Awaited:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "object"

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        assert await group.run("key", lambda: future) == "future"
        assert await group.run("key", Awaited) == "object"

    runner.run(main())


def test_run_works_inside_the_usual_wrappers(runner: asyncio.Runner) -> None:
    """`create_task`, `gather`, `wait_for`, `timeout` and task groups take what `run` returns."""
    group = FlightGroup()

    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    async def main() -> None:
        assert await asyncio.create_task(group.run("key", work)) == 7
        assert list(await asyncio.gather(group.run("key", work), group.run("key", work))) == [7, 7]
        assert await asyncio.wait_for(group.run("key", work), 30) == 7
        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(group.run("key", work))
        assert task.result() == 7

    runner.run(main())


def test_the_policy_is_checked() -> None:
    """An unknown policy is a ValueError that names the argument and what was found."""
    with pytest.raises(ValueError, match=r"on_abandon must be 'finish' or 'cancel', got 'stop'"):
        FlightGroup(cast("Any", "stop"))


def test_wrong_arguments_change_nothing(runner: asyncio.Runner) -> None:
    """An unhashable key, a callable that is none, and a missing loop raise before anything has begun."""
    group = FlightGroup()
    with pytest.raises(TypeError, match="unhashable"):
        group.do(cast("Any", []), int)
    with pytest.raises(TypeError, match="fn must be callable, got int"):
        group.do("key", cast("Any", 3))
    with pytest.raises(TypeError, match="unhashable"):
        runner.run(group.run(cast("Any", []), Work()))
    with pytest.raises(TypeError, match="coroutine_function must be callable, got str"):
        runner.run(group.run("key", cast("Any", "work")))
    with pytest.raises(TypeError, match="unhashable"):
        group.forget(cast("Any", []))
    with pytest.raises(RuntimeError, match="event loop"):
        group.run("key", Work()).send(None)
    assert group.stats() == (0, 0, 0, 0)
    assert len(group) == 0


def test_work_that_is_no_awaitable_is_a_type_error_for_all(runner: asyncio.Runner) -> None:
    """The mistake is told to everybody who waits."""
    group = FlightGroup()

    async def main() -> list[Any]:
        wrong = cast("Callable[[], Coroutine[Any, Any, int]]", lambda: 3)
        return await asyncio.gather(*(group.run("key", wrong) for _ in range(3)), return_exceptions=True)

    for error in runner.run(main()):
        assert isinstance(error, TypeError)
        assert str(error) == "coroutine_function must return an awaitable, got int"


def test_work_has_a_copy_of_the_starters_context(runner: asyncio.Runner) -> None:
    """The work sees the context variables of who started it, and its own changes stay with it."""
    group = FlightGroup()
    name = contextvars.ContextVar("name", default="none")

    async def work() -> str:
        seen = name.get()
        name.set("changed")
        await asyncio.sleep(0)
        return seen

    async def call(value: str) -> tuple[str, str]:
        name.set(value)
        return await group.run("key", work), name.get()

    async def main() -> None:
        assert list(await asyncio.gather(call("first"), call("second"))) == [("first", "first"), ("first", "second")]

    runner.run(main())


def test_the_task_shows_the_callers_coroutine(runner: asyncio.Runner) -> None:
    """`repr` and the stack of the work's task name the work, for whoever looks for what hangs."""
    group = FlightGroup()
    seen: list[str] = []

    async def load_the_model() -> None:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)
        seen.append(repr(task))

    runner.run(group.run("key", load_the_model))
    assert "load_the_model" in seen[0]


# --- Many callers -------------------------------------------------------------------------------------------------


def test_many_threads_call_once(pool: ThreadPoolExecutor) -> None:
    """64 threads on one key: one calls, the others get what it got."""
    group = FlightGroup()
    gate = Gate(object())
    results = [pool.submit(group.do, "key", gate) for _ in range(64)]
    until(lambda: group.stats().joined == 63)
    gate.open.set()
    assert {result.result(30) for result in results} == {gate.outcome}
    assert gate.calls == 1
    assert group.stats() == (1, 63, 0, 0)


def test_a_stampede_of_tasks_calls_once(runner: asyncio.Runner) -> None:
    """1,000 tasks on one key: one call, one flight, 1,000 results."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        tasks = [asyncio.create_task(group.run("key", work)) for _ in range(1000)]
        await settle()
        assert len(group) == 1
        work.gates[0].set_result("value")
        assert await asyncio.gather(*tasks) == ["value"] * 1000

    runner.run(main())
    assert work.calls == 1
    assert group.stats() == (1, 999, 0, 0)


def test_keys_and_generations_fly_apart(runner: asyncio.Runner) -> None:
    """Only the same key in the same generation is one flight; 1 and True are one key, as in a dict."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        calls = [("a", 0), ("b", 0), ("a", 1), ("a", -1), (1, 0), (True, 0), ("a", 1)]
        tasks = [asyncio.create_task(group.run(key, work, generation)) for key, generation in calls]
        await settle()
        assert len(group) == work.calls == 5
        for at, gate in enumerate(work.gates):
            gate.set_result(at)
        assert await asyncio.gather(*tasks) == [0, 1, 2, 3, 4, 4, 2]

    runner.run(main())


def test_a_task_joins_a_thread(runner: asyncio.Runner, pool: ThreadPoolExecutor) -> None:
    """A flight that a thread works for wakes tasks in their loop."""
    group = FlightGroup()
    gate = Gate()
    lead = pool.submit(group.do, "key", gate)
    assert gate.entered.wait(30)

    async def main() -> None:
        tasks = [asyncio.create_task(group.run("key", Work())) for _ in range(3)]
        await settle()
        gate.open.set()
        assert await asyncio.gather(*tasks) == ["value"] * 3

    runner.run(main())
    assert lead.result(30) == "value"
    assert group.stats() == (1, 3, 0, 0)


def test_a_thread_joins_a_task(runner: asyncio.Runner, pool: ThreadPoolExecutor) -> None:
    """A flight that a task works for wakes threads."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        task = asyncio.create_task(group.run("key", work))
        await settle()
        threads = [pool.submit(group.do, "key", Gate()) for _ in range(5)]
        await until_async(lambda: group.stats().joined == 5)
        work.gates[0].set_result("value")
        assert await task == "value"
        assert [thread.result(30) for thread in threads] == ["value"] * 5

    runner.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_loops_mix(runner: asyncio.Runner, pool: ThreadPoolExecutor, fails: bool) -> None:
    """Two foreign loops and four threads wait for a task of this loop and hear the same from it."""
    group = FlightGroup()
    work = Work()

    def elsewhere() -> Any:
        async def main() -> list[Any]:
            return await asyncio.gather(*(outcome(group.run("key", work)) for _ in range(3)))

        return asyncio.run(main())

    def thread() -> list[Any]:
        try:
            return [group.do("key", Gate())]
        except Boom as error:
            return [error]

    async def main() -> None:
        own = [asyncio.create_task(outcome(group.run("key", work))) for _ in range(2)]
        await settle()
        others = [pool.submit(elsewhere) for _ in range(2)] + [pool.submit(thread) for _ in range(4)]
        await until_async(lambda: group.stats().joined == 11)
        if fails:
            work.gates[0].set_exception(Boom("no", code=3))
        else:
            work.gates[0].set_result("value")
        results = await asyncio.gather(*own)
        for other in others:
            results += await asyncio.wrap_future(other)
        assert len(results) == 12
        if fails:
            assert len({id(result) for result in results}) == 12
            assert all(type(result) is Boom and result.code == 3 for result in results)
        else:
            assert set(results) == {"value"}

    runner.run(main())
    assert work.calls == 1


def test_the_value_is_published_before_the_slot_is_free() -> None:
    """Whoever finds no flight finds what the last step of the work has stored."""
    group = FlightGroup()
    cache: dict[str, int] = {}
    calls = 0

    def build() -> int:
        nonlocal calls
        calls += 1
        cache["key"] = calls
        return calls

    def get(barrier: threading.Barrier) -> int:
        barrier.wait(30)
        while "key" not in cache:
            group.do("key", lambda: cache.get("key") or build())
        return cache["key"]

    for _ in range(50):
        cache.clear()
        calls = 0
        barrier = threading.Barrier(4)
        threads = [threading.Thread(target=get, args=(barrier,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert calls == 1


def test_waiters_find_the_slot_free(runner: asyncio.Runner) -> None:
    """A task that is woken starts a new flight if it asks again."""
    group = FlightGroup()
    calls = 0

    async def work() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return calls

    async def twice() -> tuple[int, int]:
        return await group.run("key", work), await group.run("key", work)

    async def main() -> None:
        assert list(await asyncio.gather(twice(), twice())) == [(1, 2), (1, 2)]

    runner.run(main())


# --- Leaving ------------------------------------------------------------------------------------------------------


@both_policies
@pytest.mark.parametrize("leavers", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)])
def test_who_leaves_leaves_alone(runner: asyncio.Runner, policy: Policy, leavers: tuple[int, ...]) -> None:
    """Whoever is cancelled, starter or follower, the others get the value."""
    group = FlightGroup(policy)
    work = Work()

    async def main() -> None:
        tasks = [asyncio.create_task(group.run("key", work)) for _ in range(3)]
        await settle()
        for at in leavers:
            tasks[at].cancel()
        await settle()
        work.gates[0].set_result("value")
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for at, result in enumerate(results):
            assert isinstance(result, asyncio.CancelledError) if at in leavers else result == "value"

    runner.run(main())
    assert work.cancelled == 0
    assert group.stats() == (1, 2, 0, 0)


@pytest.mark.parametrize("ticks", range(6))
@pytest.mark.parametrize("who", ["starter", "follower", "all"])
@both_policies
def test_cancellation_at_every_step(runner: asyncio.Runner, policy: Policy, who: str, ticks: int) -> None:
    """After any number of turns of the loop a cancellation ends the waits it was meant for and no other."""
    group = FlightGroup(policy)
    calls = 0

    async def work() -> int:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return calls

    async def main() -> None:
        tasks = [asyncio.create_task(group.run("key", work)) for _ in range(2)]
        for _ in range(ticks):
            await asyncio.sleep(0)
        chosen = {"starter": tasks[:1], "follower": tasks[1:], "all": tasks}[who]
        cancelled = [task for task in chosen if task.cancel()]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for task, result in zip(tasks, results, strict=True):
            assert isinstance(result, asyncio.CancelledError) if task in cancelled else result == 1
        await settle()
        assert len(group) == 0
        assert len(asyncio.all_tasks()) == 1
        calls_before = calls
        assert await group.run("key", work) == calls_before + 1

    runner.run(main())
    assert group.stats().failed == 0


def test_finish_goes_on_without_callers(runner: asyncio.Runner) -> None:
    """Under "finish" the work of a flight that all have left goes on, and a new caller joins it."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        task = asyncio.create_task(group.run("key", work))
        await settle()
        task.cancel()
        await settle()
        assert len(group) == 1
        late = asyncio.create_task(group.run("key", work))
        await settle()
        work.gates[0].set_result("value")
        assert await late == "value"

    runner.run(main())
    assert group.stats() == (1, 1, 0, 0)


def test_finish_counts_what_nobody_hears(runner: asyncio.Runner) -> None:
    """A flight that ends with nobody waiting is abandoned; if it fails then, it is counted and nothing is logged."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        tasks = [asyncio.create_task(group.run(key, work)) for key in "ab"]
        await settle()
        for task in tasks:
            task.cancel()
        await settle()
        work.gates[0].set_result("value")
        work.gates[1].set_exception(Boom("nobody hears", code=1))
        await settle()
        assert len(group) == 0

    runner.run(main())
    assert group.stats() == (2, 0, 1, 2)


def test_nothing_but_the_group_need_hold_the_work(runner: asyncio.Runner) -> None:
    """Work that all have left survives the garbage collector, forgotten or not."""
    group = FlightGroup()
    ended: list[str] = []
    gates: list[weakref.ref[asyncio.Future[None]]] = []

    async def work() -> None:
        gate = asyncio.get_running_loop().create_future()
        gates.append(weakref.ref(gate))
        await gate
        ended.append("done")

    async def main() -> None:
        tasks = [asyncio.create_task(group.run(key, work)) for key in "ab"]
        await settle()
        while tasks:
            tasks[-1].cancel()
            await asyncio.wait([tasks.pop()])
        assert group.forget("b")
        for _ in range(3):
            gc.collect()
        for gate in gates:
            cast("asyncio.Future[None]", gate()).set_result(None)
        await settle()

    runner.run(main())
    assert ended == ["done", "done"]


def test_cancel_unlists_in_the_same_step(runner: asyncio.Runner) -> None:
    """Under "cancel" who asks while the last caller's flight is dying starts anew and never gets its error."""
    group = FlightGroup("cancel")
    work = Work()
    clean = asyncio.Event()
    order: list[str] = []

    async def slow_to_die() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            order.append("dying")
            await clean.wait()
            raise
        return "never"

    async def main() -> None:
        first = asyncio.create_task(group.run("key", slow_to_die))
        await settle()
        first.cancel()
        await asyncio.wait([first])
        assert len(group) == 0
        second = asyncio.create_task(group.run("key", work))
        await settle()
        assert order == ["dying"]
        clean.set()
        await settle()
        assert len(group) == 1
        work.gates[0].set_result("value")
        assert await second == "value"

    runner.run(main())
    assert group.stats() == (2, 0, 0, 1)


def test_cancel_before_the_first_step(runner: asyncio.Runner) -> None:
    """A flight whose only caller leaves before its task has begun never begins."""
    group = FlightGroup("cancel")
    work = Work()

    async def main() -> None:
        calls = [group.run("key", work), group.run("other", work)]
        calls[0].send(None)
        with pytest.raises(asyncio.CancelledError):
            calls[0].throw(asyncio.CancelledError())
        assert len(group) == 0
        calls[1].send(None)
        calls[1].close()
        await settle()

    runner.run(main())
    assert work.calls == 0
    assert group.stats() == (2, 0, 0, 2)


def test_cancelled_work_that_ends_otherwise(runner: asyncio.Runner) -> None:
    """Work that answers its cancellation with a value or an error is heard by nobody; the error is counted."""
    group = FlightGroup("cancel")

    async def stubborn(answer: object) -> object:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            if isinstance(answer, Exception):
                raise answer from None
        return answer

    async def main() -> None:
        tasks = [
            asyncio.create_task(group.run("a", lambda: stubborn(1))),
            asyncio.create_task(group.run("b", lambda: stubborn(ValueError()))),
        ]
        await settle()
        for task in tasks:
            task.cancel()
        await settle()
        assert all(task.cancelled() for task in tasks)
        assert len(asyncio.all_tasks()) == 1

    runner.run(main())
    assert group.stats() == (2, 0, 1, 2)


def test_a_timeout_ends_one_wait(runner: asyncio.Runner) -> None:
    """`wait_for` and `timeout` end the wait of their caller only."""
    group = FlightGroup("cancel")
    work = Work()

    async def main() -> None:
        stays = asyncio.create_task(group.run("key", work))
        await settle()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(group.run("key", work), 0.001)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await group.run("key", work)
        work.gates[0].set_result("value")
        assert await stays == "value"

    runner.run(main())
    assert work.cancelled == 0


def test_who_has_left_is_forgotten(runner: asyncio.Runner) -> None:
    """A long flight does not collect the futures of callers that gave up."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        stays = asyncio.create_task(group.run("key", work))
        leaves = asyncio.create_task(group.run("key", work))
        await settle()
        waiter = weakref.ref(cast("Any", leaves)._fut_waiter)
        assert waiter() is not None
        leaves.cancel()
        await asyncio.wait([leaves])
        gc.collect()
        assert waiter() is None
        work.gates[0].set_result("value")
        assert await stays == "value"

    runner.run(main())


def test_the_last_of_several_loops_cancels(runner: asyncio.Runner, pool: ThreadPoolExecutor) -> None:
    """The last caller may sit in another loop than the work; it is cancelled in its own."""
    group = FlightGroup("cancel")
    work = Work()
    leave = threading.Event()

    def elsewhere() -> None:
        async def main() -> None:
            task = asyncio.create_task(group.run("key", work))
            await until_async(leave.is_set)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        asyncio.run(main())

    async def main() -> None:
        task = asyncio.create_task(group.run("key", work))
        await settle()
        other = pool.submit(elsewhere)
        await until_async(lambda: group.stats().joined == 1)
        task.cancel()
        await settle()
        assert work.cancelled == 0
        leave.set()
        await asyncio.wrap_future(other)
        await until_async(lambda: work.cancelled == 1)

    runner.run(main())
    assert group.stats() == (1, 1, 0, 1)


def test_a_thread_that_works_is_a_caller(runner: asyncio.Runner, pool: ThreadPoolExecutor) -> None:
    """Under "cancel" a flight that a thread works for survives all tasks that waited for it."""
    group = FlightGroup("cancel")
    gate = Gate()
    lead = pool.submit(group.do, "key", gate)
    assert gate.entered.wait(30)

    async def main() -> None:
        task = asyncio.create_task(group.run("key", Work()))
        await settle()
        task.cancel()
        await settle()
        assert len(group) == 1
        gate.open.set()

    runner.run(main())
    assert lead.result(30) == "value"
    assert group.stats() == (1, 1, 0, 0)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system sends no signals to threads")
def test_a_waiting_thread_can_be_interrupted() -> None:
    """Control-C reaches a main thread that waits, ends its wait only, and the work goes on."""
    script = """
import signal, threading
from bridgecore.singleflight import FlightGroup
group, entered, go = FlightGroup(), threading.Event(), threading.Event()
def work():
    entered.set()
    go.wait(30)
    return "value"
results = []
leader = threading.Thread(target=lambda: results.append(group.do("key", work)))
leader.start()
entered.wait(30)
interrupted = threading.Event()
def handler(*_):
    if not interrupted.is_set():
        interrupted.set()
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, handler)
def interrupt():
    # A signal just before the wait would not end it, so it is sent until one does.
    while not group.stats().joined or not interrupted.wait(0.01):
        if group.stats().joined:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
interrupter = threading.Thread(target=interrupt)
interrupter.start()
try:
    group.do("key", work)
except KeyboardInterrupt:
    print("interrupted", len(group))
interrupter.join(30)
go.set()
leader.join(30)
print(results, len(group))
"""
    assert python(script) == "interrupted 1\n['value'] 0\n"


# --- Errors -------------------------------------------------------------------------------------------------------


def test_an_error_reaches_all_who_wait_and_nobody_later(runner: asyncio.Runner) -> None:
    """Each waiter raises an object of its own that says where the work failed; the next call is a new one."""
    group = FlightGroup()
    error = Boom("no", code=404)
    error.add_note("a note")
    work = Work()

    async def failing_work() -> None:
        await work()

    async def main() -> None:
        tasks = [asyncio.create_task(outcome(group.run("key", failing_work))) for _ in range(3)]
        await settle()
        work.gates[0].set_exception(error)
        errors = await asyncio.gather(*tasks)
        assert len({id(found) for found in errors}) == 3
        for found in errors:
            assert type(found) is Boom
            assert (found.args, found.code, found.__notes__) == (("no",), 404, ["a note"])
            names = [entry.name for entry in traceback.extract_tb(found.__traceback__)]
            assert names.count("outcome") == 1
            assert names.count("failing_work") == 1
        assert errors[0].__notes__ is not errors[1].__notes__
        new = asyncio.create_task(group.run("key", failing_work))
        await settle()
        work.gates[1].set_result(None)
        await new

    runner.run(main())
    assert group.stats() == (2, 2, 1, 0)


def test_the_only_caller_gets_the_very_object(runner: asyncio.Runner) -> None:
    """Without followers the exception is the work's own."""
    group = FlightGroup()
    error = Boom("no", code=1)

    def fail() -> NoReturn:
        raise error

    async def fail_later() -> NoReturn:
        raise error

    with pytest.raises(Boom) as caught:
        group.do("key", fail)
    assert caught.value is error
    assert runner.run(outcome(group.run("key", fail_later))) is error


def test_tracebacks_do_not_grow(runner: asyncio.Runner) -> None:
    """The traceback of the last of a thousand is as long as the first's."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        tasks = [asyncio.create_task(outcome(group.run("key", work))) for _ in range(1000)]
        await settle()
        work.gates[0].set_exception(ValueError("no"))
        errors = await asyncio.gather(*tasks)
        assert len({len(traceback.extract_tb(error.__traceback__)) for error in errors}) == 1

    runner.run(main())


def contexts(error: BaseException | None) -> Iterator[str]:
    """Yield what *error* says, and what was being handled when it was raised, and so on."""
    while error is not None:
        yield str(error)
        error = error.__context__


def test_contexts_do_not_meet(pool: ThreadPoolExecutor) -> None:
    """What one caller was handling when it called is not in the error of another."""
    group = FlightGroup()
    gate = Gate()

    def fail() -> NoReturn:
        gate()
        try:
            raise KeyError("inside")
        except KeyError:
            raise ValueError("no")  # noqa: B904

    def call(mine: str | None) -> BaseException:
        try:
            if mine is not None:
                raise LookupError(mine)
            group.do("key", fail)
        except ValueError as error:
            return error
        except LookupError:
            try:
                group.do("key", fail)
            except ValueError as error:
                return error
        raise AssertionError

    lead = pool.submit(call, "leader's")
    assert gate.entered.wait(30)
    followers = [pool.submit(call, mine) for mine in ("0", "1", None, None)]
    until(lambda: group.stats().joined == 4)
    gate.open.set()
    assert list(contexts(lead.result(30))) == ["no", "'inside'", "leader's"]
    for follower, expected in zip(followers, ("0", "1", "'inside'", "'inside'"), strict=True):
        assert list(contexts(follower.result(30))) == ["no", expected]


class Slotted(Exception):
    """An error with a slot."""

    __slots__ = ("detail", "empty")
    detail: str


class Picky(Exception):
    """An error whose `__new__` refuses to be called again."""

    def __new__(cls, key: object) -> Self:
        assert key == "the first time"
        return super().__new__(cls, "another argument")

    def __init__(self, key: object) -> None:
        pass


def decode_error() -> UnicodeDecodeError:
    return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")


def slotted() -> Slotted:
    error = Slotted("message")
    error.detail = "in a slot"
    return error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no", 3),
        KeyError("key"),
        FileNotFoundError(2, "No such file or directory", "a", None, "b"),
        ConnectionResetError(),
        decode_error(),
        ImportError("no", name="module", path="path"),
        AttributeError("no", name="attribute", obj=3),
        SyntaxError("no", ("file", 1, 2, "text")),
        ExceptionGroup("several", [ValueError(1), OSError(2, "two")]),
        slotted(),
        Picky("the first time"),
        asyncio.IncompleteReadError(b"partial", 10),
        subprocess.CalledProcessError(1, ["command"], b"out"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_every_error_is_shared_whole(runner: asyncio.Runner, error: Exception) -> None:
    """Errors of any build reach each waiter with all that they say, and as objects apart."""
    group = FlightGroup()
    work = Work()

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(outcome(group.run("key", work))) for _ in range(3)]
        await settle()
        work.gates[0].set_exception(error)
        return await asyncio.gather(*tasks)

    errors: list[Exception] = runner.run(main())
    names = [name for name in dir(error) if name[0] != "_" and name != "characters_written"]
    for found in errors:
        assert (type(found), str(found), found.args) == (type(error), str(error), error.args)
        for name in names:
            if name != "empty" and not callable(getattr(error, name)):
                assert getattr(found, name) == getattr(error, name), name
    assert len({id(found) for found in errors}) == 3


def test_an_error_without_twins_is_shared(runner: asyncio.Runner) -> None:
    """A built-in class that cannot be made from its arguments is passed on as it is, its traceback set back."""
    group = FlightGroup()
    work = Work()
    error = decode_error()
    error.args = ("not what the constructor wants",)
    many = BaseExceptionGroup("several", [error])
    many.args = ()

    async def call() -> int:
        with pytest.raises(BaseExceptionGroup) as caught:
            await group.run("key", work)
        assert caught.value is many
        return len(traceback.extract_tb(many.__traceback__))

    async def main() -> None:
        tasks = [asyncio.create_task(call()) for _ in range(3)]
        await settle()
        work.gates[0].set_exception(many)
        assert len(set(await asyncio.gather(*tasks))) == 1

    runner.run(main())


class Payload:
    """Something to hold by a weak reference."""


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("callers", [1, 3])
def test_nothing_stays_behind(callers: int, fails: bool) -> None:
    """No reference cycle keeps a result, an error or a frame, with the collector off."""
    group = FlightGroup()
    refs: list[weakref.ref[Any]] = []

    class Error(Exception):
        """An error to hold by a weak reference."""

    async def work() -> Payload:
        payload = Payload()
        refs.append(weakref.ref(payload))
        await asyncio.sleep(0)
        if fails:
            error = Error("no")
            refs.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error
        return payload

    async def call() -> None:
        try:
            await group.run("key", work)
        except Error as error:
            refs.append(weakref.ref(error))

    async def main() -> list[object]:
        await asyncio.gather(*(call() for _ in range(callers)))
        return [ref() for ref in refs]

    gc.collect()
    gc.disable()
    try:
        assert set(asyncio.run(main())) == {None}
    finally:
        gc.enable()
    assert len(refs) == 1 + fails * (1 + callers)


def test_a_context_outlives_its_flight_lightly(runner: asyncio.Runner) -> None:
    """A task that the work leaves behind holds neither the key nor the result of the flight."""
    group = FlightGroup()
    refs: list[weakref.ref[Any]] = []
    left: list[asyncio.Task[Any]] = []

    async def work() -> Payload:
        left.append(asyncio.create_task(asyncio.Event().wait()))
        payload = Payload()
        refs.append(weakref.ref(payload))
        return payload

    async def main() -> None:
        key = Payload()
        refs.append(weakref.ref(key))
        await group.run(key, work)
        del key
        await settle()
        gc.collect()
        assert [ref() for ref in refs] == [None, None]
        left[0].cancel()

    runner.run(main())


# --- Interruptions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_ends_a_thread_aborts_its_flight(pool: ThreadPoolExecutor, error: type[BaseException]) -> None:
    """The thread that works gets its own exception, those who wait FlightAborted with that cause."""
    group = FlightGroup()
    gate = Gate(error("now"))
    caught: list[BaseException] = []

    def lead() -> None:
        try:
            group.do("key", gate)
        except BaseException as own:
            caught.append(own)

    leader = pool.submit(lead)
    assert gate.entered.wait(30)
    followers = [pool.submit(group.do, "key", gate) for _ in range(2)]
    until(lambda: group.stats().joined == 2)
    gate.open.set()
    leader.result(30)
    assert caught == [gate.outcome]
    for follower in followers:
        with pytest.raises(FlightAborted, match=error.__name__) as aborted:
            follower.result(30)
        assert type(aborted.value.__cause__) is error
        assert aborted.value.__cause__ is not gate.outcome
    assert group.stats() == (1, 2, 1, 0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_loop_goes_out_of_it(error: type[BaseException]) -> None:
    """KeyboardInterrupt and SystemExit in a task's work leave the loop; those who wait get FlightAborted."""
    group = FlightGroup()
    waiters: list[asyncio.Task[Any]] = []

    async def work() -> None:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        waiters.extend(asyncio.create_task(outcome(group.run("key", work))) for _ in range(2))
        await asyncio.Event().wait()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(ignore)
    task = loop.create_task(main())
    with pytest.raises(error):
        loop.run_until_complete(task)
    for result in loop.run_until_complete(asyncio.gather(*waiters)):
        assert isinstance(result, FlightAborted)
        assert type(result.__cause__) is error
    task.cancel()
    loop.run_until_complete(asyncio.wait([task]))
    loop.close()
    gc.collect()


def test_another_base_exception_is_shared(runner: asyncio.Runner) -> None:
    """A BaseException that is nobody's own end is an error like others."""
    group = FlightGroup()

    class Stop(BaseException):
        pass

    async def work() -> NoReturn:
        await asyncio.sleep(0)
        raise Stop("now")

    async def main() -> list[Any]:
        return await asyncio.gather(*(outcome(group.run("key", work)) for _ in range(2)))

    assert [type(error) for error in runner.run(main())] == [Stop, Stop]


@both_policies
@pytest.mark.parametrize("error", [asyncio.CancelledError, GeneratorExit])
def test_work_that_cancels_itself(runner: asyncio.Runner, policy: Policy, error: type[BaseException]) -> None:
    """A CancelledError of the work's own never looks like the caller's."""
    group = FlightGroup(policy)

    async def work() -> NoReturn:
        await asyncio.sleep(0)
        raise error

    async def main() -> None:
        for result in await asyncio.gather(*(outcome(group.run("key", work)) for _ in range(2))):
            assert isinstance(result, FlightAborted)
            assert type(result.__cause__) is error
        assert len(group) == 0

    runner.run(main())
    assert group.stats() == (1, 1, 1, 0)


@pytest.mark.parametrize("ticks", range(4))
def test_work_that_is_cancelled_from_outside(runner: asyncio.Runner, ticks: int) -> None:
    """A shutdown that cancels all tasks, begun or not, ends the flight with FlightAborted."""
    group = FlightGroup()
    callers: list[asyncio.Task[Any]] = []

    async def work() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def main() -> None:
        callers.append(asyncio.create_task(outcome(group.run("key", work))))
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - {*callers, asyncio.current_task()}
        for _ in range(ticks):
            await asyncio.sleep(0)
        cancelled = [task for task in others if task.cancel()]
        result = await callers[0]
        assert isinstance(result, FlightAborted) if cancelled else result is None
        await settle()
        assert all(task.cancelled() for task in cancelled)
        assert len(group) == 0

    runner.run(main())


def test_a_closed_coroutine_ends_the_flight(runner: asyncio.Runner) -> None:
    """Whoever closes the work's coroutine under its task aborts the flight."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        caller = asyncio.create_task(outcome(group.run("key", work)))
        await settle()
        (task,) = asyncio.all_tasks() - {caller, asyncio.current_task()}
        coroutine = cast("Coroutine[Any, Any, Any]", task.get_coro())
        coroutine.close()
        assert isinstance(await caller, FlightAborted)
        with pytest.raises(asyncio.CancelledError):
            task.cancel()
            await task

    runner.run(main())


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_is_closed_under_its_work(pool: ThreadPoolExecutor, kind: str) -> None:
    """Threads and tasks of other loops that wait for a loop's work hear when it is closed; the key is free then."""
    group = FlightGroup()
    loop = LOOPS[kind]()
    loop.set_exception_handler(ignore)
    task = loop.create_task(group.run("key", Work()))
    loop.run_until_complete(settle())
    thread = pool.submit(group.do, "key", Gate())
    other = pool.submit(lambda: asyncio.run(outcome(group.run("key", Work()))))
    until(lambda: group.stats().joined == 2)
    loop.run_until_complete(settle())
    loop.close()
    with pytest.raises(FlightAborted, match="loop was closed"):
        thread.result(30)
    assert isinstance(other.result(30), FlightAborted)
    assert group.do("key", lambda: "new") == "new"
    assert group.stats() == (2, 2, 1, 0)
    del task
    gc.collect()


@pytest.mark.parametrize("kind", LOOPS)
def test_a_loop_that_was_closed_before(kind: str) -> None:
    """Whoever finds a flight of a closed loop starts anew, and does not count as having joined."""
    group = FlightGroup()
    loop = LOOPS[kind]()
    loop.set_exception_handler(ignore)
    task = loop.create_task(group.run("key", Work()))
    loop.run_until_complete(settle())
    loop.close()
    assert len(group) == 1
    assert group.do("key", lambda: "new") == "new"
    assert group.stats() == (2, 0, 1, 0)
    del task
    gc.collect()


def test_a_waiters_dead_loop_breaks_nobody(pool: ThreadPoolExecutor) -> None:
    """A loop that was closed while its task waited is passed over; the others are woken."""
    group = FlightGroup()
    gate = Gate()
    lead = pool.submit(group.do, "key", gate)
    assert gate.entered.wait(30)
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(ignore)
    dead = loop.create_task(group.run("key", Work()))
    loop.run_until_complete(settle())
    loop.close()
    follower = pool.submit(group.do, "key", gate)
    alive = pool.submit(lambda: asyncio.run(group.run("key", Work())))
    until(lambda: group.stats().joined == 3)
    gate.open.set()
    assert [each.result(30) for each in (lead, follower, alive)] == ["value"] * 3
    del dead
    gc.collect()


def test_a_loop_that_takes_no_task(runner: asyncio.Runner) -> None:
    """A task factory that raises ends the flight with its error."""
    group = FlightGroup()

    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError("no more tasks")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(refuse)
        with pytest.raises(OSError, match="no more tasks"):
            await group.run("key", Work())
        loop.set_task_factory(None)
        assert len(group) == 0

    runner.run(main())
    assert group.stats() == (1, 0, 1, 0)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks start eagerly since Python 3.12")
def test_eager_tasks(runner: asyncio.Runner) -> None:
    """Work that ends before its task is known, fails there, or waits, is like other work."""
    group = FlightGroup()

    async def work(steps: int, fails: bool) -> int:
        for _ in range(steps):
            await asyncio.sleep(0)
        if fails:
            raise KeyError(steps)
        return steps

    def eager(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = cast("Any", asyncio.Task)(coroutine, loop=loop, **(options | {"eager_start": True}))
        return task

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(cast("Any", eager))
        for steps in (0, 1):
            assert await group.run("key", partial(work, steps, fails=False)) == steps
            with pytest.raises(KeyError):
                await group.run("key", partial(work, steps, fails=True))
        assert len(group) == 0
        asyncio.get_running_loop().set_task_factory(None)

    runner.run(main())
    assert group.stats() == (4, 0, 2, 0)


# --- Recursion ----------------------------------------------------------------------------------------------------


def test_a_thread_that_asks_for_its_own_key() -> None:
    """`do` inside `do` on one key raises; the flight goes on, and other keys and generations nest."""
    group = FlightGroup()

    def work() -> str:
        with pytest.raises(RecursiveFlight):
            group.do("key", str)
        with pytest.raises(RecursiveFlight):
            contextvars.Context().run(group.do, "key", str)
        return group.do("other", lambda: group.do("key", lambda: "nested", 1))

    assert group.do("key", work) == "nested"
    assert group.stats() == (3, 0, 0, 0)


def test_a_circle_of_keys() -> None:
    """Where one key waits for another and that for the first, the innermost raises."""
    group = FlightGroup()
    with pytest.raises(RecursiveFlight):
        group.do("a", lambda: group.do("b", lambda: group.do("a", str)))
    assert group.stats() == (2, 0, 2, 0)


def test_a_task_that_asks_for_its_own_key(runner: asyncio.Runner) -> None:
    """`run` in the work, in a task that the work made, in a thread or through another key raises."""
    group = FlightGroup()

    async def work() -> list[Any]:
        own = outcome(group.run("key", Work()))
        helper = asyncio.create_task(outcome(group.run("key", Work())))
        nested = outcome(group.run("other", lambda: group.run("key", Work())))
        thread = outcome(asyncio.to_thread(group.do, "key", str))
        return [await own, await helper, await nested, await thread]

    results = runner.run(group.run("key", work))
    assert [type(result) for result in results] == [RecursiveFlight] * 4
    assert group.stats() == (2, 0, 1, 0)


def test_a_thread_that_runs_a_loop_for_its_own_key() -> None:
    """`run` under `asyncio.run` inside `do` raises, and `do` inside the work of `run` too."""
    group = FlightGroup()
    with pytest.raises(RecursiveFlight):
        group.do("key", lambda: asyncio.run(group.run("key", Work())))

    async def work() -> str:
        return group.do("key", str)

    with pytest.raises(RecursiveFlight):
        asyncio.run(group.run("key", work))


def test_do_would_block_the_loop_that_works(runner: asyncio.Runner) -> None:
    """`do` in a loop's thread for a key that a task of this loop works for raises and says why."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        task = asyncio.create_task(group.run("key", work))
        await settle()
        with pytest.raises(RecursiveFlight, match="would block that loop"):
            group.do("key", str)
        work.gates[0].set_result("value")
        assert await task == "value"

    runner.run(main())
    assert group.stats() == (1, 0, 0, 0)


def test_what_the_work_left_behind_may_ask_later(runner: asyncio.Runner) -> None:
    """A task that outlives the work that made it asks for the key like anybody."""
    group = FlightGroup()

    async def ask_later(maker: asyncio.Task[Any] | None) -> str:
        await asyncio.wait([cast("asyncio.Task[Any]", maker)])
        return await group.run("key", answer)

    async def answer() -> str:
        return "later"

    async def work() -> asyncio.Task[str]:
        return asyncio.create_task(ask_later(asyncio.current_task()))

    async def main() -> None:
        assert await (await group.run("key", work)) == "later"

    runner.run(main())
    assert group.stats() == (2, 0, 0, 0)


def test_a_chain_does_not_grow(runner: asyncio.Runner) -> None:
    """Work that starts the next work before it ends, again and again, leaves no trail of ended flights."""
    group = FlightGroup()
    current: list[asyncio.Task[None]] = []
    ended = asyncio.Event()

    async def work(number: int) -> None:
        if number:
            current[:] = [asyncio.create_task(group.run(number - 1, partial(work, number - 1)))]
            for _ in range(3):
                await asyncio.sleep(0)
        else:
            ended.set()

    async def main() -> None:
        await group.run(100, partial(work, 100))
        await ended.wait()
        gc.collect()
        assert sum(type(each).__name__ == "_Flight" for each in gc.get_objects()) < 10
        await asyncio.gather(*current)

    runner.run(main())
    assert group.stats().started == 101


def test_the_context_is_as_it_was_after_do() -> None:
    """A key is free for its own thread again, whether the work returned or raised."""
    group = FlightGroup()
    before = dict(contextvars.copy_context())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            group.do("key", lambda: 1 // 0)
        assert group.do("key", lambda: group.do("other", lambda: 1)) == 1
    assert dict(contextvars.copy_context()) == before


# --- Forgetting ---------------------------------------------------------------------------------------------------


def test_forget_starts_anew(runner: asyncio.Runner) -> None:
    """Old waiters keep the old flight; its end does not touch the new one."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        old = asyncio.create_task(group.run("key", work))
        await settle()
        assert group.forget("key")
        assert not group.forget("key")
        assert len(group) == 0
        new = asyncio.create_task(group.run("key", work))
        await settle()
        assert work.calls == 2
        work.gates[0].set_result("old")
        assert await old == "old"
        assert len(group) == 1
        late = asyncio.create_task(group.run("key", work))
        await settle()
        work.gates[1].set_result("new")
        assert [await new, await late] == ["new", "new"]

    runner.run(main())
    assert group.stats() == (2, 1, 0, 0)


def test_forget_in_a_thread(pool: ThreadPoolExecutor) -> None:
    """A second call runs while the first still does."""
    group = FlightGroup()
    first, second = Gate("first"), Gate("second")
    one = pool.submit(group.do, "key", first)
    assert first.entered.wait(30)
    assert group.forget("key")
    two = pool.submit(group.do, "key", second)
    assert second.entered.wait(30)
    first.open.set()
    assert one.result(30) == "first"
    assert len(group) == 1
    second.open.set()
    assert two.result(30) == "second"


def test_forget_one_generation_or_all(runner: asyncio.Runner) -> None:
    """A generation names one flight; none names all of the key."""
    group = FlightGroup()
    work = Work()

    async def main() -> None:
        tasks = [asyncio.create_task(group.run(key, work, at)) for key in "ab" for at in range(3)]
        await settle()
        assert group.forget("a", 1)
        assert not group.forget("a", 7)
        assert len(group) == 5
        assert group.forget("a")
        assert len(group) == 3
        for gate in work.gates:
            gate.set_result(None)
        await asyncio.gather(*tasks)

    runner.run(main())


def test_a_forgotten_flight_is_cancelled_too(runner: asyncio.Runner) -> None:
    """Under "cancel" the last caller of a forgotten flight ends it and not the one that took its place."""
    group = FlightGroup("cancel")
    work = Work()

    async def main() -> None:
        old = asyncio.create_task(group.run("key", work))
        await settle()
        group.forget("key")
        new = asyncio.create_task(group.run("key", work))
        await settle()
        old.cancel()
        await settle()
        assert work.cancelled == 1
        assert len(group) == 1
        work.gates[1].set_result("new")
        assert await new == "new"

    runner.run(main())
    assert group.stats() == (2, 0, 0, 1)


# --- Keys ---------------------------------------------------------------------------------------------------------


class Key:
    """A key of one hash whose comparison does what the test says."""

    def __init__(self, name: str, act: Callable[[], object] = lambda: None) -> None:
        self.name = name
        self.act = act

    def __hash__(self) -> int:
        return 7

    def __eq__(self, other: object) -> bool:
        self.act()
        return isinstance(other, Key) and self.name == other.name


def test_keys_that_raise_leave_the_table_sound(runner: asyncio.Runner) -> None:
    """A comparison that raises hits its caller only; flights end and leave without asking any key."""
    group = FlightGroup()
    work = Work()
    is_hostile = False

    def act() -> None:
        if is_hostile:
            raise ArithmeticError("compared")

    async def main() -> None:
        nonlocal is_hostile
        tasks = [asyncio.create_task(group.run(Key(name, act), work)) for name in "abcb"]
        await settle()
        assert len(group) == 3
        is_hostile = True
        with pytest.raises(ArithmeticError):
            group.do(Key("c", act), str)
        with pytest.raises(ArithmeticError):
            await group.run(Key("c", act), work)
        with pytest.raises(ArithmeticError):
            group.forget(Key("c", act))
        with pytest.raises(ArithmeticError):
            group.forget(Key("c", act), 0)
        assert group.stats() == (3, 1, 0, 0)
        for at in (2, 1, 0):  # the others of the same hash come first when the table is searched
            work.gates[at].set_result(at)
        assert await asyncio.gather(*tasks) == [0, 1, 2, 1]
        assert len(group) == 0

    runner.run(main())


def test_keys_that_cannot_be_hashed_twice(runner: asyncio.Runner) -> None:
    """A key is hashed once a call, and never when its flight ends."""
    group = FlightGroup()

    class Once:
        hashed = 0

        def __hash__(self) -> int:
            self.hashed += 1
            assert self.hashed == 1
            return 1

        __eq__ = object.__eq__

    assert group.do(Once(), lambda: "value") == "value"

    async def work() -> str:
        return "value"

    assert runner.run(group.run(Once(), work)) == "value"
    assert len(group) == 0


def test_keys_that_call_back_while_they_are_compared() -> None:
    """A comparison that ends the very flight that is looked up, or starts others, finds a table in order."""
    group = FlightGroup()
    loop = asyncio.new_event_loop()
    ended: list[bool] = []

    def end() -> None:
        if not ended:
            ended.append(True)
            assert group.forget(first)
            for at in range(100):
                group.do(("filler", at), partial(group.forget, ("filler", at)))

    first = Key("a", end)
    work = Work()
    task = loop.create_task(group.run(first, work))
    loop.run_until_complete(settle())
    assert group.do(Key("a"), lambda: "anew") == "anew"
    assert ended == [True]
    work.gates[0].set_result("old")
    assert loop.run_until_complete(task) == "old"
    assert len(group) == 0
    loop.close()


# --- Fork ---------------------------------------------------------------------------------------------------------


def python(script: str) -> str:
    """Return what *script* prints in an interpreter of its own; nothing may go to its standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_a_child_starts_its_own_flights() -> None:
    """In a forked child the table is empty, and the key that a thread of the parent works for is free."""
    script = """
import asyncio, os, threading
from bridgecore.singleflight import FlightGroup
group, entered, go = FlightGroup(), threading.Event(), threading.Event()
def work():
    entered.set()
    go.wait(30)
    return "parent's"
results = []
threads = [threading.Thread(target=lambda: results.append(group.do("key", work))) for _ in range(2)]
threads[0].start()
entered.wait(30)
threads[1].start()
while not group.stats().joined:
    pass
child = os.fork()
if not child:
    async def own():
        return "child's too"
    print(len(group), group.do("key", lambda: "child's"), asyncio.run(group.run("key", own)), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
go.set()
for thread in threads:
    thread.join()
print(results, group.stats() == (1, 1, 0, 0), len(group))
"""
    assert python(script) == "0 child's child's too\n[\"parent's\", \"parent's\"] True 0\n"


@needs_fork
def test_a_fork_inside_the_work() -> None:
    """The thread that forks in its own work ends it in both processes, each with its own table."""
    script = """
import os
from bridgecore.singleflight import FlightGroup
group = FlightGroup()
def work():
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0
        return "parent"
    return "child " + group.do("key", lambda: "own")
result = group.do("key", work)
print(result, len(group), flush=True)
if result != "parent":
    os._exit(0)
"""
    assert python(script) == "child own 0\nparent 0\n"


@needs_fork
def test_a_fork_inside_a_loop() -> None:
    """Tasks that wait in the child hear that the flight is void; the work is not ended there."""
    script = """
import asyncio, os
from bridgecore.singleflight import FlightAborted, FlightGroup
group = FlightGroup()
gates = []
async def work():
    gates.append(asyncio.get_running_loop().create_future())
    try:
        return await gates[-1]
    finally:
        print("work ended", flush=True)
async def step():
    for _ in range(10):
        await asyncio.sleep(0)
loop = asyncio.new_event_loop()
task = loop.create_task(group.run("key", work))
loop.run_until_complete(step())
child = os.fork()
if not child:
    try:
        loop.run_until_complete(task)
    except FlightAborted as error:
        print(error, len(group), flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
gates[0].set_result("value")
print(loop.run_until_complete(task))
loop.close()
"""
    assert python(script) == "the process was forked while the work ran 0\nwork ended\nvalue\n"


@needs_fork
def test_a_child_leaves_the_parents_work_alone() -> None:
    """Work that only the group holds is not closed in the child: its clean-up would touch what the parent uses."""
    script = """
import asyncio, gc, os
from bridgecore.singleflight import FlightGroup
group = FlightGroup()
async def work():
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        print("cleaned up", flush=True)
async def main():
    task = asyncio.ensure_future(group.run("key", work))
    for at in range(10):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await asyncio.sleep(0)
loop = asyncio.new_event_loop()
loop.run_until_complete(main())
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
gc.collect()
print(len(group), flush=True)
os._exit(0)
"""
    assert python(script) == "0\n1\n"


def test_an_interpreter_may_end_in_flight() -> None:
    """Flights under way at the end of a program print nothing."""
    script = """
import asyncio, threading
from bridgecore.singleflight import FlightGroup
group = FlightGroup()
async def main():
    task = asyncio.create_task(group.run("key", asyncio.Event().wait))
    await asyncio.sleep(0)
asyncio.run(main())
threading.Thread(target=group.do, args=("other", threading.Event().wait), daemon=True).start()
while not len(group):
    pass
print("end")
"""
    assert python(script) == "end\n"


# --- Chance -------------------------------------------------------------------------------------------------------


class Flight:
    """What the model knows of one flight."""

    def __init__(self, key: int) -> None:
        self.key = key
        self.callers: set[int] = set()
        self.is_over = False


class Model:
    """The plainest group: lists, and every rule written out."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.flights: list[Flight] = []
        self.table: dict[int, int] = {}
        self.results: list[Any] = []
        self.joined = self.failed = self.abandoned = 0

    def call(self, key: int) -> None:
        if key in self.table:
            self.joined += 1
        else:
            self.table[key] = len(self.flights)
            self.flights.append(Flight(key))
        self.flights[self.table[key]].callers.add(len(self.results))
        self.results.append(None)

    def unlist(self, number: int) -> None:
        self.table = {key: at for key, at in self.table.items() if at != number}

    def leave(self, caller: int) -> None:
        for number, flight in enumerate(self.flights):
            if caller in flight.callers and not flight.is_over:
                self.results[caller] = "left"
                flight.callers.remove(caller)
                if not flight.callers and self.policy == "cancel":
                    flight.is_over = True
                    self.abandoned += 1
                    self.unlist(number)

    def end(self, number: int, kind: str) -> None:
        flight = self.flights[number]
        if flight.is_over:
            return
        flight.is_over = True
        self.failed += kind != "value"
        self.abandoned += not flight.callers
        self.unlist(number)
        for caller in flight.callers:
            self.results[caller] = (kind, number)


OPERATIONS = st.one_of(
    st.tuples(st.just("call"), st.integers(0, 2)),
    st.tuples(st.just("leave"), st.integers(0, 9)),
    st.tuples(st.sampled_from(["value", "error", "abort"]), st.integers(0, 9)),
    st.tuples(st.just("forget"), st.integers(0, 2)),
)


class Driver:
    """A group and its model, which are told the same."""

    def __init__(self, policy: Policy) -> None:
        self.group = FlightGroup(policy)
        self.model = Model(policy)
        self.work = Work()
        self.callers: list[asyncio.Task[Any]] = []

    async def ask(self, key: int) -> Any:
        """Return what `run` brought, and how."""
        try:
            return ("value", await self.group.run(key, self.work))
        except KeyError as error:
            return ("error", error.args[0])
        except FlightAborted as error:
            return ("abort", cast("BaseException", error.__cause__).args[0])

    async def call(self, key: int) -> None:
        self.callers.append(asyncio.create_task(self.ask(key)))
        self.model.call(key)
        await settle()

    async def leave(self, caller: int) -> None:
        if caller < len(self.callers):
            self.callers[caller].cancel()
            self.model.leave(caller)

    async def forget(self, key: int) -> None:
        await settle()  # who was cancelled leaves at the next turn of the loop
        assert self.group.forget(key) == (self.model.table.pop(key, None) is not None)

    async def end(self, kind: str, number: int) -> None:
        if number < len(self.work.gates) and not self.work.gates[number].done():
            gate = self.work.gates[number]
            if kind == "value":
                gate.set_result(number)
            else:
                gate.set_exception(KeyError(number) if kind == "error" else asyncio.CancelledError(number))
            self.model.end(number, kind)
            await settle()

    def check(self) -> None:
        model = self.model
        assert len(self.group) == len(model.table)
        assert self.group.stats() == (len(model.flights), model.joined, model.failed, model.abandoned)
        for task, expected in zip(self.callers, model.results, strict=True):
            assert task.done() == (expected is not None)
            if expected == "left":
                assert task.cancelled()
            elif expected is not None:
                assert task.result() == expected


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(POLICIES), st.lists(st.lists(OPERATIONS, min_size=1, max_size=3), max_size=25))
def test_equals_the_model(policy: Policy, rounds: list[list[tuple[str, int]]]) -> None:
    """Any order of calls, departures, ends and forgets, several in one turn of the loop, goes as the model says."""
    driver = Driver(policy)
    acts = {"call": driver.call, "leave": driver.leave, "forget": driver.forget}

    async def main() -> None:
        for operations in rounds:
            for name, at in operations:
                await acts.get(name, partial(driver.end, name))(at)
            await settle()
            driver.check()

    asyncio.run(main())


def test_threads_at_random(pool: ThreadPoolExecutor) -> None:
    """Threads on few keys, with forgets and errors between: every call gets the outcome of a call for its key."""
    group = FlightGroup()
    calls = [0] * 3

    def work(key: int) -> int:
        calls[key] += 1
        if calls[key] % 5 == 0:
            raise KeyError(key)
        return key

    def client(seed: int) -> int:
        failed = 0
        for at in range(300):
            key = (seed * 7 + at * 13) % 3
            try:
                assert group.do(key, partial(work, key)) == key
            except KeyError as error:
                failed += error.args == (key,)
            if at % 17 == seed:
                group.forget(key)
        return failed

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        clients: list[Future[int]] = [pool.submit(client, seed) for seed in range(8)]
        assert sum(each.result(60) for each in clients) >= group.stats().failed > 0
    finally:
        sys.setswitchinterval(switch)
    started, joined, _, abandoned = group.stats()
    assert started + joined == 8 * 300
    assert sum(calls) <= started
    assert abandoned == len(group) == 0
