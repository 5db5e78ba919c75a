"""The upstream side of HTTP/1.1: one connection, one request at a time, its response handed on as it arrives."""

# A `Connection` is an asyncio protocol with llhttp (through httptools) as its parser. It is a buffer with a
# state, not a coroutine: the caller looks at `head`, `take()` and `complete`, and awaits `wait()` when none of
# them has what it needs. So a response that is already here costs no task switch, and every await of an
# exchange stands in the caller's code, where it can be cancelled.
#
# Whatever breaks is kept in `error` and raised by `wait()` as a builtin: ConnectionError when the peer went
# away, ValueError when what it sent is not HTTP. A connection that saw an error is never used again.

cimport cython

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

MAX_HEAD_BYTES = 64 << 10
BUFFER_BYTES = 256 << 10

cdef enum:
    # Below it, copying a body behind its head is cheaper than a write of two buffers.
    JOIN_BYTES = 16 << 10


@cython.final
cdef class Head:
    """Status and header fields of a response, names in lower case, in the order they came."""

    cdef readonly int status
    cdef readonly list headers

    def __repr__(self):
        return f"Head(status={self.status}, headers={self.headers!r})"


@cython.final
cdef class Connection:
    """One connection to an upstream, made by `loop.create_connection(Connection, ...)` as its protocol.

    At most *buffer_bytes* of a body wait here for the caller before reading from the socket stops; heads
    larger than *max_head_bytes* are an error. Bound to one event loop; not thread-safe.
    """

    cdef object _loop
    cdef object _transport
    cdef object _parser
    cdef object _waiter
    cdef object _pump
    cdef object _on_lost
    cdef list _chunks
    cdef Py_ssize_t _buffered
    cdef Py_ssize_t _buffer_bytes
    cdef Py_ssize_t _max_head_bytes
    cdef Py_ssize_t _head_bytes
    cdef Py_ssize_t _barren_bytes   # received since there was last anything to hand on
    cdef list _headers
    cdef bint _in_head
    cdef bint _is_head_request
    cdef bint _informational
    cdef bint _until_close
    cdef bint _keep_alive
    cdef bint _paused
    cdef bint _busy
    cdef readonly Head head
    """Head of the current response, None until it is here."""
    cdef readonly bint complete
    """Whether the body of the current response has been received to its end."""
    cdef readonly bint received
    """Whether any byte of the current response has been received."""
    cdef readonly Py_ssize_t body_bytes
    """How many bytes of its body have been received."""
    cdef readonly object error
    """Why the connection cannot be used any more, or None."""

    def __init__(
        self, loop, *, Py_ssize_t buffer_bytes=BUFFER_BYTES, Py_ssize_t max_head_bytes=MAX_HEAD_BYTES
    ):
        self._loop = loop
        self._buffer_bytes = buffer_bytes
        self._max_head_bytes = max_head_bytes
        self._chunks = []
        self._headers = []

    # What the caller uses.

    @property
    def is_reusable(self):
        """Whether another request can be sent: nothing is under way or left over, and both sides keep it open."""
        return (
            not self._busy
            and not self._chunks  # they belong to whoever sent the last request, and to nobody else
            and self.error is None
            and self._transport is not None
            and not self._transport.is_closing()
        )

    @property
    def has_bytes(self):
        """Whether `take` has something to give."""
        return self._buffered > 0

    def on_lost(self, callback):
        """Call *callback*, with this connection, when it is lost; None takes the callback back."""
        self._on_lost = callback

    def send(self, bytes head not None, bytes body not None, bint is_head_request=False):
        """Write a request; *head* ends with the blank line. Raises ConnectionError if the connection is lost."""
        if not self.is_reusable:
            raise self.error or ConnectionResetError("the connection is closed, or holds an answer that nobody took")
        self._busy = True
        self._is_head_request = is_head_request
        self.head = None
        self.complete = self.received = False
        self.body_bytes = 0
        self._barren_bytes = 0
        if len(body) > JOIN_BYTES:
            self._transport.writelines((head, body))
        else:
            self._transport.write(head + body)

    def wait(self, pump=None, waiter=None):
        """Return a future, *waiter* if there is one, for a head, bytes, the end, or the error that broke the response.

        It is done at once when bytes or the end are here already: they may have come while nobody waited. With a
        *pump*, that is called instead whenever there are bytes or the end, until it returns that the future is due.
        """
        if waiter is None:
            waiter = self._loop.create_future()
        self._waiter = waiter
        self._pump = pump
        if self._chunks or self.complete or self.error is not None:
            self._wake()
        return waiter

    def take(self):
        """Return the bytes of the body that are here, b"" if there are none; reading goes on if it had stopped."""
        cdef bytes data
        if not self._chunks:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            if self._transport is not None and not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def get_extra_info(self, name):
        """Return what the transport knows of *name*, as `asyncio.BaseTransport.get_extra_info`."""
        return None if self._transport is None else self._transport.get_extra_info(name)

    def abort(self):
        """Close at once; what was not sent is dropped."""
        if self._transport is not None:
            self._transport.abort()

    def close(self):
        """Close once what was written is sent."""
        if self._transport is not None:
            self._transport.close()

    # What the event loop calls.

    def connection_made(self, transport):
        self._transport = transport
        self._parser = HttpResponseParser(self)

    def connection_lost(self, exc):
        if self._busy and self._until_close and exc is None:
            self._finish()
        if self.error is None:
            self.error = exc if isinstance(exc, ConnectionError) else ConnectionResetError(
                f"the upstream closed the connection{f': {exc}' if exc else ''}"
            )
        self._transport = self._parser = None
        self._wake()
        if self._on_lost is not None:
            self._on_lost(self)

    def eof_received(self):
        return False

    def pause_writing(self):
        """The body is in memory already, so there is nobody to slow down."""

    def resume_writing(self):
        """See `pause_writing`."""

    def data_received(self, bytes data not None):
        if not self._busy:
            self._fail(ValueError("the upstream sent bytes that no request asked for"))
            return
        self.received = True
        self._barren_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._fail(ValueError("the upstream switched protocols, which was not asked for"))
        except HttpParserError as exc:
            # A callback of ours that raised comes wrapped; its own message says more.
            self._fail(ValueError(f"the upstream's answer is not valid HTTP: {exc.__context__ or exc}"))
        if self._barren_bytes > self._max_head_bytes:
            self._fail(ValueError(
                f"the upstream's answer is not valid HTTP: its head or its framing has more than "
                f"{self._max_head_bytes} bytes"
            ))
        self._wake()

    # What the parser calls.

    def on_message_begin(self):
        self._in_head = True
        self._head_bytes = 0

    def on_header(self, bytes name not None, bytes value not None):
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > self._max_head_bytes:
            raise ValueError(f"its head is larger than {self._max_head_bytes} bytes")
        if self._in_head:  # nobody is told of trailers
            self._headers.append((name.lower(), value))

    def on_headers_complete(self):
        cdef Head head
        cdef int status = self._parser.get_status_code()
        self._in_head = False
        self._informational = 100 <= status < 200
        if self._informational:
            self._headers = []
            return
        if self.head is not None:
            raise ValueError("it holds a second response")
        self._barren_bytes = 0
        head = Head.__new__(Head)
        head.status = status
        head.headers = self._headers
        self.head = head
        self._headers = []
        self._keep_alive = self._parser.should_keep_alive()
        self._until_close = not self._is_framed(head)
        if self._is_head_request and not self.complete:
            # llhttp cannot be told that no body follows, so this connection ends here.
            self._keep_alive = False
            self._finish()

    def on_body(self, bytes body not None):
        self._barren_bytes = 0
        if self.complete:
            return
        self._chunks.append(body)
        self._buffered += len(body)
        self.body_bytes += len(body)
        if self._buffered > self._buffer_bytes and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self):
        if not self._informational and not self.complete:
            self._finish()

    cdef bint _is_framed(self, Head head):
        """Whether the head says where the body ends; otherwise the end of the connection does."""
        if head.status == 204 or head.status == 304:
            return True
        for name, _value in head.headers:
            if name == b"content-length" or name == b"transfer-encoding":
                return True
        return False

    cdef _finish(self):
        self.complete = True
        self._busy = False
        # A peer that answered before it had read the whole request cannot be sent another one.
        if not self._keep_alive or self._until_close or self._transport.get_write_buffer_size():
            self._fail(ConnectionResetError("the connection ended with its last response"))

    cdef _fail(self, exc):
        if self.error is None:
            self.error = exc
        self.abort()
        self._wake()

    cdef _wake(self):
        waiter = self._waiter
        if waiter is None:
            return
        if self._pump is not None and not waiter.done() and (self._chunks or self.complete):
            if not self._pump() and (self.error is None or self.complete):
                return
        self._waiter = self._pump = None
        if waiter.done():
            return
        # What came before the error is handed out first.
        if self.error is not None and not self.complete and not self._chunks:
            waiter.set_exception(self.error)
        else:
            waiter.set_result(None)
