# A frame of a WebSocket (RFC 6455, 5.2).


cdef char* _framed(char* message, Py_ssize_t size) except NULL:
    """Mask a text of less than 64 KB and write its header before it (RFC 6455, 5.2): where that begins. Behind it up to
    seven octets are changed."""
    cdef unsigned char* frame = <unsigned char*>message - (8 if size >= 126 else 6)
    cdef unsigned char* key = <unsigned char*>message - 4
    cdef unsigned char twice[8]
    cdef unsigned long long mask, eight
    cdef Py_ssize_t at = 0
    _next_key(key)
    memcpy(twice, key, 4)
    memcpy(twice + 4, key, 4)
    memcpy(&mask, twice, 8)
    while at < size:
        memcpy(&eight, message + at, 8)
        eight ^= mask
        memcpy(message + at, &eight, 8)
        at += 8
    frame[0] = 0x81
    frame[1] = 0x80 | (126 if size >= 126 else size)
    if size >= 126:
        frame[2], frame[3] = size >> 8, size & 0xFF
    return <char*>frame


cdef enum:
    KEYS_BYTES = 4096

cdef unsigned char _keys[KEYS_BYTES]  # no agent can foretell them (RFC 6455, 10.3)
cdef Py_ssize_t _keys_used = KEYS_BYTES


cdef int _next_key(unsigned char* key) except -1:
    global _keys_used
    if _keys_used == KEYS_BYTES:
        memcpy(_keys, PyBytes_AS_STRING(os.urandom(KEYS_BYTES)), KEYS_BYTES)
        _keys_used = 0
    memcpy(key, _keys + _keys_used, 4)
    _keys_used += 4
    return 0


cdef (Py_ssize_t, Py_ssize_t) _measured(const unsigned char* frame, Py_ssize_t size) noexcept:
    """How long the header of a WebSocket frame is, and what follows it (RFC 6455, 5.2); -1 if that cannot be told."""
    cdef Py_ssize_t header, message
    cdef int i
    if size < 2:
        return -1, 0
    message, header = frame[1] & 0x7F, 2
    if message >= 126:
        header = 4 if message == 126 else 10
        if size < header:
            return -1, 0
        message = 0
        for i in range(2, header):
            message = message << 8 | frame[i]
        if message < 0:
            return -1, 0
    return header + (4 if frame[1] & 0x80 else 0), message


cdef bint _is_plain_text(const unsigned char* frame, Py_ssize_t message) noexcept:
    """Whether it is a text in one piece, without a mask, its length written as RFC 6455 wants it: below 64 KB."""
    return frame[0] == 0x81 and (frame[1] == message or (frame[1] == 126 and message >= 126))


cdef bint _ends_whole(const unsigned char* data, Py_ssize_t size) noexcept:
    """Whether it is nothing but whole frames."""
    cdef Py_ssize_t header, message
    while size:
        header, message = _measured(data, size)
        if header < 0 or message > size - header:
            return False
        data += header + message
        size -= header + message
    return True
