"""What a key is: its hash, and when two are one.

Two keys are one when `dict` says so: equal, and of equal hash. The text of a `str` or `bytes` is hashed anew under a
key of our own, since CPython's hash is the same in all its tables and can be switched off; everything else is hashed by
its `hash()`. `(a, b)` is hashed by its parts, so that two parts find it without that tuple.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.object cimport Py_EQ, Py_TYPE, PyObject, PyObject_Hash, PyObject_RichCompareBool, PyTypeObject
from cpython.tuple cimport PyTuple_Check, PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DATA, PyUnicode_GET_LENGTH, PyUnicode_KIND
from libc.stdint cimport uint64_t
from libc.string cimport memcmp

from bridgecore.siphash cimport SipKey, sip_bytes, sip_pair


cdef struct Part:
    const unsigned char* data
    size_t size
    uint64_t word


cdef inline bint inherits_hash(key, base):
    return (<PyTypeObject*> Py_TYPE(key)).tp_hash == (<PyTypeObject*> base).tp_hash


cdef inline object read_part(key, Part* part):
    """Find the bytes of a key; return what keeps them alive. Raises what `hash(key)` raises."""
    if PyUnicode_CheckExact(key) or (isinstance(key, str) and inherits_hash(key, str)):
        part.data = <const unsigned char*> PyUnicode_DATA(key)
        part.size = PyUnicode_GET_LENGTH(key) * PyUnicode_KIND(key)
        return key
    if PyBytes_CheckExact(key) or (isinstance(key, bytes) and inherits_hash(key, bytes)):
        part.data = <const unsigned char*> PyBytes_AS_STRING(key)
        part.size = PyBytes_GET_SIZE(key)
        return key
    part.word = <uint64_t> PyObject_Hash(key)
    if isinstance(key, memoryview):  # equals the bytes that it shows
        return read_part(bytes(key), part)
    part.data = <const unsigned char*> &part.word
    part.size = sizeof(part.word)
    return key


cdef inline uint64_t pair_hash(SipKey sip_key, a, b) except? 0:
    cdef Part first
    cdef Part second
    a = read_part(a, &first)
    b = read_part(b, &second)
    return sip_pair(sip_key, first.data, first.size, second.data, second.size)


cdef inline bint is_pair(key):
    return PyTuple_Check(key) and PyTuple_GET_SIZE(key) == 2 and inherits_hash(key, tuple)


cdef inline uint64_t key_hash(SipKey sip_key, key) except? 0:
    cdef Part part
    if is_pair(key):
        return pair_hash(sip_key, <object> PyTuple_GET_ITEM(key, 0), <object> PyTuple_GET_ITEM(key, 1))
    key = read_part(key, &part)
    return sip_bytes(sip_key, part.data, part.size)


cdef inline int same_text(stored, key) noexcept:
    """Return 1 or 0 where it can be told without running foreign code, else 2."""
    if stored is key:
        return 1
    if PyUnicode_CheckExact(key) and PyUnicode_CheckExact(stored):
        return (
            PyUnicode_GET_LENGTH(stored) == PyUnicode_GET_LENGTH(key)
            and PyUnicode_KIND(stored) == PyUnicode_KIND(key)
            and not memcmp(PyUnicode_DATA(stored), PyUnicode_DATA(key), PyUnicode_GET_LENGTH(key) * PyUnicode_KIND(key))
        )
    if PyBytes_CheckExact(key) and PyBytes_CheckExact(stored):
        return (
            PyBytes_GET_SIZE(stored) == PyBytes_GET_SIZE(key)
            and memcmp(PyBytes_AS_STRING(stored), PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)) == 0
        )
    return 2


cdef inline int same_pair(stored, a, b) noexcept:
    """Like `same_text`, for a stored key and two parts."""
    cdef int first
    cdef int second
    if not PyTuple_CheckExact(stored):
        return 2
    if PyTuple_GET_SIZE(stored) != 2:
        return 0
    first = same_text(<object> PyTuple_GET_ITEM(stored, 0), a)
    second = same_text(<object> PyTuple_GET_ITEM(stored, 1), b)
    if first == 0 or second == 0:
        return 0
    return 1 if first == 1 and second == 1 else 2


cdef inline int is_equal(stored, key) except -1:
    """Compare in the way of a dict; may run foreign code."""
    return PyObject_RichCompareBool(stored, key, Py_EQ)


cdef inline bint holds_parts(PyObject* stored, a, b) noexcept:
    """Whether a stored key is a pair of these very objects."""
    return (
        PyTuple_CheckExact(<object> stored)
        and PyTuple_GET_SIZE(<object> stored) == 2
        and PyTuple_GET_ITEM(<object> stored, 0) == <PyObject*> a
        and PyTuple_GET_ITEM(<object> stored, 1) == <PyObject*> b
    )
