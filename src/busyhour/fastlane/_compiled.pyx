# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled fast lane; what it is for stands in `__init__`, what the attributes mean in `plain`.

Here is what its two parts share: the way of a frame (frames.pxi, with sound.pxi and websocket.pxi) and that of a request
(requests.pxi).

Nothing here decides what Python would decide otherwise (docs/decisions/0021 names the exceptions): what is not exactly
as expected is left to it, before anything was changed. tests/fastlane/ holds both against one another.
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.buffer cimport PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EAGAIN, ECONNRESET, EINTR, errno
from libc.string cimport memchr, memcmp, memcpy, memset, strlen
from picows.picows cimport WSFrame, WSListener, WSMsgType, WSTransport

import asyncio
import os
import sys
import time

import picows

from busyhour.errors import ProtocolError
from busyhour.fastlane import LEAST_GAP_NS, UNREAD_NS_MAX
from busyhour.model import Due


cdef extern from *:
    """
    #include <errno.h>
    #include <poll.h>
    #include <string.h>
    #include <strings.h>
    #include <sys/socket.h>
    #include <time.h>
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/epoll.h>
    #else  /* nothing is read directly there */
    #define EPOLLIN 1
    #define EPOLLRDHUP 2
    #define EPOLLET 4
    struct epoll_event { unsigned events; union { void *ptr; } data; };
    #define epoll_create1(flags) (errno = ENOSYS, -1)
    #define epoll_ctl(epoll, what, fd, event) (-1)
    #define epoll_wait(epoll, events, most, timeout) (-1)
    #define EPOLL_CLOEXEC 0
    #define EPOLL_CTL_ADD 1
    #define EPOLL_CTL_DEL 2
    #define EPOLL_CTL_MOD 3
    #endif
    #ifndef MSG_NOSIGNAL  /* Python ignores the signal anyway */
    #define MSG_NOSIGNAL 0
    #endif
    #ifndef BUSYHOUR_PICOWS
    #error "BUSYHOUR_PICOWS: the version of picows whose structures are used here; BUSYHOUR_SOURCE: the SHA-256 of this"
    #endif
    #if defined(__GNUC__)
    #define busyhour_prefetch(at) __builtin_prefetch((at), 1)
    #else
    #define busyhour_prefetch(at) ((void)(at))
    #endif
    static int busyhour_is_readable(int fd) {
        struct pollfd one = {fd, POLLIN, 0};
        return poll(&one, 1, 0) != 0;
    }
    static long long busyhour_now_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (long long)now.tv_sec * 1000000000LL + now.tv_nsec;
    }
    #ifdef __linux__  /* which stamps what arrives for a socket, by the clock on the wall, if it is asked to */
    static int busyhour_have_stamped(int fd) {
        int on = 1;
        return setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on);
    }
    static ssize_t busyhour_receive(int fd, void *data, size_t size, long long *arrived_ns) {
        union { char octets[CMSG_SPACE(sizeof(struct timespec))]; struct cmsghdr aligned; } control;
        struct iovec room = {data, size};
        struct msghdr message = {0};
        struct timespec stamp, wall;
        message.msg_iov = &room;
        message.msg_iovlen = 1;
        message.msg_control = &control;
        message.msg_controllen = sizeof control;
        ssize_t got = recvmsg(fd, &message, MSG_DONTWAIT);
        struct cmsghdr *told = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
        *arrived_ns = 0;
        if (told && told->cmsg_level == SOL_SOCKET && told->cmsg_type == SCM_TIMESTAMPNS) {
            memcpy(&stamp, CMSG_DATA(told), sizeof stamp);
            clock_gettime(CLOCK_REALTIME, &wall);
            long long age_ns = (long long)(wall.tv_sec - stamp.tv_sec) * 1000000000LL + wall.tv_nsec - stamp.tv_nsec;
            if (age_ns >= 0 && age_ns < 1000000000LL)  /* else that clock was set meanwhile */
                *arrived_ns = busyhour_now_ns() - age_ns;
        }
        return got;
    }
    #else
    #define busyhour_have_stamped(fd) (-1)
    #define busyhour_receive(fd, data, size, arrived_ns) (*(arrived_ns) = 0, recv(fd, data, size, MSG_DONTWAIT))
    #endif
    """
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        unsigned events
        epoll_data_t data
    int epoll_create1(int flags) noexcept nogil
    int epoll_ctl(int epoll, int what, int fd, epoll_event* event) noexcept nogil
    int epoll_wait(int epoll, epoll_event* events, int most, int timeout_ms) noexcept nogil
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, MSG_DONTWAIT, MSG_NOSIGNAL
    unsigned EPOLLIN, EPOLLRDHUP, EPOLLET
    void busyhour_prefetch(const void* at) noexcept nogil
    bint busyhour_is_readable(int fd) noexcept nogil
    Py_ssize_t recv(int fd, void* buffer, size_t size, int flags) noexcept nogil
    Py_ssize_t send(int fd, const void* buffer, size_t size, int flags) noexcept nogil
    int close(int fd) noexcept nogil
    int strncasecmp(const char* one, const char* other, size_t size) noexcept nogil
    const char* BUSYHOUR_PICOWS
    const char* BUSYHOUR_SOURCE
    long long busyhour_now_ns() noexcept nogil
    int busyhour_have_stamped(int fd) noexcept nogil
    Py_ssize_t busyhour_receive(int fd, void* data, size_t size, long long* arrived_ns) noexcept nogil


if picows.__version__ != BUSYHOUR_PICOWS.decode():
    raise ImportError(f"it was compiled for picows {BUSYHOUR_PICOWS.decode()}, and this is {picows.__version__}")

SOURCE_SHA256 = BUSYHOUR_SOURCE.decode()

# Elsewhere Python's monotonic clock need not be CLOCK_MONOTONIC (on macOS it is not): then it is asked itself.
cdef object _SYSTEM_NOW = time.monotonic_ns if sys.platform == "linux" else None

cdef enum:
    READ_MAX = 65536  # of one socket at once
    SOCKETS_AT_ONCE = 256


cdef long long _UNREAD_NS_MAX = UNREAD_NS_MAX


cdef inline long long _now(object now_ns) except? -1:
    return busyhour_now_ns() if now_ns is _SYSTEM_NOW else now_ns()


cdef inline void _fetch(const void* at, int lines) noexcept:
    """From memory, so many lines of the cache: it goes on meanwhile. Harmless for any address."""
    cdef int i
    for i in range(lines):
        busyhour_prefetch(<const char*>at + 64 * i)


cdef inline void* _some(void* at) noexcept:
    """NULL for None."""
    return NULL if at is <void*>None else at


# ---------------------------------------------------------------- reading


cdef class Intake:
    """Reads sockets by an epoll of its own under the loop's: one callback for all that can be read.

    Who reads one has `leave(resume)`, which takes it away, and `failed(bug)`.
    """

    cdef int _epoll
    cdef bint _reading
    cdef long long _all_read_ns  # what had arrived by then has been read: what is read from now on is not older
    cdef long long _round_ns  # when it was full and began to read as many as there are; 0: it was not full
    cdef Py_ssize_t _round_open  # so many are still to be read in it
    cdef object _loop
    cdef set _readers
    cdef list _gone  # while it reads: an event may still name them

    def __cinit__(self):
        self._epoll = -1

    def __init__(self):
        self._readers, self._gone = set(), []
        self._loop = asyncio.get_running_loop()
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll >= 0:
            self._loop.add_reader(self._epoll, self._readable)

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)

    def close(self):
        for reader in list(self._readers):
            reader.leave(True)
        if self._epoll >= 0:
            self._loop.remove_reader(self._epoll)
            close(self._epoll)
            self._epoll = -1

    cdef bint add(self, int fd, object reader) except -1:
        """False if it cannot be read here."""
        if self._epoll < 0 or self._told_of(EPOLL_CTL_ADD, fd, reader) < 0:
            return False
        self._readers.add(reader)
        return True

    cdef void again(self, int fd, object reader) noexcept:
        """There may be more than was read: be told of it once more. It cannot fail for a socket that was added."""
        self._told_of(EPOLL_CTL_MOD, fd, reader)

    cdef int _told_of(self, int what, int fd, object reader) noexcept:
        """By EPOLLET: of what arrives once, and not for as long as something is there. Who leaves something is to say so
        by `again`."""
        cdef epoll_event event
        event.events, event.data.ptr = EPOLLIN | EPOLLRDHUP | EPOLLET, <void*>reader
        return epoll_ctl(self._epoll, what, fd, &event)

    cdef int remove(self, int fd, object reader) except -1:
        if self._reading:
            self._gone.append(reader)
        self._readers.discard(reader)
        epoll_ctl(self._epoll, EPOLL_CTL_DEL, fd, NULL)
        return 0

    cdef int read(self, object reader, char* data) except -1:
        """There is something to be read, unless it left. data: room for `READ_MAX` octets."""
        raise NotImplementedError

    cdef void ahead(self, epoll_event* events, int count) noexcept:
        """The first of these are read soon: their memory may be fetched."""

    cdef long long read_until(self, long long now_ns) except -1:
        """All that had arrived by then has been read; no further back than a tenth of a second, for a loop that never
        comes to the end must hear, too."""
        if not self._readers or (not self._reading and not busyhour_is_readable(self._epoll)):
            self._all_read_ns, self._round_ns = now_ns, 0
        else:
            self._all_read_ns = min(now_ns, max(self._all_read_ns, now_ns - _UNREAD_NS_MAX))
        return self._all_read_ns

    def _readable(self):
        cdef long long now_ns = busyhour_now_ns()
        cdef Py_ssize_t readers = len(self._readers)
        cdef int count
        self._reading = True
        try:
            count = self.read_all()
        finally:
            self._reading = False
            self._gone.clear()
        if count < 0:
            return
        # What has arrived is told in the order in which it came: when as many were read as there are, all that was there
        # at the beginning of the round is among them.
        if not self._round_ns:
            self._round_ns, self._round_open = now_ns, readers
        self._round_open -= count
        if count < SOCKETS_AT_ONCE:
            self._all_read_ns, self._round_ns = now_ns, 0
        elif self._round_open <= 0:
            self._all_read_ns, self._round_ns = max(self._all_read_ns, self._round_ns), 0

    cdef int read_all(self) except -2:
        """Once each of the sockets that can be, at most `SOCKETS_AT_ONCE`: how many there were."""
        cdef epoll_event events[SOCKETS_AT_ONCE]
        cdef char data[READ_MAX]
        cdef int i, count = epoll_wait(self._epoll, events, SOCKETS_AT_ONCE, 0)
        for i in range(count):
            self.ahead(events + i, count - i)
            reader = <object>events[i].data.ptr
            try:
                if events[i].events == EPOLLIN or events[i].events == EPOLLIN | EPOLLRDHUP:
                    self.read(reader, data)
                if events[i].events != EPOLLIN:  # an error, or the end
                    reader.leave(True)
            except BaseException as bug:
                reader.failed(bug)
        return count


include "sound.pxi"
include "websocket.pxi"
include "frames.pxi"
include "requests.pxi"
