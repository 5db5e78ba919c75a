"""One call for all who ask for the same thing at the same time; threads, tasks and event loops share one table."""

# A flight is one call under way. The first who asks for a (key, generation) starts it, all others wait for it.
# `do` calls in the thread that asked; `run` gives the work a task of its own, so that no caller's cancellation
# reaches it. Each waiter is woken in its own world: a thread by a lock, a task by a future of its own loop.
#
# Atomicity. The GIL is the only lock, and a method is atomic until Python code runs. It runs in a key's `__hash__`
# and `__eq__`, in destructors, in an event loop's methods, and (up to 3.11) in the garbage collector, which any
# allocation of a tracked object may start. The steps that rely on it:
#   - `_board`: the look-up, the entry of a new flight, and the count of one more waiter. A flight is its own key in
#     the table; `setdefault` looks again by itself when a foreign `__eq__` changed the table under it, and puts
#     nothing in when one raises.
#   - `_end` and `_leave`: a flight is marked done and leaves the table in one step, before anybody is woken. An
#     unlisted flight has the hash that it was made with and equals nothing but itself, so removing it never asks a
#     key. Hence also nobody can join a flight that is being cancelled, or remove another one from its slot.
#   - A waiter puts its future or the lock into the flight and looks whether the flight is done in one step.
# Whatever may run Python code (allocations included) comes before such a step, or after it.
#
# Errors. A waiter never raises an exception that another one raises: the interpreter writes the raiser's frames into
# `__traceback__` and what the raiser was handling into `__context__`, so a shared object shows each waiter the frames
# of the others and keeps them alive. The work's exception goes to the last who takes it (or to the thread that
# called `do`), and the others get twins: the same class, arguments, attributes, slots, notes, cause and traceback,
# made without the class's own constructor, which may want other arguments than `args`. The traceback's tail, where
# the work failed, is shared: raising puts new entries before it and never changes it. A class that admits no twins
# (memory of its own behind a foreign `__new__`) is shared with the traceback set back at every raise, as asyncio does.
#
# Recursion. `_CHAIN` holds the innermost flight that the current context works for, and each flight knows the one
# around it; contexts are copied into tasks, `asyncio.to_thread` and `asyncio.run`. Contexts outlive flights, so a
# flight that ended lets go of everything but its parent, and ended parents are skipped and dropped on the way.
#
# Fork. The threads and loops of the parent do not run in the child: a hook there ends all flights.

cimport cython
from cpython.contextvars cimport PyContextVar_Reset, PyContextVar_Set, get_value
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdint cimport int64_t, uint64_t

import inspect
import os
from _thread import allocate_lock
from asyncio import CancelledError, _get_running_loop
from contextvars import ContextVar
from types import CoroutineType, MemberDescriptorType
from typing import NamedTuple
from weakref import WeakSet, ref

cdef extern from "Python.h":
    int PYGEN_NEXT
    int PyIter_Send(object iterator, object argument, PyObject** result) except -1
    PyObject* PyErr_GetHandledException()
    void Py_XDECREF(PyObject*)
    unsigned long Py_TPFLAGS_HEAPTYPE

cdef object _CHAIN = ContextVar("bridgecore_flight", default=None)
cdef object _GROUPS = WeakSet()
# In a forked child, what the parent's flights held: its finalizers must not touch the sockets that the parent shares.
cdef list _GRAVES = []
# What ends the one who works, and would be misread by those who wait.
cdef tuple _UNSHARED = (KeyboardInterrupt, SystemExit, GeneratorExit, CancelledError)
cdef double _FOREVER_S = 1e8
cdef object _EMPTY = object()
cdef object _HEAP_TYPE = Py_TPFLAGS_HEAPTYPE


class RecursiveFlight(RuntimeError):
    """The work asked for its own result, and would have waited for itself."""


class FlightAborted(RuntimeError):
    """The work ended without a result or an error that can be shared; its cause says why."""


FlightStats = NamedTuple("FlightStats", [("started", int), ("joined", int), ("failed", int), ("abandoned", int)])
FlightStats.__module__ = __name__
FlightStats.__doc__ = """Counters of a group, exact.

`started`: flights. `joined`: calls that waited for a flight of somebody else. `failed`: flights that ended with an
error. `abandoned`: flights that all callers had left, whether they were cancelled then or ended with nobody to hear.
"""


cdef class FlightGroup


@cython.final
@cython.freelist(16)
cdef class _Flight:
    # Its own key in the table, see the top of the file.
    cdef Py_hash_t hash
    cdef object key
    cdef int64_t generation
    cdef bint is_fresh
    """Nobody has begun the work yet; only the caller that made the flight ever sees this."""
    cdef bint is_listed
    cdef bint is_done
    cdef bint is_watched
    cdef Py_ssize_t waiting
    """Callers that will take the result, the thread that works included."""
    cdef long thread
    """The thread that works, if no loop does."""
    cdef object loop
    cdef object task
    cdef object watch
    """Weak reference to the timer that notices when `loop` is closed."""
    cdef _Flight parent
    cdef object lock
    """Held until the end; each waiting thread takes it and passes it on."""
    cdef dict futures
    """Future of each waiting task: its loop."""
    cdef object result
    cdef object error
    cdef object traceback
    """Of `error`, as the work left it."""
    cdef tuple recipe
    """Of twins of `error`."""

    def __hash__(self):
        return self.hash

    def __eq__(self, other):
        cdef _Flight flight = <_Flight>other
        if self is flight:
            return True
        if self.hash != flight.hash or self.generation != flight.generation:
            return False
        if not self.is_listed or not flight.is_listed:
            return False
        return self.key is flight.key or self.key == flight.key

    cdef object take(self):
        """Return the result to one who waited, or raise the error that is meant for it."""
        result, error, traceback = self.result, self.error, self.traceback
        self.waiting -= 1
        if not self.waiting:
            self.drop()
        if error is None:
            return result
        if self.waiting:
            if self.recipe is None:
                self.recipe = _recipe(type(error))
            twin = _twin(error, self.recipe)
            error = error if twin is None else twin
        error.__traceback__ = traceback
        raise error

    cdef object drop(self):
        """Let go of the outcome, which nobody is left to take."""
        self.result = self.error = self.traceback = self.recipe = None


cdef Py_hash_t _mixed(Py_hash_t key_hash, int64_t generation) noexcept:
    """Return the hash of (key, generation), whose flights differ in the low bits; the odd factor is 2^64 / phi."""
    cdef Py_hash_t mixed = <Py_hash_t>(<uint64_t>key_hash ^ <uint64_t>generation * <uint64_t>0x9E3779B97F4A7C15)
    return mixed if mixed != -1 else -2


cdef tuple _recipe(object kind):
    """Return what makes twins of *kind*: the built-in `__new__` below it, and the descriptors of its slots."""
    for base in kind.__mro__:
        if not base.__flags__ & _HEAP_TYPE:
            break
    members = [
        member
        for part in kind.__mro__
        if part is not BaseException and part is not object
        for member in part.__dict__.values()
        if type(member) is MemberDescriptorType
    ]
    return base.__new__, members


cdef object _slot(object member, object error):
    try:
        return member.__get__(error)
    except AttributeError:
        return _EMPTY


cdef object _twin(object error, tuple recipe=None):
    """Return a copy of *error* that was made without running code of its class, or None where there is no such way."""
    kind = type(error)
    try:
        new, members = _recipe(kind) if recipe is None else recipe
        twin = new(kind, *error.args)
        twin.args = error.args
        for member in members:
            value = _slot(member, error)
            if value is not _EMPTY and value is not _slot(member, twin):
                try:
                    member.__set__(twin, value)
                except (AttributeError, TypeError):
                    pass  # read-only: `__new__` has set it
        attributes = error.__dict__
        if attributes:
            twin.__dict__.update(attributes)
            notes = attributes.get("__notes__")
            if type(notes) is list:
                twin.__notes__ = list(notes)
        if error.__context__ is not None:
            twin.__context__ = error.__context__
        if error.__cause__ is not None:
            twin.__cause__ = error.__cause__
        twin.__suppress_context__ = error.__suppress_context__
        twin.__traceback__ = error.__traceback__
    except Exception:
        return None
    return twin


cdef object _detached(object error, object handled):
    """Return a twin of *error* that does not lead to *handled*, what its raiser was handling before the work began.

    The interpreter appends that one to the work's own chain of contexts; it belongs to the raiser's caller.
    """
    cdef list links = []
    twin = _twin(error)
    if twin is None:
        return error
    link = twin
    while handled is not None and link.__context__ is not None and link.__context__ not in links:
        links.append(link.__context__)
        context = None if link.__context__ is handled else _twin(link.__context__)
        is_suppressed = link.__suppress_context__
        link.__context__ = context
        link.__suppress_context__ = is_suppressed
        if context is None:
            break
        link = context
    return twin


cdef object _handled():
    """Return the exception that the calling thread is handling, or None."""
    cdef PyObject* handled = PyErr_GetHandledException()
    if handled is NULL:
        return None
    error = <object>handled
    Py_XDECREF(handled)
    return error


cdef _Flight _living(_Flight flight):
    """Return *flight*, or the innermost flight around it that has not ended."""
    while flight is not None and flight.is_done:
        flight = flight.parent
    return flight


cdef _Flight _innermost():
    """Return the flight that the current context works for, or None; drop from its chain what has ended."""
    cdef _Flight flight = _living(<_Flight>get_value(_CHAIN))
    cdef _Flight link = flight
    while link is not None:
        link.parent = _living(link.parent)
        link = link.parent
    return flight


def _wake(futures):
    """Tell waiting tasks that their flight has ended; runs in their own loop."""
    for future in futures:
        if not future.done():
            future.set_result(None)


async def _awaited(awaitable):
    return await awaitable


@cython.final
cdef class _Work:
    # The coroutine of a flight's task. No `async def`, because such a one is not told when it is cancelled before
    # its first step.
    cdef FlightGroup group
    cdef _Flight flight
    cdef object function
    cdef object inner

    def __getattr__(self, name):
        # The task's `repr` and stack show the caller's coroutine.
        return getattr(self.inner, name)

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.step(None)

    def send(self, value):
        return self.step(None)

    def throw(self, kind, value=None, traceback=None):
        if value is None:
            value = kind() if isinstance(kind, type) else kind
        return self.step(value)

    def close(self):
        inner = self.inner
        if self.flight is not None:
            self.end(None, GeneratorExit(), None)
        if inner is not None:
            inner.close()

    cdef object step(self, object thrown):
        cdef PyObject* out = NULL
        cdef int status
        if self.flight is None:  # closed by somebody, and its task does not know
            raise StopIteration if thrown is None else thrown
        handled = _handled()
        try:
            if self.inner is None:
                if thrown is not None:
                    raise thrown
                self.begin()
            if thrown is None:
                status = PyIter_Send(self.inner, None, &out)
                result = <object>out
                Py_XDECREF(out)
                if status == PYGEN_NEXT:
                    return result
            else:
                try:
                    return self.inner.throw(thrown)
                except StopIteration as stop:
                    result = stop.value
        except BaseException as error:
            self.end(None, error, handled)
            if isinstance(error, _UNSHARED) and not isinstance(error, GeneratorExit):
                raise
        else:
            self.end(result, None, None)
        raise StopIteration

    cdef object begin(self):
        PyContextVar_Set(_CHAIN, self.flight)
        awaitable = self.function()
        if type(awaitable) is not CoroutineType:
            if not inspect.isawaitable(awaitable):
                raise TypeError(f"coroutine_function must return an awaitable, got {type(awaitable).__name__}")
            awaitable = _awaited(awaitable)
        self.inner = awaitable

    cdef object end(self, object result, object error, object handled):
        cdef _Flight flight = self.flight
        self.flight = self.function = self.inner = None
        if error is None:
            self.group._end(flight, result, None)
        else:
            self.group._fail(flight, error, handled, False)


@cython.final
cdef class _Watch:
    # Notices that a loop was closed while a flight's task stood still in it; nobody tells the task. A closing loop
    # lets go of its timers, and nobody else holds this one.
    cdef FlightGroup group
    cdef _Flight flight

    def __call__(self):
        """Set the timer; runs in the loop."""
        if not self.flight.is_done:
            self.flight.watch = ref(self.flight.loop.call_later(_FOREVER_S, self))

    def __del__(self):
        self.group._abort(self.flight, "its event loop was closed while it ran")


@cython.final
cdef class FlightGroup:
    """Calls under way by (key, generation); whoever asks for one of them waits for it instead of calling again.

    Threads (`do`) and tasks of any event loop (`run`) mix freely on one key. Outcomes go to those who wait and are
    not remembered. *on_abandon* says what becomes of the task of a `run` that all callers have left: "finish" lets
    it go on, for whoever asks next; "cancel" cancels it, and whoever asks next starts anew.
    """

    cdef dict _table
    cdef set _unlisted
    """Flights whose work goes on although they left the table: forgotten, or cancelled. Nobody else may hold them."""
    cdef bint _cancels
    cdef Py_ssize_t _started
    cdef Py_ssize_t _joined
    cdef Py_ssize_t _failed
    cdef Py_ssize_t _abandoned
    cdef object __weakref__

    def __cinit__(self, on_abandon="finish"):
        if on_abandon != "finish" and on_abandon != "cancel":
            raise ValueError(f"on_abandon must be 'finish' or 'cancel', got {on_abandon!r}")
        self._table = {}
        self._unlisted = set()
        self._cancels = on_abandon == "cancel"
        _GROUPS.add(self)

    def __len__(self):
        """Return how many flights are under way and may be joined."""
        return len(self._table)

    def stats(self):
        """Return the counters since the group was made."""
        return FlightStats(self._started, self._joined, self._failed, self._abandoned)

    def do(self, object key, object fn, int64_t generation=0):
        """Return `fn()`, called in this thread, or what the call that is under way for *key* returns or raises.

        Waiting blocks the thread, and with it an event loop that runs in it. What ends the thread that works
        (KeyboardInterrupt, SystemExit) reaches those who wait as FlightAborted. Raises RecursiveFlight where waiting
        would never end, TypeError if *key* cannot be hashed.
        """
        cdef _Flight flight
        if not callable(fn):
            raise TypeError(f"fn must be callable, got {type(fn).__name__}")
        flight = self._board(key, generation, None)
        if not flight.is_fresh:
            return self._wait(flight)
        flight.is_fresh = False
        handled = _handled()
        try:
            token = PyContextVar_Set(_CHAIN, flight)
            try:
                result = fn()
            finally:
                PyContextVar_Reset(_CHAIN, token)
        except BaseException as error:
            self._fail(flight, error, handled, True)
            raise
        self._end(flight, result, None)
        self._leave(flight, None)
        return result

    async def run(self, object key, object coroutine_function, int64_t generation=0):
        """Return `await coroutine_function()`, or what the call that is under way for *key* returns or raises.

        The work runs in a task of its own and a copy of the first caller's context. A caller that is cancelled or
        times out ends its own wait and nothing else. FlightAborted: the work was cancelled or interrupted. Raises
        RecursiveFlight if the work waits for itself, TypeError if *key* cannot be hashed.
        """
        cdef _Flight flight
        cdef _Work work
        if not callable(coroutine_function):
            raise TypeError(f"coroutine_function must be callable, got {type(coroutine_function).__name__}")
        loop = _get_running_loop()
        if loop is None:
            raise RuntimeError("run needs a running event loop; threads call do")
        flight = self._board(key, generation, loop)
        if flight.is_fresh:
            flight.is_fresh = False
            handled = _handled()
            try:
                work = _Work.__new__(_Work)
                work.group = self
                work.flight = flight
                work.function = coroutine_function
                task = loop.create_task(work)
                if not flight.is_done:  # an eager task may have ended
                    flight.task = task
            except BaseException as error:
                self._fail(flight, error, handled, True)
                raise
        if not flight.is_done:
            future = None
            try:
                future = loop.create_future()
                if flight.futures is None:
                    futures = {}
                    if flight.futures is None:
                        flight.futures = futures
                if not flight.is_done:
                    flight.futures[future] = loop
                    await future
            except BaseException:
                self._leave(flight, future)
                raise
        return flight.take()

    def forget(self, object key, generation=None):
        """Let the next call for *key* start anew, in every generation if none is given; return whether one was listed.

        Those who wait keep what they wait for. O(flights under way) without a generation.
        """
        cdef _Flight probe = _Flight.__new__(_Flight)
        cdef _Flight flight
        cdef list found = []
        cdef Py_hash_t key_hash = hash(key)
        cdef bint was_listed = False
        probe.key = key
        probe.is_listed = True
        if generation is not None:
            probe.generation = generation
            probe.hash = _mixed(key_hash, probe.generation)
            flight = <_Flight>self._table.get(probe)
            if flight is not None:
                found.append(flight)
        else:
            for flight in list(self._table):
                probe.generation = flight.generation
                probe.hash = _mixed(key_hash, probe.generation)
                if probe == flight:
                    found.append(flight)
        for flight in found:
            if flight.is_listed:
                was_listed = True
                self._unlist(flight)
                self._unlisted.add(flight)
        return was_listed

    cdef _Flight _board(self, object key, int64_t generation, object loop):
        """Return the flight for *key*, with the caller among those who wait for it."""
        cdef _Flight flight = _Flight.__new__(_Flight)
        cdef _Flight found
        flight.hash = _mixed(hash(key), generation)
        flight.key = key
        flight.generation = generation
        flight.loop = loop
        flight.thread = PyThread_get_thread_ident()
        flight.parent = _innermost()
        flight.waiting = 1
        flight.is_fresh = flight.is_listed = True
        while True:
            found = <_Flight>self._table.setdefault(flight, flight)
            if found is flight:
                self._started += 1
                return flight
            self._refuse_recursion(found, flight)
            found.waiting += 1
            self._joined += 1
            if found.loop is None or found.loop is loop:
                return found
            try:
                if self._is_watched(found):
                    return found
            except BaseException:
                self._leave(found, None)
                raise
            self._joined -= 1
            self._leave(found, None)

    cdef object _refuse_recursion(self, _Flight found, _Flight caller):
        """Raise RecursiveFlight if *caller* would wait for itself by waiting for *found*."""
        cdef _Flight link = caller.parent
        while link is not None:
            if link is found:
                raise RecursiveFlight("the work of this key asked for the same key and would wait for itself")
            link = link.parent
        if caller.loop is not None:
            return
        if found.loop is None:
            if found.thread == caller.thread:
                raise RecursiveFlight("this thread works for the same key already and would wait for itself")
        elif found.loop is _get_running_loop():
            raise RecursiveFlight(
                "a task of the event loop in this thread works for this key, and do would block that loop for ever; "
                "await run instead"
            )

    cdef bint _is_watched(self, _Flight flight) except -1:
        """Make sure that those who wait hear of the end of a loop that is not theirs; False if it was closed."""
        cdef _Watch watch
        loop = flight.loop
        if loop.is_closed():
            if flight.is_done:
                return True
            self._abort(flight, "its event loop was closed while it ran")
            return False
        if not flight.is_watched and not flight.is_done:
            flight.is_watched = True
            watch = _Watch.__new__(_Watch)
            watch.group = self
            watch.flight = flight
            try:
                loop.call_soon_threadsafe(watch)
            except RuntimeError:
                pass  # closed meanwhile: the watch dies unset, and says so
        return True

    cdef object _wait(self, _Flight flight):
        """Block the thread until *flight* has ended; return or raise what it brought."""
        try:
            lock = flight.lock
            if lock is None:
                lock = allocate_lock()
                lock.acquire()
                if flight.lock is None:
                    flight.lock = lock
                else:
                    lock = flight.lock
            if not flight.is_done:
                lock.acquire()
                lock.release()
        except BaseException:
            self._leave(flight, None)
            raise
        return flight.take()

    cdef object _unlist(self, _Flight flight):
        if flight.is_listed:
            flight.is_listed = False
            del self._table[flight]

    cdef object _leave(self, _Flight flight, object future):
        """Take back one caller's wait; under "cancel" the last one ends the flight."""
        if future is not None and flight.futures is not None:
            flight.futures.pop(future, None)
        flight.waiting -= 1
        if flight.waiting:
            return
        if flight.is_done:
            flight.drop()
            return
        task, loop = flight.task, flight.loop
        if not self._cancels or task is None:
            return
        flight.is_done = True
        self._unlist(flight)
        self._unlisted.add(flight)
        self._abandoned += 1
        if loop is _get_running_loop():
            task.cancel()
            return
        try:
            loop.call_soon_threadsafe(task.cancel)
        except RuntimeError:
            self._unlisted.discard(flight)  # the loop was closed: the task never ends

    cdef object _fail(self, _Flight flight, object error, object handled, bint is_raised):
        """End *flight* with *error*, which the caller raises itself (and leaves the flight) if *is_raised*."""
        shared = error
        if flight.waiting > is_raised and not flight.is_done:
            if isinstance(error, _UNSHARED):
                shared = FlightAborted(f"the work was ended by {type(error).__name__}")
                shared.__cause__ = _detached(error, handled)
            elif is_raised or handled is not None:
                shared = _detached(error, handled)
        self._end(flight, None, shared)
        if is_raised:
            self._leave(flight, None)

    cdef object _abort(self, _Flight flight, str reason):
        """End *flight*, whose work has not ended and never will."""
        if not flight.is_done:
            self._end(flight, None, FlightAborted(f"the work was lost: {reason}"))
        else:
            self._unlisted.discard(flight)

    cdef object _end(self, _Flight flight, object result, object error):
        """Hand the outcome to those who wait, and free the slot, in one step; then wake them and clean up."""
        traceback = None if error is None else error.__traceback__
        if flight.is_done:
            # All had left and it was cancelled, or it was given up for lost. Only an error is news.
            if error is not None and not isinstance(error, _UNSHARED):
                self._failed += 1
        else:
            if error is not None:
                self._failed += 1
            if flight.waiting:
                flight.result = result
                flight.error = error
                flight.traceback = traceback
            else:
                self._abandoned += 1
            flight.is_done = True
            self._unlist(flight)
        if self._unlisted:
            self._unlisted.discard(flight)
        watch = flight.watch
        flight.watch = flight.key = flight.task = flight.loop = None
        if flight.lock is None and flight.futures is None and watch is None:
            return
        try:
            self._notify(flight, False)
        finally:
            handle = None if watch is None else watch()
            if handle is not None:
                handle.cancel()

    cdef object _notify(self, _Flight flight, bint is_alone):
        """Wake those who wait for *flight*, each in its own world (all in this thread if it *is_alone*)."""
        cdef dict abroad = None
        lock, futures = flight.lock, flight.futures
        flight.lock = flight.futures = None
        if lock is not None:
            lock.release()
        if not futures:
            return
        interrupt = None
        here = _get_running_loop()
        for future, loop in futures.items():
            if is_alone or loop is here:
                try:
                    if not future.done():
                        future.set_result(None)
                except Exception:
                    pass  # its loop is broken; the others are not
                except BaseException as error:
                    interrupt = error
            else:
                if abroad is None:
                    abroad = {}
                abroad.setdefault(loop, []).append(future)
        if abroad is not None:
            for loop, futures in abroad.items():
                while True:
                    try:
                        loop.call_soon_threadsafe(_wake, futures)
                    except Exception:
                        pass  # the loop was closed, and with it those who waited there
                    except BaseException as error:
                        # A signal came in the loop's code, perhaps before it took the call. Twice does no harm.
                        interrupt = error
                        continue
                    break
        if interrupt is not None:
            raise interrupt

    cdef object _void(self):
        """In a forked child: forget the flights of the parent, whose threads and loops do not run here."""
        cdef _Flight flight
        cdef list flights = [*self._table, *self._unlisted]
        for flight in flights:
            _GRAVES.append((flight, flight.task, flight.key))
            flight.is_listed = False
        self._table.clear()
        self._unlisted.clear()
        for flight in flights:
            if not flight.is_done:
                self._failed += 1
                flight.error = FlightAborted("the process was forked while the work ran")
                flight.is_done = True
                self._notify(flight, True)


def _void_all():
    for group in list(_GROUPS):
        (<FlightGroup>group)._void()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_void_all)
