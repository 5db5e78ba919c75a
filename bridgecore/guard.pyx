"""How a running request is ended from outside: its client leaves, a wait takes too long, the gateway stops."""

# All of these cancel the request's task and leave the reason in its guard, and the guard's context turns the
# cancellation into that reason. A cancellation without a reason is somebody else's and passes through.

from asyncio import CancelledError

cimport cython


@cython.final
cdef class Guard:
    """The guard of one request, served by *task*; its context can be entered again. Made by `Guards.open`.

    `expect` says how long the current wait may last, which costs two assignments and no timer.
    """

    cdef readonly object cause
    """What ended the request, or None."""
    cdef object _task
    cdef Guards _guards
    cdef double _deadline
    cdef object _error

    def expect(self, double limit_s, error not None):
        """Say that what is awaited next may take *limit_s* seconds, and end the request with *error()* if not."""
        self._deadline = self._guards._now() + limit_s
        self._error = error

    def rest(self):
        """Say that what is awaited next may take as long as it does."""
        self._error = None

    def end(self, cause not None):
        """End the request because of *cause*; the first cause counts."""
        if self.cause is None:
            self.cause = cause
            self._task.cancel()

    def leave(self):
        """End the request because its client has left."""
        self.end(self._guards._left())

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _traceback):
        if self.cause is not None and isinstance(error, CancelledError):
            self._task.uncancel()
            raise self.cause from error


@cython.final
cdef class Guards:
    """The guards of all requests of a worker, with one timer that looks at them every *tick_s* seconds.

    *left* makes the cause that a client has left.
    """

    cdef object _loop
    cdef object _time
    cdef double _tick_s
    cdef object _left
    cdef set _open
    cdef object _cause
    cdef object _timer

    def __init__(self, loop not None, double tick_s, left not None):
        self._loop = loop
        self._time = loop.time
        self._tick_s = tick_s
        self._left = left
        self._open = set()
        self._timer = loop.call_later(tick_s, self._look)

    def open(self, task not None):
        """Return a guard for the request that *task* serves; raise the cause once all have been ended."""
        cdef Guard guard
        if self._cause is not None:
            raise self._cause()
        guard = Guard.__new__(Guard)
        guard._task = task
        guard._guards = self
        self._open.add(guard)
        return guard

    def close(self, Guard guard not None):
        """Take back the guard of a request that has ended."""
        self._open.discard(guard)

    def end(self, cause not None):
        """End every request that runs, and those that begin from now on, because of *cause()*."""
        cdef Guard guard
        self._cause = cause
        for guard in list(self._open):
            guard.end(cause())

    def stop(self):
        """Stop looking; all requests have ended."""
        self._timer.cancel()

    cdef double _now(self) except -1:
        return self._time()

    def _look(self):
        cdef Guard guard
        cdef double now = self._now()
        self._timer = self._loop.call_later(self._tick_s, self._look)
        for guard in list(self._open):
            if guard._error is not None and now >= guard._deadline:
                guard.end(guard._error())
