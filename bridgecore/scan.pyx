"""Finding a place in JSON text without building anything from the rest of it."""

# `cut_down` walks over the whole text once and checks that it is JSON; it builds nothing but the few members that it
# was asked for. A walk that meets anything unusual (an escaped name, great depth, text that is not JSON) gives up,
# because a general parser can say best what that is.
#
# `find_members` is for text that has been accepted by a parser: a string ends at its first bare quote, a container
# where its brackets balance, anything else at a delimiter. Every index is checked against the length, so even text
# that is not JSON cannot lead it astray.

from json import loads

from libc.string cimport memchr, memcmp

cdef enum:
    MAX_DEPTH = 256

cdef extern from *:
    """
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #endif

    /* What may follow a backslash, but for the letter that begins four digits. */
    static const unsigned char is_escape[256] = {
        ['"'] = 1, ['\\\\'] = 1, ['/'] = 1, ['b'] = 1, ['f'] = 1, ['n'] = 1, ['r'] = 1, ['t'] = 1
    };

    /* The index of the first byte that is not plain text of a string: ASCII, no control, quote or backslash. */
    static inline Py_ssize_t plain_end(const unsigned char *text, Py_ssize_t i, Py_ssize_t length) {
    #if defined(__SSE2__)
        /* Sixteen at a time; as signed bytes, everything beyond ASCII is below a space too. */
        const __m128i space = _mm_set1_epi8(' '), quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\\\');
        for (; i + 16 <= length; i += 16) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *) (text + i));
            const __m128i found = _mm_or_si128(
                _mm_cmplt_epi8(bytes, space),
                _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, slash)));
            const int mask = _mm_movemask_epi8(found);
            if (mask)
                return i + __builtin_ctz(mask);
        }
    #endif
        while (i < length && (signed char) text[i] >= ' ' && text[i] != '"' && text[i] != '\\\\')
            i++;
        return i;
    }
    """
    const unsigned char[256] is_escape
    Py_ssize_t plain_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil


def cut_down(bytes data not None, frozenset names not None, list before=None):
    """Return the object *data* with only those of its members whose names, as bytes, are *names*; or None.

    Of a member that is an array only the last element is left; of several members of one name all are. None means
    that *data* is not a JSON object in UTF-8, or one that a general parser should look at. To *before*, where it is
    given, `(start, end)` of the element before the last is appended for each such array that has one.
    """
    cdef:
        const unsigned char* text = data
        Py_ssize_t length = len(data)
        Py_ssize_t i = _space_end(text, 0, length)
        Py_ssize_t start
        Py_ssize_t end
        Py_ssize_t before_start
        Py_ssize_t before_end
        list pieces = []
        bytes name
    if i == length or text[i] != b"{":
        return None
    i = _space_end(text, i + 1, length)
    if i < length and text[i] == b"}":
        return b"{}" if _space_end(text, i + 1, length) == length else None
    while True:
        start = i
        i = _name_end(text, i, length)
        if i < 0:
            return None
        end = _string_end_checked(text, start, length)
        if memchr(text + start, b"\\", end - start) != NULL:
            return None
        name = data[start + 1:end - 1]
        start = i
        if name not in names:
            i = _value_end_checked(text, i, length)
            if i < 0:
                return None
        elif i < length and text[i] == b"[":
            i = _last_elements(text, i, length, &start, &end, &before_start, &before_end)
            if i < 0:
                return None
            if before is not None and before_end > before_start:
                before.append((before_start, before_end))
            pieces.append(b'"%b":[%b]' % (name, data[start:end]))
        else:
            i = _value_end_checked(text, i, length)
            if i < 0:
                return None
            pieces.append(b'"%b":%b' % (name, data[start:i]))
        i = _space_end(text, i, length)
        if i == length:
            return None
        if text[i] == b"}":
            break
        if text[i] != b",":
            return None
        i = _space_end(text, i + 1, length)
    return b"{%b}" % b",".join(pieces) if _space_end(text, i + 1, length) == length else None


def find_member(bytes data not None, str name not None, Py_ssize_t start=0):
    """Return `(start, end)` of the value of the object's last member *name*, or None where it has none.

    Like `find_members`; the last one is the one that most parsers take.
    """
    cdef list found = find_members(data, name, start)
    return found[len(found) - 1] if found else None


def find_members(bytes data not None, str name not None, Py_ssize_t start=0):
    """Return `(start, end)` of the value of each of the object's members *name*.

    *data* is valid JSON text whose value at or after *start* is an object; nested objects are passed over.
    Raises ValueError where the text is not of that form. O(n), no allocation but for escaped member names.
    """
    cdef list found = []
    _walk(data, (name,), start, found, None)
    return found


def find_each(bytes data not None, tuple names not None, Py_ssize_t start=0):
    """Return a list with what `find_member` returns for each of *names*, after one walk."""
    cdef list last = [None] * len(names)
    _walk(data, names, start, None, last)
    return last


cdef int _walk(bytes data, tuple names, Py_ssize_t start, list found, list last) except -1:
    """Note the spans of the members *names*: all of them in *found*, or the last of each in *last*."""
    cdef:
        const unsigned char* text = data
        Py_ssize_t length = len(data)
        list wanted = [(<str> name).encode() for name in names]
        Py_ssize_t i
        Py_ssize_t k
        Py_ssize_t name_start
        Py_ssize_t name_end
        Py_ssize_t value_end
    if start < 0:
        raise ValueError(f"start must not be negative, got {start}")
    i = _space_end(text, start, length)
    if i >= length or text[i] != b"{":
        raise ValueError(f"expected a JSON object at offset {i}")
    i = _space_end(text, i + 1, length)
    while i < length and text[i] == b'"':
        name_start = i
        name_end = _string_end(text, i, length)
        i = _space_end(text, name_end, length)
        if i >= length or text[i] != b":":
            raise ValueError(f"expected a colon at offset {i}")
        i = _space_end(text, i + 1, length)
        value_end = _value_end(text, i, length)
        for k in range(len(wanted)):
            if _is_name(data, name_start, name_end, <bytes> wanted[k], <str> names[k]):
                if last is None:
                    found.append((i, value_end))
                else:
                    last[k] = (i, value_end)
        i = _space_end(text, value_end, length)
        if i < length and text[i] == b",":
            i = _space_end(text, i + 1, length)
    if i >= length or text[i] != b"}":
        raise ValueError(f"expected the end of a JSON object at offset {i}")
    return 0


cdef bint _is_name(bytes data, Py_ssize_t start, Py_ssize_t end, bytes wanted, str name):
    """Whether the quoted string `data[start:end]` spells *name*; an escaped one is decoded to be sure."""
    cdef const unsigned char* text = data
    if memchr(text + start, b"\\", end - start) != NULL:
        return loads(data[start:end], strict=False) == name
    return end - start - 2 == len(wanted) and memcmp(text + start + 1, <const char*>wanted, len(wanted)) == 0


cdef Py_ssize_t _space_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    while i < length and (text[i] == b" " or text[i] == b"\n" or text[i] == b"\t" or text[i] == b"\r"):
        i += 1
    return i


cdef Py_ssize_t _string_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) except -1 nogil:
    """Return the index after the closing quote of the string that opens at *i*."""
    cdef const unsigned char* quote
    cdef Py_ssize_t at = i + 1
    cdef Py_ssize_t slash
    while at < length:
        quote = <const unsigned char*>memchr(text + at, b'"', length - at)
        if quote == NULL:
            break
        at = quote - text
        # The quote is bare when an even number of backslashes stands before it.
        slash = at - 1
        while slash > i and text[slash] == b"\\":
            slash -= 1
        at += 1
        if (at - slash) % 2 == 0:
            return at
    with gil:
        raise ValueError(f"the string at offset {i} does not end")


cdef Py_ssize_t _value_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) except -1 nogil:
    """Return the index after the value that begins at *i*."""
    cdef Py_ssize_t depth = 0
    cdef Py_ssize_t at = i
    cdef unsigned char c
    while at < length:
        c = text[at]
        if c == b'"':
            at = _string_end(text, at, length)
            if depth == 0:
                return at
            continue
        if c == b"{" or c == b"[":
            depth += 1
        elif c == b"}" or c == b"]":
            if depth == 0:
                break
            depth -= 1
            if depth == 0:
                return at + 1
        elif depth == 0 and (c == b"," or c == b" " or c == b"\n" or c == b"\t" or c == b"\r"):
            break
        at += 1
    if depth != 0 or at == i:
        with gil:
            raise ValueError(f"the value at offset {i} does not end")
    return at


cdef Py_ssize_t _last_elements(
    const unsigned char* text,
    Py_ssize_t i,
    Py_ssize_t length,
    Py_ssize_t* start,
    Py_ssize_t* end,
    Py_ssize_t* before_start,
    Py_ssize_t* before_end,
) noexcept nogil:
    """Return the index after the array at *i*, or -1, and where its last two elements are; those it lacks are empty."""
    start[0] = end[0] = before_start[0] = before_end[0] = i = _space_end(text, i + 1, length)
    if i < length and text[i] == b"]":
        return i + 1
    while True:
        before_start[0] = start[0]
        before_end[0] = end[0]
        start[0] = i
        i = _value_end_checked(text, i, length)
        if i < 0:
            return -1
        end[0] = i
        i = _space_end(text, i, length)
        if i == length:
            return -1
        if text[i] == b"]":
            return i + 1
        if text[i] != b",":
            return -1
        i = _space_end(text, i + 1, length)


cdef Py_ssize_t _value_end_checked(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index after the value at *i*, or -1 if that is not JSON or too deep."""
    cdef:
        unsigned char[MAX_DEPTH] closers
        int depth = 0
        unsigned char c
    while True:
        if i >= length:
            return -1
        c = text[i]
        if c == b'"':
            i = _string_end_checked(text, i, length)
        elif c == b"{" or c == b"[":
            if depth == MAX_DEPTH:
                return -1
            closers[depth] = c + 2  # as ASCII has it
            depth += 1
            i = _space_end(text, i + 1, length)
            if i == length:
                return -1
            if text[i] != c + 2:
                if c == b"{":
                    i = _name_end(text, i, length)
                    if i < 0:
                        return -1
                continue
            depth -= 1
            i += 1
        else:
            i = _scalar_end(text, i, length)
        if i < 0:
            return -1
        while True:
            if depth == 0:
                return i
            i = _space_end(text, i, length)
            if i == length:
                return -1
            if text[i] == b",":
                i = _space_end(text, i + 1, length)
                if closers[depth - 1] == b"}":
                    i = _name_end(text, i, length)
                    if i < 0:
                        return -1
                break
            if text[i] != closers[depth - 1]:
                return -1
            depth -= 1
            i += 1


cdef Py_ssize_t _name_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index of the value whose quoted name should be at *i*, or -1."""
    if i >= length or text[i] != b'"':
        return -1
    i = _string_end_checked(text, i, length)
    if i < 0:
        return -1
    i = _space_end(text, i, length)
    if i == length or text[i] != b":":
        return -1
    return _space_end(text, i + 1, length)


cdef Py_ssize_t _string_end_checked(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index after the string whose quote is at *i*, or -1 if it is not JSON or not UTF-8."""
    cdef unsigned char c
    i += 1
    while True:
        i = plain_end(text, i, length)
        if i == length:
            return -1
        c = text[i]
        if c == b'"':
            return i + 1
        if c == b"\\":
            i = _escape_end(text, i, length)
        elif c >= 0x80:
            i = _character_end(text, i, length)
        else:
            return -1
        if i < 0:
            return -1


cdef inline Py_ssize_t _escape_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index after the escape at *i*, or -1."""
    cdef:
        unsigned char c
        Py_ssize_t k
    if i + 1 >= length:
        return -1
    c = text[i + 1]
    if c != b"u":
        return i + 2 if is_escape[c] else -1
    if i + 6 > length:
        return -1
    for k in range(i + 2, i + 6):
        c = text[k]
        if not (b"0" <= c <= b"9" or b"a" <= c <= b"f" or b"A" <= c <= b"F"):
            return -1
    return i + 6


cdef Py_ssize_t _character_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index after the character of two or more bytes at *i*, or -1 (Unicode 15.0, table 3-7)."""
    cdef:
        unsigned char c = text[i]
        unsigned char low = 0x80
        unsigned char high = 0xBF
        int more
        int k
    if 0xC2 <= c <= 0xDF:
        more = 1
    elif 0xE0 <= c <= 0xEF:
        more = 2
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
    elif 0xF0 <= c <= 0xF4:
        more = 3
        if c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
    else:
        return -1
    if i + more >= length or not low <= text[i + 1] <= high:
        return -1
    for k in range(2, more + 1):
        if not 0x80 <= text[i + k] <= 0xBF:
            return -1
    return i + more + 1


cdef Py_ssize_t _scalar_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index after the number or the literal at *i*, or -1."""
    cdef Py_ssize_t left = length - i
    if left >= 4 and (memcmp(text + i, b"true", 4) == 0 or memcmp(text + i, b"null", 4) == 0):
        return i + 4
    if left >= 5 and memcmp(text + i, b"false", 5) == 0:
        return i + 5
    if text[i] == b"-":
        i += 1
    if i < length and text[i] == b"0":
        i += 1
    else:
        i = _digits_end(text, i, length)
    if i > 0 and i < length and text[i] == b".":
        i = _digits_end(text, i + 1, length)
    if i > 0 and i < length and (text[i] == b"e" or text[i] == b"E"):
        i += 1
        if i < length and (text[i] == b"+" or text[i] == b"-"):
            i += 1
        i = _digits_end(text, i, length)
    return i


cdef Py_ssize_t _digits_end(const unsigned char* text, Py_ssize_t i, Py_ssize_t length) noexcept nogil:
    """Return the index after the digits at *i*, or -1 if there are none."""
    cdef Py_ssize_t first = i
    while i < length and b"0" <= text[i] <= b"9":
        i += 1
    return i if i > first else -1
