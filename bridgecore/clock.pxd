"""Monotonic time in nanoseconds, without a call into Python."""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>

    static inline int64_t bridgecore_clock_ns(clockid_t clock) {
        struct timespec now;
        clock_gettime(clock, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }

    /* The clock of `time.monotonic`. */
    static inline int64_t bridgecore_now_ns(void) { return bridgecore_clock_ns(CLOCK_MONOTONIC); }

    /* The same as of the last timer interrupt, 1 to 10 ms ago, for a quarter of the price. */
    static inline int64_t bridgecore_coarse_ns(void) {
    #ifdef CLOCK_MONOTONIC_COARSE
        return bridgecore_clock_ns(CLOCK_MONOTONIC_COARSE);
    #else
        return bridgecore_clock_ns(CLOCK_MONOTONIC);
    #endif
    }
    """
    int64_t now_ns "bridgecore_now_ns"() noexcept nogil
    int64_t coarse_ns "bridgecore_coarse_ns"() noexcept nogil
