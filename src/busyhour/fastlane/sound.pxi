# What is loud in a frame.

cdef enum:
    OCTETS_MAX = 1920  # 20 ms of L16 at 48 kHz


cdef enum Loudness:  # of the windows of a frame
    NO_FRAME = -1
    NONE_LOUD = 0
    SOME_LOUD = 1
    ALL_LOUD = 2


@cython.final
cdef class Meter:
    """Which windows of a frame are loud (`media.speech.loud_windows`), for frames of one codec in base64."""

    cdef readonly Py_ssize_t payload_bytes, windows
    cdef Py_ssize_t _frame_bytes, _window_samples, _padding
    cdef bint _linear, _little_endian
    cdef double _least_power
    cdef short _decoding[256]

    def __init__(self, Py_ssize_t frame_bytes, Py_ssize_t window_samples, bytes decoding, bint little_endian, double least_power):
        self._linear = not decoding
        if not self._linear and len(decoding) != sizeof(self._decoding):
            raise ValueError(f"a table of {len(decoding)} bytes, and not of 256 samples")
        if frame_bytes > OCTETS_MAX or frame_bytes % ((2 if self._linear else 1) * window_samples):
            raise ValueError(f"frames of {frame_bytes} bytes, windows of {window_samples} samples")
        self._frame_bytes, self._window_samples = frame_bytes, window_samples
        self._padding = (3 - frame_bytes % 3) % 3
        self.payload_bytes = (frame_bytes + 2) // 3 * 4
        self.windows = frame_bytes // (2 if self._linear else 1) // window_samples
        self._little_endian, self._least_power = little_endian, least_power * window_samples
        if not self._linear:
            memcpy(self._decoding, PyBytes_AS_STRING(decoding), sizeof(self._decoding))

    def loud(self, bytes payload):
        cdef char found[OCTETS_MAX]
        if len(payload) != self.payload_bytes or self.measure(PyBytes_AS_STRING(payload), found) == NO_FRAME:
            return None
        return PyBytes_FromStringAndSize(found, self.windows)

    def loud_of(self, bytes octets):
        cdef char found[OCTETS_MAX]
        if len(octets) != self._frame_bytes:
            raise ValueError(f"a frame of {len(octets)} octets, and not of {self._frame_bytes}")
        self.judge(<const unsigned char*>PyBytes_AS_STRING(octets), found)
        return PyBytes_FromStringAndSize(found, self.windows)

    cdef Loudness measure(self, const char* payload, char* loud) noexcept:
        """`payload_bytes` characters to `windows` octets; NO_FRAME for no base64."""
        cdef unsigned char octets[OCTETS_MAX + 3]
        if not _decoded(<const unsigned char*>payload, self.payload_bytes, self._padding, octets):
            return NO_FRAME
        return self.judge(octets, loud)

    cdef Loudness judge(self, const unsigned char* octets, char* loud) noexcept:
        """The octets of a frame to `windows` octets, 1 for what is loud."""
        cdef Py_ssize_t window, i, at = 0
        cdef long long total, power
        cdef int sample, loud_ones = 0
        cdef double n = <double>self._window_samples
        for window in range(self.windows):
            total = power = 0
            for i in range(self._window_samples):
                if self._linear:
                    if self._little_endian:
                        sample = <short>(octets[at] | octets[at + 1] << 8)
                    else:
                        sample = <short>(octets[at] << 8 | octets[at + 1])
                    at += 2
                else:
                    sample = self._decoding[octets[at]]
                    at += 1
                total += sample
                power += <long long>sample * sample
            # The power without its constant part.
            loud[window] = <double>power - <double>total * <double>total / n >= self._least_power
            loud_ones += loud[window]
        if loud_ones == self.windows:
            return ALL_LOUD
        return SOME_LOUD if loud_ones else NONE_LOUD


def meter_of(Py_ssize_t frame_bytes, Py_ssize_t window_samples, bytes decoding, bint little_endian, double least_power):
    return Meter(frame_bytes, window_samples, decoding, little_endian, least_power)


cdef unsigned char _SEXTETS[256]
cdef const char* _ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef int _value
memset(_SEXTETS, 0xFF, 256)
for _value in range(64):
    _SEXTETS[<unsigned char>_ALPHABET[_value]] = _value


cdef bint _decoded(const unsigned char* text, Py_ssize_t size, Py_ssize_t padding, unsigned char* octets) noexcept:
    """Base64 of RFC 4648 with so much padding; False for anything else. It may write up to two octets too many."""
    cdef unsigned char a, b, c, d, wrong = 0
    cdef Py_ssize_t at = 0, last = size - 4
    while at <= last:
        a, b = _SEXTETS[text[at]], _SEXTETS[text[at + 1]]
        c, d = _SEXTETS[text[at + 2]], _SEXTETS[text[at + 3]]
        if at == last and padding:
            if text[at + 3] != c"=" or (padding == 2 and text[at + 2] != c"="):
                return False
            d = 0
            if padding == 2:
                c = 0
            if (b & 0x0F) if padding == 2 else (c & 0x03):  # bits that mean nothing: not for us to judge
                return False
        wrong |= a | b | c | d
        octets[0] = <unsigned char>(a << 2 | b >> 4)
        octets[1] = <unsigned char>(b << 4 | c >> 2)
        octets[2] = <unsigned char>(c << 6 | d)
        octets += 3
        at += 4
    return not wrong & 0x80
