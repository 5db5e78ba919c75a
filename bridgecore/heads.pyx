"""Header fields as pairs of bytes: looked up by name, searched, and written as the lines of another head."""

# A relay reads the fields of a request and of an answer, holds some of them back, and writes the rest as they came.
# Each of these is one pass without an object for a field that is not asked for.

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetDefault
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from libc.string cimport memchr, memcmp, memcpy

cdef extern from "<string.h>":
    void* memmem(const void* text, size_t text_size, const void* wanted, size_t wanted_size)


def by_name(list pairs not None):
    """Return the fields by name; of several values of one name the first."""
    cdef dict values = {}
    for name, value in pairs:
        PyDict_SetDefault(values, name, value)
    return values


def values_with(list pairs not None, bytes part not None):
    """Return the values that hold *part*."""
    cdef:
        list found = []
        bytes value
        const char* wanted = PyBytes_AS_STRING(part)
        Py_ssize_t size = PyBytes_GET_SIZE(part)
    for _name, value in pairs:
        if memmem(PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), wanted, size) != NULL:
            found.append(value)
    return found


def write_lines(list pairs not None, frozenset held_back not None=frozenset(), tuple prefixes not None=()):
    """Return the fields as lines `name: value`, each with its CRLF, in their order.

    Left out are those whose names, in lower case as all are, are *held_back*, begin with one of *prefixes*, or stand
    in the value of `connection`. Raises ValueError for a value that would end its line.
    """
    cdef:
        set nominated = _nominated(pairs)
        list kept = []
        Py_ssize_t size = 0
        bytes name
        bytes value
        bytes written
        char* to
    for name, value in pairs:
        if name in held_back or (nominated is not None and name in nominated):
            continue
        if prefixes and _begins_with(name, prefixes):
            continue
        _check(name, value)
        kept.append(name)
        kept.append(value)
        size += PyBytes_GET_SIZE(name) + PyBytes_GET_SIZE(value) + 4
    written = PyBytes_FromStringAndSize(NULL, size)
    to = PyBytes_AS_STRING(written)
    for i in range(0, len(kept), 2):
        to = _put(to, <bytes> kept[i])
        memcpy(to, b": ", 2)
        to = _put(to + 2, <bytes> kept[i + 1])
        memcpy(to, b"\r\n", 2)
        to += 2
    return written


cdef char* _put(char* to, bytes text):
    memcpy(to, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return to + PyBytes_GET_SIZE(text)


cdef bint _begins_with(bytes name, tuple prefixes) except -1:
    cdef:
        Py_ssize_t i
        bytes prefix
    for i in range(PyTuple_GET_SIZE(prefixes)):
        prefix = <bytes> PyTuple_GET_ITEM(prefixes, i)
        if (
            PyBytes_GET_SIZE(prefix) <= PyBytes_GET_SIZE(name)
            and memcmp(PyBytes_AS_STRING(prefix), PyBytes_AS_STRING(name), PyBytes_GET_SIZE(prefix)) == 0
        ):
            return True
    return False


cdef int _check(bytes name, bytes value) except -1:
    cdef:
        const char* text = PyBytes_AS_STRING(value)
        Py_ssize_t size = PyBytes_GET_SIZE(value)
    if memchr(text, b"\n", size) != NULL or memchr(text, b"\r", size) != NULL or memchr(text, 0, size) != NULL:
        raise ValueError(f"the header field {name.decode('latin-1')} holds a CR, LF or NUL")
    return 0


cdef set _nominated(list pairs):
    """Return the names that `connection` says are meant for the next hop only; None for the values that most have."""
    cdef set names = None
    for name, value in pairs:
        if name == b"connection":
            value = value.lower()
            if value != b"keep-alive" and value != b"close":
                names = names or set()
                names.update([field.strip() for field in value.split(b",")])
    return names
