"""Finding a place in JSON text without building anything from the rest of it."""

# The text has been accepted by a JSON parser before it comes here, so the scanner only has to know where
# values end: a string ends at its first bare quote, a container where its brackets balance, anything else at
# a delimiter. Every index is checked against the length, so even text that is not JSON cannot lead it astray.

from json import loads

from libc.string cimport memchr, memcmp


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
    cdef:
        const unsigned char* text = data
        Py_ssize_t length = len(data)
        bytes wanted = name.encode()
        Py_ssize_t i
        Py_ssize_t name_start
        Py_ssize_t name_end
        Py_ssize_t value_end
        list found = []
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
        if _is_name(data, name_start, name_end, wanted, name):
            found.append((i, value_end))
        i = _space_end(text, value_end, length)
        if i < length and text[i] == b",":
            i = _space_end(text, i + 1, length)
    if i >= length or text[i] != b"}":
        raise ValueError(f"expected the end of a JSON object at offset {i}")
    return found


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
