"""An incremental scanner for event streams (WHATWG HTML, section 9.2.6): bytes in, events out."""

# The scanner looks on from the side: the relay sends the bytes themselves, and asks here where events end and
# what they say. It keeps only the bytes of an unfinished event, in `_buffer`; `_line` is where that event's
# unfinished line starts in it and `_resume` how far that line was searched, so that no byte is searched twice
# however small the chunks are. Offsets that callers see count from the beginning of the stream.
#
# An event larger than the cap is not kept: its bytes are passed over until the blank line that ends it.

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

MAX_EVENT_BYTES = 4 << 20
cdef bytes BOM = b"\xef\xbb\xbf"


@cython.final
cdef class Event:
    """One event: its name (empty where the stream gives none), its data, and its place in the stream."""

    cdef readonly bytes name
    cdef readonly bytes data
    cdef readonly Py_ssize_t start
    """Stream offset of its first byte."""
    cdef readonly Py_ssize_t end
    """Stream offset after the blank line that ends it."""

    def __repr__(self):
        return f"Event(name={self.name!r}, data={self.data!r}, start={self.start}, end={self.end})"


cdef Event _new_event(bytes name, bytes data, Py_ssize_t start, Py_ssize_t end):
    cdef Event event = Event.__new__(Event)
    event.name = name
    event.data = data
    event.start = start
    event.end = end
    return event


@cython.final
cdef class Interest:
    """Which events somebody asks for: those with one of *names*, those with none, and not the dull ones.

    *dull* maps a name to a text: an event of that name whose data is one line and holds the text is not asked for.
    """

    cdef tuple _names
    cdef tuple _texts

    def __cinit__(self, names, dull=None):
        cdef dict texts = dict(dull or {})
        self._names = tuple(names)
        self._texts = tuple([texts.get(name) for name in self._names])

    cdef bint _is_asked_for(self, const char* name, Py_ssize_t name_size, const char* data, Py_ssize_t data_size):
        cdef:
            bytes known
            Py_ssize_t i
        for i in range(len(self._names)):
            known = <bytes> self._names[i]
            if PyBytes_GET_SIZE(known) == name_size and memcmp(PyBytes_AS_STRING(known), name, name_size) == 0:
                return self._texts[i] is None or not _holds(data, data_size, <bytes> self._texts[i])
        return name_size == 0


cdef bint _holds(const char* data, Py_ssize_t size, bytes text):
    cdef:
        const char* at = data
        Py_ssize_t wanted = PyBytes_GET_SIZE(text)
        const char* last = data + size - wanted
    while at <= last:
        at = <const char*> memchr(at, PyBytes_AS_STRING(text)[0], last - at + 1)
        if at == NULL:
            return False
        if memcmp(at, PyBytes_AS_STRING(text), wanted) == 0:
            return True
        at += 1
    return False


@cython.final
cdef class Scanner:
    """Finds the events in a stream that arrives in chunks of any size.

    Lines end in LF, CR or CRLF. Comments, unknown fields and events without data are passed over, and so are those
    that *interest* does not ask for. An event of more than *max_event_bytes* is passed over as well and counted in
    `oversized`. Not thread-safe.
    """

    cdef Py_ssize_t _max_event_bytes
    cdef Interest _interest
    cdef bytearray _buffer
    cdef Py_ssize_t _line
    cdef Py_ssize_t _resume
    cdef bint _after_cr
    cdef bint _is_first
    cdef bint _skipping
    cdef readonly Py_ssize_t position
    """Bytes that were fed."""
    cdef readonly Py_ssize_t boundary
    """Stream offset after the last finished event."""
    cdef readonly Py_ssize_t oversized
    """Events that were larger than the cap."""

    def __cinit__(self, Py_ssize_t max_event_bytes=MAX_EVENT_BYTES, Interest interest=None):
        if max_event_bytes < 1:
            raise ValueError(f"max_event_bytes must be positive, got {max_event_bytes}")
        self._max_event_bytes = max_event_bytes
        self._interest = interest
        self._buffer = bytearray()
        self._is_first = True

    @property
    def is_between_events(self):
        """Whether the stream stands at an event boundary, so that an event of our own may follow."""
        return not self._skipping and not self._buffer

    def feed(self, bytes chunk not None):
        """Take the next bytes of the stream and return the events that they complete."""
        cdef list events = []
        cdef Py_ssize_t base = self.position - len(self._buffer)
        cdef Py_ssize_t consumed
        self.position += len(chunk)
        if self._skipping:
            consumed = self._skip(<const char*>chunk, len(chunk))
            if self._skipping:
                return events
            base = self.boundary
            chunk = chunk[consumed:]
        if not self._buffer:
            # The usual case: whole events in one chunk, read in place.
            consumed = self._scan(<const char*>chunk, len(chunk), base, events)
            if consumed < len(chunk):
                self._buffer += chunk[consumed:] if consumed else chunk
        else:
            self._buffer += chunk
            consumed = self._scan(PyByteArray_AS_STRING(self._buffer), len(self._buffer), base, events)
            if consumed:
                del self._buffer[:consumed]
        if len(self._buffer) > self._max_event_bytes:
            self._start_skipping()
        return events

    def finish(self):
        """Return the event that the stream ended in, if it has data; a last blank line is not required."""
        cdef list events = []
        cdef Py_ssize_t length = len(self._buffer)
        if length:
            self._emit(PyByteArray_AS_STRING(self._buffer), 0, length, self.boundary, self.position, events)
            self._buffer.clear()
            self._line = self._resume = 0
            self.boundary = self.position
        return events

    cdef Py_ssize_t _scan(self, const char* text, Py_ssize_t length, Py_ssize_t base, list events) except -1:
        """Emit the events that end in *text*, whose first byte is at stream offset *base*; return their size."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t line_end
        cdef Py_ssize_t next_line
        if self._after_cr and length > self._line:
            self._after_cr = False
            if text[self._line] == b"\n":
                if self._line == 0:
                    start = 1
                    self.boundary = base + 1
                self._line += 1
                self._resume = self._line
        while True:
            line_end = _line_end(text, self._resume, length)
            if line_end < 0:
                self._resume = length
                break
            next_line = line_end + 1
            if text[line_end] == b"\r":
                if next_line == length:
                    self._after_cr = True
                elif text[next_line] == b"\n":
                    next_line += 1
            if line_end == self._line:
                self._emit(text, start, line_end, base + start, base + next_line, events)
                start = next_line
                self.boundary = base + next_line
            self._line = self._resume = next_line
        self._line -= start
        self._resume -= start
        return start

    cdef int _emit(
        self,
        const char* text,
        Py_ssize_t start,
        Py_ssize_t end,
        Py_ssize_t stream_start,
        Py_ssize_t stream_end,
        list events,
    ) except -1:
        """Append the event whose lines are `text[start:end]`, unless it has no data or nobody asks for it."""
        cdef Py_ssize_t name_start = 0
        cdef Py_ssize_t name_end = 0
        cdef Py_ssize_t data_start = -1
        cdef Py_ssize_t data_end = -1
        cdef bytes data
        cdef list more = None
        cdef Py_ssize_t line_end
        cdef Py_ssize_t value
        if self._is_first:
            self._is_first = False
            if end - start >= 3 and memcmp(text + start, <const char*>BOM, 3) == 0:
                start += 3
        while start < end:
            line_end = _line_end(text, start, end)
            if line_end < 0:
                line_end = end
            value = _field_value(text, start, line_end, b"data", 4)
            if value >= 0:
                if data_start < 0:
                    data_start, data_end = value, line_end
                elif more is None:
                    more = [text[data_start:data_end], text[value:line_end]]
                else:
                    more.append(text[value:line_end])
            else:
                value = _field_value(text, start, line_end, b"event", 5)
                if value >= 0:
                    name_start, name_end = value, line_end
            start = line_end + 1  # the LF of a CRLF makes an empty line, which is no field
        if data_start < 0:
            return 0
        if self._interest is not None and not self._interest._is_asked_for(
            text + name_start, name_end - name_start, text + data_start, 0 if more else data_end - data_start
        ):
            return 0
        data = text[data_start:data_end] if more is None else b"\n".join(more)
        events.append(_new_event(text[name_start:name_end], data, stream_start, stream_end))
        return 0

    cdef int _start_skipping(self) except -1:
        self.oversized += 1
        self._skipping = True
        self._is_first = False
        # All that matters from here on is whether the unfinished line is empty: 0 says that it is.
        self._line = len(self._buffer) - self._line
        self._resume = 0
        self._buffer.clear()
        return 0

    cdef Py_ssize_t _skip(self, const char* text, Py_ssize_t length) except -1:
        """Look for the blank line that ends the event passed over; return the index after it, or *length*."""
        cdef Py_ssize_t i
        for i in range(length):
            if text[i] == b"\n" and self._after_cr:
                self._after_cr = False
                continue
            self._after_cr = text[i] == b"\r"
            if text[i] != b"\n" and text[i] != b"\r":
                self._line = 1
            elif self._line:
                self._line = 0
            else:
                self._skipping = False
                self.boundary = self.position - length + i + 1
                return i + 1
        return length


cdef Py_ssize_t _line_end(const char* text, Py_ssize_t start, Py_ssize_t length) noexcept nogil:
    """Return the index of the first CR or LF at or after *start*, or -1."""
    cdef const char* newline
    cdef const char* carriage
    cdef Py_ssize_t limit = length
    if start >= length:
        return -1
    newline = <const char*>memchr(text + start, b"\n", length - start)
    if newline != NULL:
        limit = newline - text
    carriage = <const char*>memchr(text + start, b"\r", limit - start)
    if carriage != NULL:
        return carriage - text
    return limit if newline != NULL else -1


cdef Py_ssize_t _field_value(
    const char* text, Py_ssize_t start, Py_ssize_t end, const char* name, Py_ssize_t name_length
) noexcept nogil:
    """Return where the value of field *name* starts in the line `text[start:end]`, or -1 for another field."""
    cdef Py_ssize_t at = start + name_length
    if at > end or memcmp(text + start, name, name_length) != 0:
        return -1
    if at == end:
        return at
    if text[at] != b":":
        return -1
    at += 1
    if at < end and text[at] == b" ":
        at += 1
    return at
