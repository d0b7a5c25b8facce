# The way of a request: what is due is asked, and a plain answer to it is taken.

cdef object _PENDING = Due.PENDING
cdef object _ENDED = Due.ENDED


# ---------------------------------------------------------------- what Python's objects are made of


cdef class TallyState:
    cdef public array.array _latencies, _services, _latenesses
    cdef public long long wants_from_ns


cdef class Script:
    cdef readonly tuple requests, encoded
    cdef readonly bint simple

    def __init__(self, requests, encoded, simple):
        self.requests, self.encoded, self.simple = requests, encoded, simple


@cython.final
@cython.freelist(1024)
cdef class Asked:
    cdef readonly Script script
    cdef readonly long long number, due_ns
    cdef readonly Py_ssize_t step
    cdef public long long began_ns
    cdef public bint again

    def __init__(self, Script script, long long number, long long due_ns, Py_ssize_t step=0):
        self.script, self.number, self.due_ns, self.step = script, number, due_ns, step


cdef int _noted(array.array durations_ns, long long duration_ns) except -1:
    cdef Py_ssize_t count = len(durations_ns)
    array.resize_smart(durations_ns, count + 1)
    durations_ns.data.as_longlongs[count] = duration_ns
    return 0


cdef enum:
    STEPS = 54  # 1, 2, 5, 10, ... up to 5 * 10**17
    TO_A_STEP = 256  # no more buckets than 150 lie between two of them, each known by its upper edge


cdef long long _steps[STEPS]
cdef int _decimal_counts[STEPS][TO_A_STEP]
_steps[0], _steps[1], _steps[2] = 1, 2, 5
cdef int _step
for _step in range(3, STEPS):
    _steps[_step] = 10 * _steps[_step - 3]


def decimal_edges(array.array durations_ns):
    """As in `plain`."""
    cdef long long duration_ns, unit_ns, upper_ns, most_ns = 2 * _steps[STEPS - 1]
    cdef int step, above, middle
    cdef Py_ssize_t i
    if durations_ns.typecode != "q":
        raise ValueError(f"an array of {durations_ns.typecode}")
    memset(_decimal_counts, 0, sizeof(_decimal_counts))
    for i in range(len(durations_ns)):
        duration_ns = min(max(durations_ns.data.as_longlongs[i], 0), most_ns)
        step, above = 0, STEPS
        while above - step > 1:
            middle = (step + above) // 2
            if _steps[middle] <= duration_ns:
                step = middle
            else:
                above = middle
        unit_ns = max(_steps[step] // 100, 1)
        _decimal_counts[step][(duration_ns + unit_ns - 1) // unit_ns] += 1
    found = []
    last_ns = -1
    for step in range(STEPS):
        unit_ns = max(_steps[step] // 100, 1)
        for i in range(TO_A_STEP):
            if _decimal_counts[step][i]:
                upper_ns = i * unit_ns
                if upper_ns == last_ns:  # the last of one step is the first of the next
                    found.append((upper_ns, found.pop()[1] + _decimal_counts[step][i]))
                else:
                    found.append((upper_ns, _decimal_counts[step][i]))
                last_ns = upper_ns
    return found


# ---------------------------------------------------------------- arrivals


cdef class FloodState:
    cdef public object now_ns, _due_ns, _ended_ns, _waiting
    cdef public list _scripts, _idle
    cdef public TallyState _tally
    cdef public long long _began_ns, _at_once, _first, _every, _number, _started, _finished, _dropped
    cdef public bint _pending, _closing, _bodies
    cdef AnswerIntake _intake

    def read_directly(self):
        self._intake = AnswerIntake()

    def read_no_more(self):
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.close()

    def start_due(self, long long now_ns, int most):
        """As in `plain`."""
        cdef long long due_ns
        cdef ConnectionState connection
        for _ in range(most):
            due = self._due_ns(self._number, self._finished + self._dropped, now_ns - self._began_ns)
            if due is _PENDING or due is _ENDED:
                return due
            due_ns = self._began_ns + <long long>due
            if due_ns > now_ns:
                return due
            number = self._first + self._number * self._every
            self._number += 1
            if self._started - self._finished >= self._at_once:
                self._dropped += 1
                continue
            self._started += 1
            _noted(self._tally._latenesses, now_ns - due_ns)
            asked = Asked(self._scripts[(number - 1) % len(self._scripts)], number, due_ns)
            connection = self._idle_one()
            if connection is not None:
                connection.begin(asked, now_ns)
            else:
                self._wait(asked)
        return None

    cpdef ConnectionState _idle_one(self):
        cdef ConnectionState connection
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None


# ---------------------------------------------------------------- answers


cdef class ConnectionState:
    cdef public Asked asked
    cdef public bint closed, _read
    cdef public object _transport
    cdef public FloodState _owner
    cdef AnswerIntake _intake  # that reads the socket; None: its transport does
    cdef int _fd

    def join(self):
        """Nothing of the socket waits in its transport: from now on the intake may read it."""
        cdef AnswerIntake intake = self._owner._intake
        if intake is None or self._intake is not None or self.closed:
            return
        transport = self._transport
        if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
            return
        fd = transport.get_extra_info("socket").fileno()
        if intake.add(fd, self):
            self._intake, self._fd = intake, fd
            transport.pause_reading()

    cpdef leave(self, bint resume):
        """The transport reads again, if it is to resume."""
        intake, self._intake = self._intake, None
        if intake is not None:
            (<AnswerIntake>intake).remove(self._fd, self)
            if resume and not self._transport.is_closing():
                self._transport.resume_reading()

    def failed(self, bug):
        self._owner.crashed(bug)

    cdef int begin(self, Asked asked, long long now_ns) except -1:
        """`Connection.ask`."""
        if self._intake is None:
            self.ask(asked, now_ns)
            return 0
        self.asked = asked
        asked.began_ns = now_ns
        self.put(asked.script.encoded[asked.step])
        return 0

    cpdef bint put(self, bytes request) except -1:
        """As in `plain`."""
        cdef Py_ssize_t sent, size = PyBytes_GET_SIZE(request)
        if self._intake is None:
            return False
        sent = send(self._fd, PyBytes_AS_STRING(request), size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent != size:
            self.leave(True)  # what the transport keeps is to be sent before anything else
            self._transport.write(request[max(sent, 0) :])
        return True

    cdef int readable(self, char* data) except -1:
        cdef Py_ssize_t head = 0, size
        cdef int status = 0
        if self._intake is None:
            return 0
        size = recv(self._fd, data, READ_MAX, MSG_DONTWAIT)
        if size == READ_MAX or (size < 0 and errno == EINTR):
            self._intake.again(self._fd, self)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size < 0:
            self.cut(ConnectionResetError() if errno == ECONNRESET else OSError(errno, ""))  # it is told only once
            return 0
        if size == 0:
            self.leave(True)  # the transport will find out the same, and knows what to do
            return 0
        cdef long long now_ns = _now(self._owner.now_ns)
        if self.asked is not None and not self._read:
            status = _plain_answer(<const unsigned char*>data, size, &head)
        if status:
            self.answered(status, data + head, size - head, now_ns)
        else:
            self.data_received(PyBytes_FromStringAndSize(data, size))
        return 0

    cdef int answered(self, int status, const char* body, Py_ssize_t size, long long now_ns) except -1:
        """`Connection._over` and all that comes of it."""
        cdef FloodState flood = self._owner
        cdef TallyState tally = flood._tally
        asked, self.asked = self.asked, None
        if asked.script.simple and status < 400 and now_ns < tally.wants_from_ns:
            _noted(tally._latencies, now_ns - asked.due_ns)
            _noted(tally._services, now_ns - asked.began_ns)
            if flood._pending or flood._ended_ns is not None:
                flood._finish()
            else:
                flood._finished += 1
        else:
            whole = PyBytes_FromStringAndSize(body, size) if flood._bodies else b""
            flood.answered(asked, status, whole, now_ns)
        if flood._closing or flood._waiting:
            flood.ready(self)
        else:
            flood._idle.append(self)
        return 0


@cython.final
cdef class AnswerIntake(Intake):
    """Of a flood: reads the sockets of its connections."""

    cdef int read(self, object reader, char* data) except -1:
        return (<ConnectionState>reader).readable(data)


def plain_answer(bytes data):
    """Of an answer of the plainest kind, whole and with nothing behind it: its status, and how long its head is."""
    cdef Py_ssize_t head = 0
    cdef int status = _plain_answer(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), &head)
    return (status, head) if status else None


cdef bint _OF_NAMES[256]  # the octets of which nearly all names of headers are made
cdef int _octet
for _octet in range(256):
    _OF_NAMES[_octet] = chr(_octet) in "-_0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


cdef int _plain_answer(const unsigned char* data, Py_ssize_t size, Py_ssize_t* head) noexcept:
    """The status of an answer in HTTP/1.1 that has a Content-Length, leaves the connection open, and is whole, with
    nothing behind it; 0 for any other, and for one that is written in any but the usual way: llhttp is to judge it."""
    cdef Py_ssize_t at, name, value, length = -1
    cdef int i, status = 0
    if size < 13 or memcmp(data, b"HTTP/1.1 ", 9) or data[12] != c" ":
        return 0
    for i in range(9, 12):
        if not c"0" <= data[i] <= c"9":
            return 0
        status = 10 * status + data[i] - c"0"
    if status < 200 or status == 204 or status == 304:  # which have no body, whatever they say
        return 0
    at = _line_end(data, 13, size)
    while at:
        name = at
        while at < size and _OF_NAMES[data[at]]:
            at += 1
        if at == name:
            break
        if at == size or data[at] != c":":
            return 0
        value = at + 1 + (at + 1 < size and data[at + 1] == c" ")
        if _is(b"content-length", data + name, at - name):
            at = _line_end(data, value, size)
            if length >= 0 or not at:
                return 0
            length = _number(data + value, at - 2 - value)
            if length < 0:
                return 0
        elif _is(b"connection", data + name, at - name):
            at = _line_end(data, value, size)
            if not at or not _is(b"keep-alive", data + value, at - 2 - value):
                return 0
        elif (
            _is(b"transfer-encoding", data + name, at - name)
            or _is(b"upgrade", data + name, at - name)
            or _is(b"proxy-connection", data + name, at - name)
        ):
            return 0
        else:
            at = _line_end(data, value, size)
    if not at or size - at < 2 or data[at] != c"\r" or data[at + 1] != c"\n":
        return 0
    head[0] = at + 2
    return status if length == size - head[0] else 0


cdef Py_ssize_t _line_end(const unsigned char* data, Py_ssize_t at, Py_ssize_t size) noexcept:
    """Where the line of printable ASCII that goes on at `at` is over, with its CR LF; 0 if it is none."""
    while at < size and 0x20 <= data[at] < 0x7F:
        at += 1
    return at + 2 if size - at >= 2 and data[at] == c"\r" and data[at + 1] == c"\n" else 0


cdef bint _is(const char* lower, const unsigned char* text, Py_ssize_t size) noexcept:
    """Whether a text, whatever its case, is this."""
    return <Py_ssize_t>strlen(lower) == size and not strncasecmp(lower, <const char*>text, size)


cdef Py_ssize_t _number(const unsigned char* digits, Py_ssize_t size) noexcept:
    """-1 if it is none, or has more than nine digits."""
    cdef Py_ssize_t i, number = 0
    if not 0 < size <= 9:
        return -1
    for i in range(size):
        if not c"0" <= digits[i] <= c"9":
            return -1
        number = 10 * number + digits[i] - c"0"
    return number
