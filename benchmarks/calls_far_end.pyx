# cython: language_level=3, boundscheck=False, wraparound=False
"""The calls of `calls_server.py`, compiled: so that of the two cores the client's is the one that is full."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, errno
from libc.stdint cimport int64_t
from libc.string cimport memcmp, memcpy
from picows.picows cimport WSFrame, WSListener, WSMsgType, WSTransport


cdef extern from *:
    """
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <time.h>
    void *memmem(const void *, size_t, const void *, size_t);
    static long long far_end_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    """
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        unsigned events
        epoll_data_t data
    void* memmem(const void* haystack, size_t size, const void* needle, size_t length) noexcept nogil
    int64_t far_end_now_ns() noexcept nogil
    int epoll_create1(int flags) noexcept nogil
    int epoll_ctl(int epoll, int what, int fd, epoll_event* event) noexcept nogil
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms) noexcept nogil
    Py_ssize_t recv(int fd, void* buffer, size_t size, int flags) noexcept nogil
    Py_ssize_t send(int fd, const void* buffer, size_t size, int flags) noexcept nogil
    unsigned EPOLLIN, EPOLLRDHUP, EPOLLET
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, MSG_DONTWAIT


cdef enum:
    READ_MAX = 65536
    SOCKETS_AT_ONCE = 256


cdef const char* MEDIA = b'{"event":"media"'


cdef class Agent(WSListener):
    """One call, whose frames of audio are whole WebSocket frames. delay_ns: from when a caller stops speaking to the
    answer; silence: how silence looks in a frame."""

    cdef readonly int number
    cdef readonly int64_t received
    cdef object _server, _told
    cdef WSTransport _transport
    cdef Intake _intake  # that reads the socket; None: picows does
    cdef bytes _silence, _rest
    cdef int64_t _delay_ns, _heard_ns, _answer_from_ns  # 0: it has nothing to answer
    cdef int _saying  # frames of the answer that are still to be sent
    cdef bint _through  # all that was sent is with the kernel

    def __init__(self, server, int number, int64_t delay_ns, bytes silence, told):
        self._server, self.number, self._delay_ns, self._silence, self._told = server, number, delay_ns, silence, told
        self._rest = b""

    cpdef on_ws_connected(self, WSTransport transport):
        self._transport = transport
        self._server.join(self)

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.leave()
        self._server.leave(self)

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        self._heard(frame.msg_type, frame.payload_ptr, frame.payload_size)
        if self._intake is None and not transport.is_secure and frame.last_in_buffer and not frame.tail_size:
            intake = self._server.intake
            if (<Intake>intake).add(transport._socket, self):
                self._intake = intake
                transport.underlying_transport.pause_reading()

    cdef int _heard(self, int kind, char* message, Py_ssize_t size) except -1:
        if kind == WSMsgType.CLOSE:
            self._transport.send_close()
            self._transport.disconnect()
        elif kind == WSMsgType.PING and self._intake is not None:
            self._through = False
            self._transport.send_pong(PyBytes_FromStringAndSize(message, size))
        elif size > 16 and not memcmp(message, MEDIA, 16):
            self.received += 1
            if memmem(message, size, <char*>self._silence, len(self._silence)) is NULL:
                self._heard_ns = far_end_now_ns()
                self._answer_from_ns = self._heard_ns + self._delay_ns
        return 0

    # ------------------------------------------------------------ read directly

    cdef int leave(self) except -1:
        intake, self._intake = self._intake, None
        if intake is not None:
            (<Intake>intake).remove(self._transport._socket, self)
        return 0

    cdef int read(self, char* data) except -1:
        """All that has come. data: room for twice `READ_MAX`."""
        cdef Py_ssize_t kept, size
        while self._intake is not None:
            kept = len(self._rest)
            memcpy(data, <char*>self._rest, kept)
            size = recv(self._transport._socket, data + kept, READ_MAX, MSG_DONTWAIT)
            if size < 0 and errno == EAGAIN:
                break
            if size <= 0 or not self._take_all(data, kept + size):
                self._transport.disconnect(False)
                break
        return 0

    cdef bint _take_all(self, char* data, Py_ssize_t size) except -1:
        """The whole frames of it; False if one of 64 KB or more has begun, which no telephone sends."""
        cdef Py_ssize_t header, message, at = 0
        while size - at >= 8:
            header, message = 6, data[at + 1] & 0x7F
            if message == 127:
                return False
            if message == 126:
                header, message = 8, <unsigned char>data[at + 2] << 8 | <unsigned char>data[at + 3]
            if size - at < header + message:
                break
            _unmask(data + at + header, message)
            self._heard(data[at] & 0x0F, data + at + header, message)
            at += header + message
        self._rest = PyBytes_FromStringAndSize(data + at, size - at) if at < size else b""
        return size - at < READ_MAX

    # ------------------------------------------------------------ every 20 ms

    cdef int tick(self, int64_t due_ns, bytes silent, list tone, bytes clear) except -1:
        if not self._saying and self._answer_from_ns and due_ns >= self._answer_from_ns:
            self._told((self.number, due_ns - self._heard_ns))
            self._answer_from_ns, self._saying = 0, len(tone)
            self._say(clear)
        if self._saying:
            self._say(<bytes>tone[len(tone) - self._saying])
            self._saying -= 1
        else:
            self._say(silent)
        return 0

    cdef int _say(self, bytes frame) except -1:
        """A text in its WebSocket frame. The transport, which is slow to ask, is asked after it had to keep some."""
        cdef Py_ssize_t sent = 0
        if self._transport.is_disconnected or self._transport.is_close_frame_sent:
            return 0
        transport = self._transport.underlying_transport
        if not self._through and not self._transport.is_secure:
            self._through = not transport.get_write_buffer_size()
        if self._through:
            sent = send(self._transport._socket, <char*>frame, len(frame), MSG_DONTWAIT)
            if sent == len(frame):
                return 0
            self._through, sent = False, max(sent, 0)
        transport.write(frame[sent:])
        return 0


cdef void _unmask(char* message, Py_ssize_t size) noexcept:
    """By the four octets before it."""
    cdef Py_ssize_t i
    cdef char key[4]
    memcpy(key, message - 4, 4)
    for i in range(size):
        message[i] ^= key[i & 3]


cdef class Intake:
    """Reads the agents' sockets, by an epoll that tells once of what has arrived: `fileno` is to be watched, and
    `read_all` called when it can be read."""

    cdef readonly int fileno
    cdef set _agents
    cdef list _gone  # an event may still name them
    cdef char _data[2 * READ_MAX]

    def __init__(self):
        self.fileno = epoll_create1(0)
        self._agents, self._gone = set(), []

    cdef bint add(self, int fd, Agent agent) except -1:
        """False if it cannot be read here."""
        cdef epoll_event event
        event.events, event.data.ptr = EPOLLIN | EPOLLRDHUP | EPOLLET, <void*>agent
        if epoll_ctl(self.fileno, EPOLL_CTL_ADD, fd, &event) < 0:
            return False
        self._agents.add(agent)
        return True

    cdef int remove(self, int fd, Agent agent) except -1:
        self._gone.append(agent)
        self._agents.discard(agent)
        epoll_ctl(self.fileno, EPOLL_CTL_DEL, fd, NULL)
        return 0

    def read_all(self):
        cdef epoll_event events[SOCKETS_AT_ONCE]
        cdef int i, count = epoll_wait(self.fileno, events, SOCKETS_AT_ONCE, 0)
        for i in range(count):
            (<Agent>events[i].data.ptr).read(self._data)
        self._gone.clear()


def send_all(list agents, int64_t due_ns, bytes silent, list tone, bytes clear):
    """Of every agent the frame that is due."""
    for agent in agents:
        (<Agent>agent).tick(due_ns, silent, tone, clear)
