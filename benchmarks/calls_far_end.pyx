# cython: language_level=3
"""The calls of `calls_server.py`, compiled: so that of the two cores the client's is the one that is full."""

from libc.stdint cimport int64_t
from libc.string cimport memcmp
from picows.picows cimport WSFrame, WSListener, WSMsgType, WSTransport


cdef extern from *:
    """
    #include <string.h>
    #include <time.h>
    void *memmem(const void *, size_t, const void *, size_t);
    static long long far_end_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    """
    void* memmem(const void* haystack, size_t size, const void* needle, size_t length) noexcept nogil
    int64_t far_end_now_ns() noexcept nogil


cdef const char* MEDIA = b'{"event":"media"'


cdef class Agent(WSListener):
    """One call. delay_ns: from when a caller stops speaking to the answer; silence: how silence looks in a frame."""

    cdef readonly int number
    cdef readonly int64_t received
    cdef object _server, _told
    cdef WSTransport _transport
    cdef bytes _silence
    cdef int64_t _delay_ns, _heard_ns, _answer_from_ns  # 0: it has nothing to answer
    cdef int _saying  # frames of the answer that are still to be sent

    def __init__(self, server, int number, int64_t delay_ns, bytes silence, told):
        self._server, self.number, self._delay_ns, self._silence, self._told = server, number, delay_ns, silence, told

    cpdef on_ws_connected(self, WSTransport transport):
        self._transport = transport
        self._server.join(self)

    cpdef on_ws_disconnected(self, WSTransport transport):
        self._server.leave(self)

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close()
            transport.disconnect()
        elif frame.payload_size > 16 and not memcmp(frame.payload_ptr, MEDIA, 16):
            self.received += 1
            if memmem(frame.payload_ptr, frame.payload_size, <char*>self._silence, len(self._silence)) is NULL:
                self._heard_ns = far_end_now_ns()
                self._answer_from_ns = self._heard_ns + self._delay_ns

    cdef int tick(self, int64_t due_ns, bytes silent, list tone, bytes clear) except -1:
        if not self._saying and self._answer_from_ns and due_ns >= self._answer_from_ns:
            self._told((self.number, due_ns - self._heard_ns))
            self._answer_from_ns, self._saying = 0, len(tone)
            self._transport.send(WSMsgType.TEXT, clear)
        if self._saying:
            self._transport.send(WSMsgType.TEXT, tone[len(tone) - self._saying])
            self._saying -= 1
        else:
            self._transport.send(WSMsgType.TEXT, silent)
        return 0


def send_all(list agents, int64_t due_ns, bytes silent, list tone, bytes clear):
    """Of every agent the frame that is due."""
    for agent in agents:
        (<Agent>agent).tick(due_ns, silent, tone, clear)
