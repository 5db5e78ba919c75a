"""The client side of HTTP/1.1: connections that are accepted, their requests one after another, and the answers."""

# A `ClientConnection` is an asyncio protocol with llhttp (through httptools) as its parser. For every head that is
# whole it makes a `Request` and a `Reply` and has the handler serve them in a task of their own; pipelined requests
# wait their turn. As in `http1`, nothing here is a coroutine: a request is a buffer with a state that the handler
# looks at, and it awaits `wait()` or `drain()` only when it must.
#
# Two rules make a broken answer recognisable. A reply that is closed before its last byte was written aborts its
# connection, and an answer whose only end is the end of the connection, as HTTP/1.0 has them, is then reset.
# And a connection takes another request only when the last one was read to its end and answered to its end.
#
# Everything is bounded: heads, trailers and the extensions of chunks by `max_head_bytes`, a body that nobody takes by
# `BUFFER_BYTES`, requests that wait their turn by `MAX_PIPELINED`, and the time that a head may take by `timeout_s`.

import socket
import struct
from email.utils import formatdate
from http import HTTPStatus

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetDefault
from libc.string cimport memcpy
from libc.time cimport time, time_t

from httptools import HttpParserUpgrade, HttpRequestParser

BUFFER_BYTES = 256 << 10
MAX_HEAD_BYTES = 128 << 10
MAX_PIPELINED = 128

cdef enum:
    # What is left of an announced body from here on does not pass through the parser, which would copy it.
    DIRECT_BYTES = 64 << 10
    # A part of an answer of up to this size is copied into one buffer with its head and its chunk's frame.
    JOIN_BYTES = 16 << 10
    # What is read of a body that nobody wants, so that a client that sends it whole finds the answer to it.
    DISCARD_BYTES = 64 << 20

LINGER_S = 2.0
"""How long a connection that is to be closed waits for its client to send, or to take, what is under way."""

TICK_S = 1.0

cdef bytes CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
cdef bytes CHUNKED_HEAD = b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"
cdef bytes LAST_CHUNK = b"0\r\n\r\n"
cdef dict METHODS = {method.encode(): method for method in ("GET", "POST", "HEAD", "DELETE", "PUT", "OPTIONS", "PATCH")}
cdef object RESET = struct.pack("ii", 1, 0)
cdef dict STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}

cdef time_t _date_second = 0
cdef bytes _date_line = b""


cdef bytes _date():
    """Return the line of `Date`, made once a second."""
    global _date_second, _date_line
    cdef time_t now = time(NULL)
    if now != _date_second:
        _date_second = now
        _date_line = b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n"
    return _date_line


@cython.final
cdef class Request:
    """A request: its head, and its body as it arrives.

    *target* is taken as it was sent, but for the authority of an absolute one. Raises ValueError if it is neither.
    """

    cdef readonly str method
    cdef readonly str path
    """The raw path, as it was sent."""
    cdef readonly bytes query
    """What follows the first question mark, without it."""
    cdef readonly list fields
    """Header fields as pairs of name, in lower case, and value, in the order they came."""
    cdef readonly dict headers
    """The fields by name; of several values of one name the first."""
    cdef readonly str peer
    """The address that the request came from."""
    cdef readonly Py_ssize_t head_bytes
    """The length of the head: its target and its fields."""
    cdef readonly Py_ssize_t length
    """The length that was announced for the body; -1 if none was."""
    cdef readonly bint complete
    """Whether the body has been received to its end."""
    cdef readonly bint is_broken
    """Whether the rest of the body will never come: the client left, or its framing is wrong."""
    cdef ClientConnection _connection
    cdef list _chunks
    cdef Py_ssize_t _buffered
    cdef Py_ssize_t _received
    cdef bint _expects_continue
    cdef bint _keep_alive
    cdef bint _is_old
    cdef bint _is_lost
    cdef object _waiter
    cdef object _on_lost

    def __init__(self, str method not None, bytes target not None, list fields not None, str peer=""):
        cdef Py_ssize_t at
        if not target.startswith(b"/"):
            at = target.find(b"://")
            at = target.find(b"/", at + 3) if at > 0 else -1
            if at < 0:
                raise ValueError("the target is neither a path nor the address of one")
            target = target[at:]
        at = target.find(b"?")
        self.method = method
        self.path = (target if at < 0 else target[:at]).decode("latin-1")
        self.query = b"" if at < 0 else target[at + 1:]
        self.peer = peer
        self.fields = fields
        self.headers = {}
        self.head_bytes = PyBytes_GET_SIZE(target)
        for name, value in fields:
            PyDict_SetDefault(self.headers, name, value)
            self.head_bytes += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
        announced = self.headers.get(b"content-length")
        self.length = int(announced) if announced is not None and len(announced) < 19 and announced.isdigit() else -1
        self._chunks = []

    @property
    def has_bytes(self):
        """Whether `take` has something to give."""
        return self._buffered > 0

    def take(self):
        """Return the bytes of the body that are here, b"" if there are none; reading goes on if it had stopped."""
        cdef bytes data
        if not self._chunks:
            return b""
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks = []
        self._buffered = 0
        if self._connection is not None:
            self._connection._read_on()
        return data

    def wait(self):
        """Return a future for bytes, the end, or the news that neither will come.

        A client that asked whether it may send its body is told that it may.
        """
        waiter = self._connection._server._loop.create_future()
        self._waiter = waiter
        if self._expects_continue:
            self._expects_continue = False
            if not self.complete and not self.is_broken:
                self._connection._transport.write(CONTINUE)
        if self._chunks or self.complete or self.is_broken:
            self._wake()
        return waiter

    def on_lost(self, callback):
        """Call *callback* once if the client leaves before its answer is whole, at once if it has left."""
        self._on_lost = callback
        if self._is_lost:
            self._lose()

    cdef _add(self, bytes data):
        self._chunks.append(data)
        self._buffered += PyBytes_GET_SIZE(data)
        self._wake()

    cdef _drop(self):
        self._chunks = []
        self._buffered = 0

    cdef _finish(self):
        self.complete = True
        self._wake()

    cdef _break(self):
        self.is_broken = True
        self._wake()

    cdef _lose(self):
        cdef object callback = self._on_lost
        self._is_lost = True
        if callback is not None:
            self._on_lost = None
            callback()

    cdef _wake(self):
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)


@cython.final
cdef class Reply:
    """The answer to one request; made by its connection."""

    cdef readonly int status
    """The status that was sent, 0 as long as nothing was."""
    cdef readonly bint complete
    """Whether the last byte was written."""
    cdef ClientConnection _connection
    cdef Request _request
    cdef bytes _head
    cdef bint _has_body
    cdef bint _is_chunked
    cdef bint _until_close
    cdef bint _closes

    @property
    def is_full(self):
        """Whether the client reads more slowly than is written: `drain` before the next `write`."""
        return self._connection._is_full

    def start(self, int status, bytes lines not None):
        """Begin the answer; its head leaves with the next `write`.

        *lines* are header fields as `name: value`, each with its CRLF, names in lower case. `Date`, the framing of a
        body without `content-length`, and `Connection` are added.
        """
        cdef:
            bytes head = STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
            Request request = self._request
            bint has_length
        if self.status:
            raise RuntimeError(f"an answer with status {self.status} was begun already")
        self.status = status
        head += lines
        has_length = b"\r\ncontent-length:" in head
        self._has_body = request.method != "HEAD" and status != 204 and status != 304
        self._closes = not request._keep_alive or self._connection._server.is_closing
        if self._has_body and not has_length:
            if request._is_old:
                self._until_close = self._closes = True
            else:
                self._is_chunked = True
                head += b"transfer-encoding: chunked\r\n"
        if b"\r\ndate:" not in head:
            head += _date()
        if self._closes:
            head += b"connection: close\r\n"
        elif request._is_old:
            head += b"connection: keep-alive\r\n"
        self._head = head + b"\r\n"

    def write(self, bytes data not None, bint more):
        """Write bytes of the body, the last ones without *more*, in one write with what belongs before and after."""
        cdef:
            bytes head = self._head or b""
            Py_ssize_t size = PyBytes_GET_SIZE(data)
            object transport = self._connection._transport
        if not self.status or self.complete:
            raise RuntimeError("the answer was not begun, or has ended")
        self._head = None
        self.complete = not more
        if transport is None:
            return
        if not self._has_body:
            size = 0
        if size > JOIN_BYTES:
            if self._is_chunked:
                transport.writelines((head + b"%x\r\n" % size, data, b"\r\n" if more else b"\r\n" + LAST_CHUNK))
            else:
                transport.writelines((head, data))
            return
        if self._is_chunked:
            head = _framed(head, data, size, self.complete)
        elif size:
            head = head + data if head else data
        if head:
            transport.write(head)

    def whole(self, int status, bytes lines not None, bytes body not None):
        """Send an answer that is here as a whole."""
        if status != 204:
            lines += b"content-length: %d\r\n" % PyBytes_GET_SIZE(body)
        self.start(status, lines)
        self.write(body, False)

    def drain(self):
        """Return a future for the moment in which the client has taken most of what was written, or has left."""
        cdef ClientConnection connection = self._connection
        waiter = connection._server._loop.create_future()
        if connection._is_full and connection._transport is not None:
            connection._drainer = waiter
        else:
            waiter.set_result(None)
        return waiter

    def close(self):
        """End the exchange, which the handler must do whatever happens: an answer without its end aborts."""
        if self._request is not None:
            self._connection._close_exchange(self)
            self._request = None


cdef bytes _framed(bytes head, bytes data, Py_ssize_t size, bint is_last):
    """Return *head*, *data* as a chunk, and the last chunk if it is that."""
    cdef:
        char[24] frame
        Py_ssize_t frame_size = 0
        Py_ssize_t head_size = PyBytes_GET_SIZE(head)
        Py_ssize_t total
        bytes joined
        char* to
    if size:
        frame_size = PyOS_snprintf(frame, sizeof(frame), b"%zx\r\n", size)
    total = head_size + (frame_size + size + 2 if size else 0) + (5 if is_last else 0)
    if total == head_size:
        return head
    joined = PyBytes_FromStringAndSize(NULL, total)
    to = PyBytes_AS_STRING(joined)
    memcpy(to, PyBytes_AS_STRING(head), head_size)
    to += head_size
    if size:
        memcpy(to, frame, frame_size)
        memcpy(to + frame_size, PyBytes_AS_STRING(data), size)
        to += frame_size + size
        memcpy(to, b"\r\n", 2)
        to += 2
    if is_last:
        memcpy(to, PyBytes_AS_STRING(LAST_CHUNK), 5)
    return joined


cdef extern from "Python.h":
    int PyOS_snprintf(char* text, size_t size, const char* template, ...)


@cython.final
cdef class ClientConnection:
    """One connection of a client, made by a `Server` as the protocol of its transport."""

    cdef object __weakref__
    cdef Server _server
    cdef object _transport
    cdef object _parser
    cdef str _peer
    # The head that is being read.
    cdef bytes _target
    cdef list _fields
    cdef bint _in_head
    cdef bint _is_resuming
    cdef Py_ssize_t _barren_bytes    # received since there was last anything to hand on
    # The request whose body is being read, those that wait their turn, and the one that is being answered.
    cdef Request _incoming
    cdef Py_ssize_t _direct_bytes    # of its body, that are to come past the parser
    cdef list _queue
    cdef Request _current
    cdef object _task
    cdef object _drainer
    cdef object _linger
    cdef Py_ssize_t _discarded_bytes
    cdef bint _is_discarding         # the rest of a body whose request was answered
    cdef bint _is_full
    cdef bint _is_paused
    cdef bint _is_ending             # what is still received is dropped

    def __init__(self, Server server not None):
        self._server = server
        self._fields = []
        self._queue = []

    # What the event loop calls.

    def connection_made(self, transport):
        peer = transport.get_extra_info("peername")
        self._transport = transport
        self._peer = peer[0] if isinstance(peer, tuple) else ""
        self._parser = HttpRequestParser(self)
        self._server._add(self)

    def connection_lost(self, exc):
        self._transport = self._parser = None
        if self._linger is not None:
            self._linger.cancel()
        self._server._remove(self)
        self._leave()
        self._let_write()

    def eof_received(self):
        # Whoever closes half of the connection has left: no client that wants an answer does that.
        self._leave()
        return False

    def pause_writing(self):
        self._is_full = True

    def resume_writing(self):
        self._let_write()

    def data_received(self, bytes data not None):
        cdef Py_ssize_t direct = self._direct_bytes
        if self._is_ending:
            return
        if direct == 0:
            self._parse(data)
        elif PyBytes_GET_SIZE(data) <= direct:
            self._receive(data)
        else:
            self._receive(data[:direct])
            self.data_received(data[direct:])

    cdef _receive(self, bytes data):
        """Take a part of a body that comes past the parser."""
        self._direct_bytes -= PyBytes_GET_SIZE(data)
        self.on_body(data)
        if self._direct_bytes == 0 and not self._is_ending:
            self._parser = HttpRequestParser(self)  # the last one still waits for what came past it
            self.on_message_complete()

    cdef _parse(self, bytes data):
        cdef Py_ssize_t left
        self._barren_bytes += PyBytes_GET_SIZE(data)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as exc:
            self._stay(data[exc.args[0]:])
            return
        except Exception as exc:
            self._refuse(400, exc.__context__ or exc)  # what a callback raised comes wrapped
            return
        if self._is_ending:
            return
        if self._barren_bytes > self._server._max_head_bytes:
            self._refuse(431, f"its head or its framing has more than {self._server._max_head_bytes} bytes")
        elif self._incoming is not None:
            left = self._incoming.length - self._incoming._received
            if left >= DIRECT_BYTES:
                self._direct_bytes = left

    cdef _stay(self, bytes rest):
        """Go on behind a head that asks for another protocol: nobody is told that it is switched.

        The parser has left the body, if there is one, unread.
        """
        self._parser = HttpRequestParser(self)
        if self._incoming is not None and self._incoming.length >= 0:
            self._direct_bytes = self._incoming.length
        elif self._incoming is not None:
            self._is_resuming = True
            self._parser.feed_data(CHUNKED_HEAD)
            self._is_resuming = False
        if rest:
            self.data_received(rest)

    # What the parser calls.

    def on_message_begin(self):
        if self._is_resuming:
            return
        self._target = b""
        self._fields = []
        self._in_head = True

    def on_url(self, bytes part not None):
        self._target = self._target + part if self._target else part

    def on_header(self, bytes name not None, bytes value not None):
        if self._in_head:  # nobody is told of trailers
            self._fields.append((name.lower(), value))

    def on_headers_complete(self):
        cdef:
            object parser = self._parser
            bytes method = parser.get_method()
            Request request
        self._in_head = False
        self._barren_bytes = 0
        if self._is_ending or self._is_resuming:
            return
        request = Request(METHODS.get(method) or method.decode(), self._target, self._fields, self._peer)
        if b"transfer-encoding" in request.headers:
            codings = [value.lower() for name, value in request.fields if name == b"transfer-encoding"]
            if codings != [b"chunked"]:
                raise ValueError("its body comes in another transfer coding than chunked")
        request._connection = self
        request._is_old = parser.get_http_version() == "1.0"
        request._keep_alive = parser.should_keep_alive()
        if not request._is_old and b"expect" in request.headers:
            request._expects_continue = request.headers[b"expect"].lower() == b"100-continue"
        self._incoming = request
        if self._current is None and not self._is_discarding:
            self._begin(request)
            return
        if len(self._queue) == MAX_PIPELINED:
            raise ValueError(f"more than {MAX_PIPELINED} requests wait for the answer to an earlier one")
        self._queue.append(request)
        self._pause()

    def on_body(self, bytes data not None):
        cdef Request request = self._incoming
        self._barren_bytes = 0
        if self._is_ending or request is None:
            return
        request._received += PyBytes_GET_SIZE(data)
        if not self._is_discarding:
            request._add(data)
            if request._buffered > BUFFER_BYTES:
                self._pause()
            return
        self._discarded_bytes += PyBytes_GET_SIZE(data)
        if self._discarded_bytes > DISCARD_BYTES:
            self._end()

    def on_message_complete(self):
        cdef Request request = self._incoming
        self._barren_bytes = 0
        if self._is_ending or request is None:
            return
        if self._parser.should_upgrade() and (request.length > 0 or b"transfer-encoding" in request.headers):
            return  # see `_stay`
        self._incoming = None
        request._finish()
        if self._is_discarding:
            self._is_discarding = False
            self._linger.cancel()
            self._linger = None
            self._go_on()

    # The life of the connection.

    cdef _begin(self, Request request):
        cdef Reply reply = Reply.__new__(Reply)
        reply._connection = self
        reply._request = request
        self._current = request
        self._server._begin(self)
        self._task = self._server._loop.create_task(self._server._handler(request, reply))

    cdef _close_exchange(self, Reply reply):
        cdef Request request = reply._request
        self._current = self._task = None
        self._server._finish()
        if self._transport is None:
            return
        if not reply.complete:
            self._break_off(reply)
        elif request.complete:
            if reply._closes or self._is_ending:
                self._end()
            else:
                self._go_on()
        elif reply._closes or self._is_ending or request._expects_continue:
            # One who has asked whether to send its body, and was not told so, may send it or not: that cannot be read.
            self._linger_on()
        else:
            self._is_discarding = True
            self._discarded_bytes = 0
            request._drop()
            self._read_on()
            self._linger = self._server._loop.call_later(LINGER_S, self.end)

    cdef _go_on(self):
        """Serve the next request, or wait for it."""
        if self._server.is_closing:
            self._end()
        elif self._queue:
            self._begin(self._queue.pop(0))
            self._read_on()
        else:
            self._server._wait(self)

    cdef _break_off(self, Reply reply):
        """End an answer that has no end so that it is not taken for a whole one."""
        self._is_ending = True
        if reply._until_close:
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._transport.abort()
        elif reply.status == 0:
            self._transport.abort()
        else:
            self._transport.close()  # when what was written has been sent, among it perhaps why this ends
            self._linger = self._server._loop.call_later(LINGER_S, self.abort)

    cdef _refuse(self, int status, reason):
        """Take nothing more from a client whose bytes are not HTTP, and say so unless a handler will."""
        cdef bytes text
        self._is_ending = True
        if self._incoming is not None:
            self._incoming._break()
            self._incoming = None
        if self._is_discarding:
            self._end()
        elif self._current is None:
            self._server._forget(self)
            text = f"the request cannot be read: {reason}\n".encode()
            self._transport.write(
                STATUS_LINES[status] + b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\n%b"
                b"connection: close\r\n\r\n%b" % (PyBytes_GET_SIZE(text), _date(), text)
            )
            self._linger_on()

    cdef _turn_away(self):
        """Refuse the whole connection."""
        self._is_ending = True
        self._transport.write(
            STATUS_LINES[503] + b"content-length: 0\r\nretry-after: 1\r\n%bconnection: close\r\n\r\n" % _date()
        )
        self._linger_on()

    cdef _linger_on(self):
        """Close, but not while the client sends: what it was sent would be lost with a reset."""
        self._is_ending = True
        if self._transport.is_closing():
            return
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._linger = self._server._loop.call_later(LINGER_S, self.end)

    cdef _expire(self):
        """Close a connection that has waited too long for a request, or for the rest of its head."""
        if self._barren_bytes and not self._transport.get_write_buffer_size():
            self._refuse(408, "its head did not arrive in time")
        else:
            self._is_ending = True
            self._transport.abort()

    cdef _end(self):
        self._is_ending = True
        if self._transport is not None:
            self._transport.close()
            if self._linger is None:
                self._linger = self._server._loop.call_later(self._server._timeout_s, self.abort)

    def end(self):
        """Close when what was written has been sent."""
        self._linger = None
        self._end()

    def abort(self):
        """Close at once."""
        self._is_ending = True
        if self._transport is not None:
            self._transport.abort()

    cdef _leave(self):
        """Tell whoever works for the client that it has left."""
        cdef Request current = self._current
        self._is_ending = True
        self._queue.clear()
        if self._incoming is not None:
            self._incoming._break()
            self._incoming = None
        if current is not None:
            current._lose()

    cdef _let_write(self):
        self._is_full = False
        drainer = self._drainer
        if drainer is not None:
            self._drainer = None
            if not drainer.done():
                drainer.set_result(None)

    cdef _pause(self):
        if not self._is_paused and self._transport is not None:
            self._is_paused = True
            self._transport.pause_reading()

    cdef _read_on(self):
        if self._is_paused and not self._queue and self._transport is not None:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()


@cython.final
cdef class Server:
    """Serves connections with *handler*, a coroutine function of a `Request` and a `Reply` that closes the reply.

    It is the protocol factory of `loop.create_server`. A connection may wait *timeout_s* for a request and its head.
    When there are more than *max_connections*, the one that has waited longest for a request gives way; if none
    waits, the new one is turned away with 503.
    """

    cdef object _loop
    cdef object _handler
    cdef double _timeout_s
    cdef Py_ssize_t _max_connections
    cdef Py_ssize_t _max_head_bytes
    cdef set _connections
    cdef dict _idle                  # connection to the time at which it has waited too long, the oldest first
    cdef object _timer
    cdef object _waiter
    cdef readonly bint is_closing
    """Whether every answer is the last one of its connection."""
    cdef readonly Py_ssize_t running
    """Requests that are being served."""

    def __init__(
        self,
        loop,
        handler,
        *,
        double timeout_s,
        Py_ssize_t max_connections,
        Py_ssize_t max_head_bytes=MAX_HEAD_BYTES,
    ):
        self._loop = loop
        self._handler = handler
        self._timeout_s = timeout_s
        self._max_connections = max_connections
        self._max_head_bytes = max_head_bytes
        self._connections = set()
        self._idle = {}
        self._timer = loop.call_later(min(TICK_S, timeout_s / 4), self._tick)

    def __call__(self):
        """Return the protocol of a new connection."""
        return ClientConnection(self)

    @property
    def connections(self):
        """How many connections are open."""
        return len(self._connections)

    def wind_down(self):
        """Let every answer from now on be the last one of its connection."""
        self.is_closing = True

    def close(self):
        """Close the connections that wait for a request; the others close with their answers."""
        cdef ClientConnection connection
        self.is_closing = True
        for connection in list(self._idle):
            if connection._barren_bytes == 0:
                connection._end()
        self._settle()

    def wait_closed(self):
        """Return a future for the moment at which `close` was called and no connection is left."""
        waiter = self._loop.create_future()
        self._waiter = waiter
        self._settle()
        return waiter

    def abort(self):
        """Close all connections at once."""
        cdef ClientConnection connection
        self.is_closing = True
        self._timer.cancel()
        for connection in list(self._connections):
            connection.abort()

    def _tick(self):
        cdef:
            ClientConnection connection
            double now = self._loop.time()
        self._timer = self._loop.call_later(min(TICK_S, self._timeout_s / 4), self._tick)
        for connection, deadline in list(self._idle.items()):
            if deadline > now and not self.is_closing:
                break  # the others began to wait later
            del self._idle[connection]
            connection._expire()

    cdef _add(self, ClientConnection connection):
        cdef ClientConnection other
        if len(self._connections) >= self._max_connections:
            for other in self._idle:
                if other._barren_bytes == 0:
                    break
            else:
                connection._turn_away()
                return
            self._connections.discard(other)
            self._idle.pop(other)
            other._end()
        self._connections.add(connection)
        self._wait(connection)

    cdef _remove(self, ClientConnection connection):
        self._connections.discard(connection)
        self._idle.pop(connection, None)
        self._settle()

    cdef _wait(self, ClientConnection connection):
        self._idle[connection] = self._loop.time() + self._timeout_s

    cdef _forget(self, ClientConnection connection):
        self._idle.pop(connection, None)

    cdef _begin(self, ClientConnection connection):
        self.running += 1
        self._idle.pop(connection, None)

    cdef _finish(self):
        self.running -= 1
        self._settle()

    cdef _settle(self):
        waiter = self._waiter
        if waiter is not None and self.is_closing and not self._connections and not self.running:
            self._waiter = None
            self._timer.cancel()
            if not waiter.done():
                waiter.set_result(None)
