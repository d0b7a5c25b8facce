# cython: language_level=3, cdivision=True
"""A server for `http_load.py` that is compiled, so that of the two cores the client's is the one that is full."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE


cdef extern from *:
    """
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <unistd.h>
    static const int far_end_on = 1;
    """
    ctypedef union epoll_data_t:
        int fd
    struct epoll_event:
        unsigned events
        epoll_data_t data
    int epoll_create1(int flags) noexcept nogil
    int epoll_ctl(int epoll, int what, int fd, epoll_event* event) noexcept nogil
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms) noexcept nogil
    int accept(int fd, void* address, void* size) noexcept nogil
    int setsockopt(int fd, int level, int option, const void* value, unsigned size) noexcept nogil
    Py_ssize_t recv(int fd, void* buffer, size_t size, int flags) noexcept nogil
    Py_ssize_t send(int fd, const void* buffer, size_t size, int flags) noexcept nogil
    int close(int fd) noexcept nogil
    void* memmem(const void* haystack, size_t size, const void* needle, size_t length) noexcept nogil
    int EPOLLIN, EPOLL_CTL_ADD, IPPROTO_TCP, TCP_NODELAY, MSG_NOSIGNAL
    const int far_end_on


cdef enum:
    AT_ONCE = 256
    READ_MAX = 16384


def serve(int listener, bytes answer):
    """Answers each request that has no body, at once, for ever; a client that does not read its answers is left."""
    cdef const char* text = PyBytes_AS_STRING(answer)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(answer)
    with nogil:
        _serve(listener, text, size)


cdef void _serve(int listener, const char* answer, Py_ssize_t size) noexcept nogil:
    cdef epoll_event events[AT_ONCE]
    cdef epoll_event event
    cdef int i, fd, count, epoll = epoll_create1(0)
    event.events, event.data.fd = EPOLLIN, listener
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)
    while True:
        count = epoll_wait(epoll, events, AT_ONCE, -1)
        for i in range(count):
            fd = events[i].data.fd
            if fd == listener:
                fd = accept(listener, NULL, NULL)
                if fd >= 0:
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &far_end_on, sizeof(int))
                    event.data.fd = fd
                    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)
            elif not _answered(fd, answer, size):
                close(fd)


cdef bint _answered(int fd, const char* answer, Py_ssize_t size) noexcept nogil:
    """False when the connection is over."""
    cdef char data[READ_MAX]
    cdef char* at = data
    cdef char* found
    cdef Py_ssize_t left = recv(fd, data, READ_MAX, 0)
    if left <= 0:
        return False
    while left:
        found = <char*>memmem(at, left, b"\r\n\r\n", 4)
        if found is NULL:
            return False  # half a request: none of those that are measured sends that
        left -= found + 4 - at
        at = found + 4
        if send(fd, answer, size, MSG_NOSIGNAL) != size:
            return False
    return True
