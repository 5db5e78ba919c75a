"""A laboratory for the bridge pool: its time, its chance, its servers and its callers are in the test's hands."""

import asyncio
import gc
import selectors
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from bridgeserver.bridge import RequestBridge
from bridgeserver.generation import Generation
from bridgeserver.identity import Caller
from bridgeserver.pool import BridgePool
from bridgeserver.tools.tool import Catalog, Tool, ToolResult

T = TypeVar("T")

TTL_S = 900.0

ANN = Caller("u-ann", "ann", "k-1", is_admin=False)
ANN_2 = Caller("u-ann", "ann", "k-2", is_admin=False)
BOB = Caller("u-bob", "bob", "k-3", is_admin=False)
EVE = Caller("u-eve", "eve", "k-4", is_admin=True)


@asynccontextmanager
async def leased(
    pool: BridgePool, caller: Caller, generation: Generation | None = None
) -> AsyncGenerator[RequestBridge]:
    """Lease a bridge as a request does, from the generation in force unless it began with another one."""
    generation = generation or pool.generation
    with pool.find(caller, generation) or await pool.acquire(caller, generation) as bridge:
        yield bridge


class SkippingSelector(selectors.SelectSelector):
    """Where a selector would sleep, tells how long, and does not."""

    def __init__(self, skip: Callable[[float], None]) -> None:
        super().__init__()
        self._skip = skip

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready now."""
        ready = super().select(0)
        if not ready and timeout is None:
            raise RuntimeError("every task waits, and nothing is left that could wake one")
        if not ready and timeout:
            self._skip(timeout)
        return ready


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop on which time passes only when there is nothing to do, and then at once.

    So five seconds cost a test nothing, are five seconds exactly, and a test that would hang fails instead.
    """

    def __init__(self) -> None:
        self._skipped = 0.0
        super().__init__(SkippingSelector(self.skip))

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self._skipped += seconds

    def time(self) -> float:
        """Return the seconds that were skipped."""
        return self._skipped


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


async def settle() -> None:
    """Let every task run until it waits for something that the test has not done yet."""
    await turns(25)


async def turns(count: int) -> None:
    """Let the loop turn *count* times."""
    for _ in range(count):
        await asyncio.sleep(0)


class Dial:
    """One attempt to reach a caller's servers, which waits for the test's word."""

    def __init__(self, caller: Caller, generation: Generation) -> None:
        self.caller = caller
        self.generation = generation
        self.is_over = False
        self._outcome: asyncio.Future[tuple[int, bool]] = asyncio.get_running_loop().create_future()

    def answer(self, sessions: int = 0, *, is_degraded: bool = False) -> None:
        """Let it succeed, if nothing has ended it."""
        if not self._outcome.done():
            self._outcome.set_result((sessions, is_degraded))

    def fail(self, error: BaseException) -> None:
        """Let it raise, if nothing has ended it."""
        if not self._outcome.done():
            self._outcome.set_exception(error)

    @property
    def was_cancelled(self) -> bool:
        """Whether the pool gave it up."""
        return self._outcome.cancelled()

    async def outcome(self) -> tuple[int, bool]:
        """Return the number of sessions, and whether one is missing."""
        try:
            return await self._outcome
        finally:
            self.is_over = True


class Box:
    """The sessions of one bridge: they end when their gate is open, and know who still needs them."""

    def __init__(self, lab: "Lab", caller: Caller, sessions: int, is_degraded: bool) -> None:
        self.caller = caller
        self.sessions = sessions
        self.is_degraded = is_degraded
        self.leases = 0
        self.closes = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: BaseException | None = None
        self.closing_at: float | None = None
        self.closed_at: float | None = None
        self.was_cut = False
        self.catalog = Catalog()
        self._lab = lab

    async def call(self, _tool: Tool, _arguments: Mapping[str, Any]) -> ToolResult:
        """Say nothing."""
        return ToolResult(())

    async def close(self) -> None:
        """End the sessions; what is wrong about being asked to is written down."""
        self.closes += 1
        self.closing_at = now()
        if self.closes > 1:
            self._lab.wrongs.append(f"the sessions of {self.caller} were closed {self.closes} times")
        if self.leases:
            self._lab.wrongs.append(f"the sessions of {self.caller} were closed under {self.leases} leases")
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.was_cut = True
            raise
        finally:
            self.closed_at = now()

    @property
    def is_closing(self) -> bool:
        """Whether the close has begun and not ended."""
        return self.closing_at is not None and self.closed_at is None


class Request:
    """One request: takes a lease as soon as it runs, and keeps it until the test lets it end."""

    def __init__(self, lab: "Lab", pool: BridgePool, caller: Caller, generation: Generation | None) -> None:
        self.pool = pool
        self.caller = caller
        self.asked_for = generation
        self.began_in: Generation | None = None
        self.bridge: RequestBridge | None = None
        self.box: Box | None = None
        self.error: BaseException | None = None
        self.is_holding = False
        self.is_expected_to_fail = False
        self._lab = lab
        self._leased = asyncio.Event()
        self._may_end = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            self.began_in = self.asked_for or self.pool.generation
            async with leased(self.pool, self.caller, self.asked_for) as bridge:
                self.bridge = bridge
                self._check(bridge)
                with self._holding(bridge):
                    self._leased.set()
                    await self._may_end.wait()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.error = error
        finally:
            self._leased.set()

    @contextmanager
    def _holding(self, bridge: RequestBridge) -> Generator[None]:
        box = bridge.tools  # the bridge may forget its box when it is closed by force
        if isinstance(box, Box):
            self.box = box
            box.leases += 1
        self.is_holding = True
        try:
            yield
        finally:
            self.is_holding = False
            if isinstance(box, Box):
                box.leases -= 1

    def _check(self, bridge: RequestBridge) -> None:
        if (bridge.caller.user_id, bridge.caller.key_id) != (self.caller.user_id, self.caller.key_id):
            self._lab.wrongs.append(f"{self.caller} got the bridge of {bridge.caller}")
        if isinstance(bridge.tools, Box) and bridge.tools.caller != bridge.caller:
            self._lab.wrongs.append(f"{bridge.caller} got the sessions of {bridge.tools.caller}")
        if isinstance(bridge.tools, Box) and bridge.tools.closes:
            self._lab.wrongs.append(f"{self.caller} got a bridge that was shut down")
        assert self.began_in is not None
        if self.asked_for is not None:
            is_right = bridge.generation is self.asked_for
        else:  # unless a publish happened since, the first and the last of these are one
            is_right = self.began_in.number <= bridge.generation.number <= self.pool.generation.number
        if not is_right:
            self._lab.wrongs.append(f"a request of {self.began_in.number} got a bridge of {bridge.generation.number}")

    def finish(self) -> None:
        """Let it end, as soon as it has had its lease."""
        self._may_end.set()

    def cancel(self) -> None:
        """Cancel it, wherever it is."""
        self.is_expected_to_fail = True
        self.task.cancel()

    async def leased(self) -> RequestBridge:
        """Wait for the lease, and return the bridge."""
        await self._leased.wait()
        if self.error is not None:
            raise self.error
        assert self.bridge is not None
        return self.bridge

    async def served(self) -> RequestBridge:
        """Let it end, wait until it has, and return the bridge that it had."""
        self.finish()
        await self.task
        return await self.leased()

    async def failure(self) -> BaseException:
        """Wait until it has failed, and return how."""
        self.is_expected_to_fail = True
        self.finish()
        await self.task
        assert self.error is not None, "it was served"
        return self.error


class Lab:
    """Makes pools; at the end it looks that they have left nothing behind."""

    def __init__(self) -> None:
        self.loop = SkippingLoop()
        self.runner = asyncio.Runner(loop_factory=lambda: self.loop)
        self.now = 1000.0
        self.chance = 0.0
        self.sessions = 0
        self.is_degraded = False
        self.dials_at_once = True
        self.dials: list[Dial] = []
        self.boxes: list[Box] = []
        self.requests: list[Request] = []
        self.pools: list[BridgePool] = []
        self.wrongs: list[str] = []
        self.reports: list[dict[str, Any]] = []

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* on the loop of this lab."""
        return self.runner.run(coroutine)

    def open(self, *, max_bridges: int = 5000, ttl_s: float = TTL_S, has_servers: bool = True) -> BridgePool:
        """Return a new pool; its clock and its chance are those of this lab."""
        pool = BridgePool(
            Generation(1, {}),
            self.connect if has_servers else None,
            max_bridges=max_bridges,
            ttl_s=ttl_s,
            clock=lambda: self.now,
            random=lambda: self.chance,
        )
        self.pools.append(pool)
        return pool

    async def connect(self, caller: Caller, generation: Generation) -> Box:
        """Be the servers."""
        dial = Dial(caller, generation)
        self.dials.append(dial)
        if self.dials_at_once:
            dial.answer(self.sessions, is_degraded=self.is_degraded)
        box = Box(self, caller, *await dial.outcome())
        self.boxes.append(box)
        return box

    def request(self, pool: BridgePool, caller: Caller = ANN, generation: Generation | None = None) -> Request:
        """Begin a request; it runs when the test next waits."""
        request = Request(self, pool, caller, generation)
        self.requests.append(request)
        return request

    async def serve(
        self, pool: BridgePool, caller: Caller = ANN, generation: Generation | None = None
    ) -> RequestBridge:
        """Let a request begin and end, and return the bridge that it had."""
        return await self.request(pool, caller, generation).served()

    async def dial(self, pool: BridgePool, caller: Caller = ANN, generation: Generation | None = None) -> Request:
        """Begin a request and wait until its build stands at its dial, which is the last of `dials`."""
        self.dials_at_once = False
        count = len(self.dials)
        request = self.request(pool, caller, generation)
        while len(self.dials) == count:
            await asyncio.sleep(0)
        return request

    def publish(self, pool: BridgePool) -> Generation:
        """Publish the next generation."""
        generation = Generation(pool.generation.number + 1, {})
        pool.publish(generation)
        return generation

    async def end(self) -> None:
        """Let everything end, and look at what is left."""
        for dial in self.dials:
            dial.answer()
        for request in self.requests:
            request.finish()
        for box in self.boxes:
            box.gate.set()
        for pool in self.pools:
            await pool.close(60.0)
        await asyncio.gather(*(request.task for request in self.requests), return_exceptions=True)
        for request in self.requests:
            if request.error is not None and not request.is_expected_to_fail:
                raise request.error
        for pool in self.pools:
            stats = pool.stats()
            assert (stats.leased, stats.retired, stats.live) == (0, 0, 0)
            assert sum(stats.evicted.values()) == stats.shut_down  # each bridge left once, and was closed for it
        assert self.wrongs == []
        assert [box.closes for box in self.boxes] == [1] * len(self.boxes)
        assert asyncio.all_tasks() == {asyncio.current_task()}


@contextmanager
def opened() -> Generator[Lab]:
    """A lab, and nothing left of it afterwards; what its loop reports to its handler is a failure too."""
    lab = Lab()
    with lab.runner:
        lab.runner.get_loop().set_exception_handler(lambda _, report: lab.reports.append(report))
        yield lab
        lab.run(lab.end())
        gc.collect(1)
    assert lab.reports == []
