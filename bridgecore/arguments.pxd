"""The numbers that callers give, checked: what was expected, what was found."""

from cpython.number cimport PyNumber_Index
from libc.math cimport INFINITY, isfinite, isinf
from libc.stdint cimport INT64_MAX, int64_t, uint64_t

cdef enum:
    NANOSECONDS = 1_000_000_000


cdef inline object integer(str name, number):
    try:
        return PyNumber_Index(number)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {type(number).__name__}") from None


cdef inline uint64_t read_max_cost(max_cost) except 0:
    bound = integer("max_cost", max_cost)
    if not 1 <= bound <= INT64_MAX:
        raise ValueError(f"max_cost must be from 1 to 2**63 - 1, got {bound}")
    return bound


cdef inline uint64_t read_natural(str name, value) except? 0xFFFFFFFFFFFFFFFFULL:
    """Return a number of at least 0; one beyond 2**63 becomes 2**63."""
    number = integer(name, value)
    if number < 0:
        raise ValueError(f"{name} must be 0 or more, got {number}")
    return min(number, 0x8000000000000000ULL)


cdef inline int64_t nanoseconds(double seconds) noexcept:
    """Return whole nanoseconds, kept between 0 and the largest number."""
    cdef double product = seconds * NANOSECONDS
    if product <= 0:
        return 0
    return INT64_MAX if product >= 9.2e18 else <int64_t> product


cdef inline int64_t read_ttl(ttl) except -1:
    """Return a TTL in ns, at least 1, or 0 for one that never ends."""
    cdef double seconds
    try:
        seconds = ttl
    except TypeError:
        raise TypeError(f"ttl must be a number of seconds or None, got {type(ttl).__name__}") from None
    except OverflowError:  # an integer that no float can hold
        seconds = INFINITY if ttl > 0 else -INFINITY
    if not seconds > 0:
        raise ValueError(f"ttl must be above 0 seconds, got {ttl!r}")
    return 0 if isinf(seconds) else max(<int64_t> 1, nanoseconds(seconds))


cdef inline int64_t read_time(clock) except -1:
    """Return what a clock shows, in ns."""
    cdef double seconds = clock()
    if not isfinite(seconds):
        raise ValueError(f"clock must return finite seconds, got {seconds!r}")
    return nanoseconds(seconds)


cdef inline object read_function(str name, function):
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be callable, got {type(function).__name__}")
    return function
