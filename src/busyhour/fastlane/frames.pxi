# The way of a frame.

cdef long long _FRAME_NS = 20_000_000
cdef long long _QUEUED_NS_MAX = 30_000_000_000
cdef long long _GAP_NS = LEAST_GAP_NS
cdef int _TOLD_AFTER = 500  # frames taken here, before the socket is told of them: it bears so many in a second

cdef enum:
    ROOM = 14  # the header is written before the message,
    SLACK = 64  # and more may be masked than the message
    MESSAGE_MAX = 4096


# ---------------------------------------------------------------- what Python's objects are made of


cdef class WheelState:
    cdef public long long hurry_ns


cdef class InboxState:
    cdef public long long reads
    cdef Intake _intake

    def open(self):
        self.close()
        self._intake = EarIntake()

    def close(self):
        intake, self._intake = self._intake, None
        if intake is not None:
            intake.close()

    def read_until(self, long long now_ns):
        """As in `plain`."""
        return now_ns if self._intake is None else self._intake.read_until(now_ns)


cdef class DisturbanceState:
    cdef public bint media


cdef class PlayoutState:
    cdef public long long tells_ns, ended_ns, run_ns, _whole_ns, _tail_ns, _now_ns, _jitter_buffer_ns
    cdef public bint _dry, _tail_loud
    cdef public object _queue, _rest

    cdef bint hushed(self, long long arrived_ns) noexcept:
        """`Playout.push_silence`."""
        cdef long long ended_ns = self.ended_ns, queued_ns = ended_ns - arrived_ns
        if self._tail_ns < 0 or self._tail_loud or ended_ns < self._now_ns or queued_ns < 0 or queued_ns > _QUEUED_NS_MAX:
            return False
        self._whole_ns = self.ended_ns = ended_ns + _FRAME_NS
        return True

    cdef bint went_on(self, const char* loud, Py_ssize_t windows, bint all_loud, long long arrived_ns) except -1:
        """`Playout.push_windows` of a frame in which something is loud, behind another, with no gap between them."""
        cdef long long ended_ns = self.ended_ns
        arrived_ns = max(arrived_ns, self._now_ns)
        if self._rest is not None or self._dry or ended_ns - arrived_ns > _QUEUED_NS_MAX:
            return False
        if self._tail_ns >= 0 and not self._tail_loud:
            return False
        if arrived_ns > ended_ns:
            if arrived_ns + self._jitter_buffer_ns - ended_ns >= _GAP_NS:
                return False
            self._end_tail()
            ended_ns = self.run_ns = arrived_ns + self._jitter_buffer_ns
        if not all_loud:
            self._end_tail()
            self._queue.append((ended_ns, ended_ns + _FRAME_NS, PyBytes_FromStringAndSize(loud, windows)))
        elif self._tail_ns < 0:
            self._tail_ns, self._tail_loud = ended_ns, True
        self.tells_ns = 0
        self._whole_ns = self.ended_ns = ended_ns + _FRAME_NS
        return True


cdef class SpeakingState:
    cdef public tuple payloads
    cdef public Py_ssize_t next, first_speech, last_speech


cdef class Slot:
    cdef public Py_ssize_t index
    cdef public object tick, lost, after
    cdef public LegState leg
    cdef public bint attached

    def __init__(self, index, tick, lost, after, leg):
        self.index, self.tick, self.lost, self.after, self.leg = index, tick, lost, after, leg
        self.attached = True


# ---------------------------------------------------------------- to the agent


cdef class StreamState:
    cdef public bytes head, tail, before, after
    cdef public LegState leg
    cdef public Ear ear
    cdef public long long _sequence, _first_chunk, _sent, _received

    cdef bint put(self, bytes payload, long long chunk) except -1:
        """`MediaSocket.send_audio`; False, and nothing done, if it is to be asked."""
        cdef char message[ROOM + MESSAGE_MAX + SLACK]
        cdef char* end
        if self.ear is None or self.ear.outlet is None or self._first_chunk < 0:
            return False
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
        cdef Py_ssize_t tail_size = PyBytes_GET_SIZE(self.tail)
        if PyBytes_GET_SIZE(self.head) + size + tail_size > MESSAGE_MAX - 60:  # three numbers of 20 digits
            return False
        cdef long long number = chunk - self._first_chunk
        end = _filled(message + ROOM, self.head, self._sequence + 1, number + 1, number * 20)
        if end is NULL:
            return False
        memcpy(end, PyBytes_AS_STRING(payload), size)
        end += size
        memcpy(end, PyBytes_AS_STRING(self.tail), tail_size)
        end += tail_size
        self._sequence += 1
        self._sent += 1
        self.ear.emit(message + ROOM, end - message - ROOM)
        return True


cdef char* _filled(char* at, bytes head, long long first, long long second, long long third) noexcept:
    """`head % (first, second, third)`, written to `at`: its end, or NULL if there are not three times "%d" in it."""
    cdef const char* rest = PyBytes_AS_STRING(head)
    cdef const char* end = rest + PyBytes_GET_SIZE(head)
    cdef const char* found
    cdef long long numbers[3]
    cdef int i
    numbers[0], numbers[1], numbers[2] = first, second, third
    for i in range(3):
        found = <const char*>memchr(rest, c"%", end - rest)
        if found is NULL or found + 1 >= end or found[1] != c"d":
            return NULL
        memcpy(at, rest, found - rest)
        at = _digits(at + (found - rest), numbers[i])
        rest = found + 2
    memcpy(at, rest, end - rest)
    return at + (end - rest)


cdef char* _digits(char* at, long long number) noexcept:
    """A number of 0 or more."""
    cdef char digits[20]
    cdef int count = 0
    while True:
        digits[count] = <char>(c"0" + number % 10)
        count += 1
        number //= 10
        if not number:
            break
    while count:
        count -= 1
        at[0] = digits[count]
        at += 1
    return at


# ---------------------------------------------------------------- a leg


cdef class LegState:
    cdef public long long wakes_ns, _sent, _offset_ns, _looks_after_ns
    cdef public object _tape, _ended
    cdef public DisturbanceState disturbance
    cdef public StreamState _stream
    cdef public SpeakingState _speaking
    cdef public bytes _silence
    cdef public list _held
    cdef public bint _undecoded, _steady
    cdef public PlayoutState _playout
    cdef public Meter _meter

    cdef bint ticked(self, object now_ns) except -1:
        """`Leg._tick`; False, and nothing done, if it is to be asked."""
        cdef SpeakingState speaking = self._speaking
        cdef Py_ssize_t index
        if self._stream is None or self._held or self.disturbance.media:
            return False
        if speaking is None:
            if not self._stream.put(self._silence, self._sent):
                return False
        else:
            index = speaking.next
            if index >= len(speaking.payloads) or not self._stream.put(<bytes?>speaking.payloads[index], self._sent):
                return False
            if (
                self._tape is not None
                or index == speaking.first_speech
                or index == speaking.last_speech
                or index + 1 == len(speaking.payloads)
            ):
                self._sent_speech(speaking, _now(now_ns))
            else:
                speaking.next = index + 1
        self._sent += 1
        return True

    cdef bint sounds_on(self, long long now_ns) noexcept:
        """Nothing can be told of what sounds until the sound behind the queue will have been over for a hangover."""
        cdef PlayoutState playout = self._playout
        cdef long long wakes_ns
        if not self._steady or playout._tail_ns < 0 or not playout._tail_loud:
            return False
        if playout._tail_ns + _FRAME_NS > self._offset_ns:  # a frame of sound is enough to be sure that it goes on
            return False
        wakes_ns = playout._whole_ns + self._looks_after_ns
        if wakes_ns <= now_ns:
            return False
        self.wakes_ns = wakes_ns
        return True


cdef void _fetch_ticks(tuple slots, Py_ssize_t at) noexcept:
    """What the next ticks touch, one step of the way from a slot to its socket with each: of a thousand calls nothing
    is in the nearer caches when its turn comes, and a step begins where the last one ends. So the tick after next has
    its stream there already, that after it its leg; each object has so many lines of the cache as are used of it."""
    cdef Py_ssize_t left = PyTuple_GET_SIZE(slots) - at
    cdef void* leg
    cdef void* stream
    cdef void* ear
    if left > 5:
        _fetch(<void*>PyTuple_GET_ITEM(slots, at + 5), 2)
    if left > 4:
        _fetch(_leg_at(slots, at + 4), 3)
    if left > 3:
        leg = _leg_at(slots, at + 3)
        if leg is not NULL:
            _fetch(_stream_of(leg), 2)
            _fetch(<void*>(<LegState>leg)._speaking, 1)
    if left > 2:
        stream = _stream_of(_leg_at(slots, at + 2))
        if stream is not NULL:
            _fetch(<void*>(<StreamState>stream).ear, 3)
            _fetch(<void*>(<StreamState>stream).head, 3)
            _fetch(<void*>(<StreamState>stream).tail, 1)
    if left > 1:
        stream = _stream_of(_leg_at(slots, at + 1))
        if stream is not NULL:
            ear = _some(<void*>(<StreamState>stream).ear)
            if ear is not NULL:
                _fetch(<void*>(<Ear>ear).outlet, 3)


cdef inline void* _leg_at(tuple slots, Py_ssize_t at) noexcept:
    return _some(<void*>(<Slot>PyTuple_GET_ITEM(slots, at)).leg)


cdef inline void* _stream_of(void* leg) noexcept:
    return NULL if leg is NULL else _some(<void*>(<LegState>leg)._stream)


def tick_all(tuple slots, long long due_ns, object now_ns, array.array latenesses, object failed):
    """As in `plain`."""
    cdef Slot slot
    cdef Py_ssize_t i, count
    cdef long long at_ns
    for i in range(PyTuple_GET_SIZE(slots)):
        _fetch_ticks(slots, i)
        slot = <Slot>PyTuple_GET_ITEM(slots, i)
        if not slot.attached:
            continue
        try:
            if slot.leg is None or not slot.leg.ticked(now_ns):
                slot.tick(due_ns)
        except (OSError, ProtocolError) as failure:
            failed(slot, failure)
        else:
            count = len(latenesses)
            array.resize_smart(latenesses, count + 1)
            latenesses.data.as_longlongs[count] = _now(now_ns) - due_ns
    at_ns = _now(now_ns)
    for slot in slots:
        if not slot.attached or slot.after is None:
            continue
        if slot.leg is None or (slot.leg.wakes_ns <= at_ns and not slot.leg.sounds_on(at_ns)):
            slot.after()


cdef int _counts[58 << 7]  # by shift, and by what is left of the duration


def upper_edges(array.array durations_ns, int precision_bits):
    """As in `plain`, for seven bits."""
    cdef long long duration_ns
    cdef Py_ssize_t i, most = 0, bucket
    cdef int shift
    if precision_bits != 7 or durations_ns.typecode != "q":
        raise ValueError(f"{precision_bits} bits of an array of {durations_ns.typecode}")
    memset(_counts, 0, sizeof(_counts))
    for i in range(len(durations_ns)):
        duration_ns = max(durations_ns.data.as_longlongs[i], 0)
        shift = 0
        while duration_ns >> shift >= 128:
            shift += 1
        bucket = shift << 7 | duration_ns >> shift
        _counts[bucket] += 1
        most = max(most, bucket)
    found = []
    for bucket in range(most + 1):
        if _counts[bucket]:
            shift = bucket >> 7
            duration_ns = bucket & 127
            found.append((((duration_ns + 1) << shift) - 1 if shift else duration_ns, _counts[bucket]))
    return found


# ---------------------------------------------------------------- from the agent


@cython.final
cdef class Ear(WSListener):
    """As in `plain`."""

    cdef public WSTransport outlet
    cdef public StreamState stream
    cdef readonly long long arrived_ns
    cdef long long _seen_ns  # when the last frame came that its transport has read
    cdef long long _since_ns  # what has arrived now came no earlier than that
    cdef object _socket, _now_ns
    cdef WheelState _wheel
    cdef InboxState _inbox
    cdef long long _handed  # `reads` of the inbox, when a frame was handed on
    cdef int _taken  # and not told yet
    cdef bint _handing_on
    cdef Intake _intake  # that reads the socket; None: its transport does
    cdef WSTransport _transport  # whose socket that is
    cdef bint _through  # all that was sent is with the kernel: what comes next may be given to it directly

    def __init__(self, socket):
        self._socket, self._now_ns = socket, socket.now_ns
        self._wheel, self._inbox = socket.wheel, socket.inbox
        self._handed = -1

    cpdef on_ws_connected(self, WSTransport transport):
        self._socket.on_ws_connected(transport)

    cpdef on_ws_disconnected(self, WSTransport transport):
        self.leave(False)
        self.outlet, self.stream = None, None
        self._socket.on_ws_disconnected(transport)

    cpdef pause_writing(self):
        self._socket.pause_writing()

    cpdef resume_writing(self):
        self._socket.resume_writing()

    cpdef on_ws_frame(self, WSTransport transport, WSFrame frame):
        if self._intake is None:
            self._seen_ns = _now(self._now_ns)
            self._through = False  # picows may have answered a ping before it
            if frame.last_in_buffer and not frame.tail_size:
                self._join(transport)
        if self.stream is not None and frame.msg_type == WSMsgType.TEXT and frame.fin:
            if self._takes(frame.payload_ptr, frame.payload_size, not self._handing_on or frame.last_in_buffer):
                return
        self._handed = self._inbox.reads
        if self._taken:
            self._tell()
        self._socket.on_ws_frame(transport, frame)

    cdef int _tell(self) except -1:
        taken, self._taken = self._taken, 0
        self._socket.passed(taken)
        return 0

    cdef bint _takes(self, char* message, Py_ssize_t size, bint last) except -1:
        """`MediaSocket.heard` and all that comes of it; False, and nothing done, if it is to be asked.

        last: of what was read at once, whose stamp is its own. One before it came some time since the last read: in
        time, where it may have, for a gap that we may have made ourselves is none of the agent's.
        """
        cdef StreamState stream = self.stream
        cdef LegState leg = stream.leg
        cdef long long now_ns = _now(self._now_ns)
        cdef long long at_ns = self.arrived_ns or now_ns
        cdef char loud[OCTETS_MAX]
        cdef Py_ssize_t before, after
        cdef bint taken
        if stream.before is None or leg is None or leg._ended is not None:
            return False
        if leg._meter is None or leg._tape is not None or leg._undecoded or self._handed == self._inbox.reads:
            return False
        before, after = PyBytes_GET_SIZE(stream.before), PyBytes_GET_SIZE(stream.after)
        if size != before + leg._meter.payload_bytes + after or leg.disturbance.media:
            return False
        if memcmp(message, PyBytes_AS_STRING(stream.before), before):
            return False
        if memcmp(message + size - after, PyBytes_AS_STRING(stream.after), after):
            return False
        cdef Loudness found = leg._meter.measure(message + before, loud)
        if found == NO_FRAME:
            return False
        stream._received += 1  # before it is heard: it may be the last of its call
        if not last and self.arrived_ns and not leg._playout._dry and self._since_ns <= leg._playout.ended_ns < at_ns:
            at_ns = leg._playout.ended_ns
        if found == NONE_LOUD:
            taken = leg._playout.hushed(at_ns)
        else:
            taken = leg._steady and leg._playout.went_on(loud, leg._meter.windows, found == ALL_LOUD, at_ns)
        if not taken and not leg.take_windows(PyBytes_FromStringAndSize(loud, leg._meter.windows), at_ns):
            stream._received -= 1
            return False
        self._taken += 1
        if self._taken == _TOLD_AFTER:
            self._tell()
        if now_ns >= self._wheel.hurry_ns:
            self._wheel.hurry()
        return True

    def sent_beside(self):
        """As in `plain`."""
        self._through = False

    cdef int emit(self, char* message, Py_ssize_t size) except -1:
        """A text to the agent, of less than 64 KB; before it is `ROOM`, behind it `SLACK`."""
        cdef WSTransport transport = self.outlet
        cdef char* frame
        cdef Py_ssize_t sent
        if not self._through or transport.is_close_frame_sent or transport.is_disconnected:
            transport.send_reuse_external_buffer(WSMsgType.TEXT, message, size)
            if self._intake is not None and not self._handing_on:
                self._through = not transport.underlying_transport.get_write_buffer_size()
            return 0
        frame = _framed(message, size)
        size += message - frame
        sent = send(transport._socket, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent != size:  # what the transport keeps is to be sent before anything else
            self._through = False
            sent = max(sent, 0)
            transport.underlying_transport.write(PyBytes_FromStringAndSize(frame + sent, size - sent))
        return 0

    # ------------------------------------------------------------ read directly

    cdef int _join(self, WSTransport transport) except -1:
        """Nothing of this socket waits in the transport: from now on the intake may read it."""
        cdef Intake intake = self._inbox._intake
        if intake is None or transport is None or self._handing_on or self.stream is None:
            return 0
        if transport.is_secure or transport.is_disconnected:
            return 0
        if intake.add(transport._socket, self):
            self._intake, self._transport = intake, transport
            busyhour_have_stamped(transport._socket)
            transport.underlying_transport.pause_reading()
        return 0

    def failed(self, bug):
        """The connection ends, and who waits for its end raises the bug."""
        self._socket.bug = bug
        self.leave(False)
        self._socket.break_off()

    cpdef leave(self, bint resume):
        """The transport reads again, if it is to resume."""
        self._through = False
        intake, self._intake = self._intake, None
        transport, self._transport = self._transport, None
        if intake is None:
            return
        intake.remove((<WSTransport>transport)._socket, self)
        if resume and not transport.is_disconnected:
            transport.underlying_transport.resume_reading()

    cdef int readable(self, char* data) except -1:
        """Read once, take the frames that can be taken, and hand on the rest. data: room for `READ_MAX` octets."""
        cdef Py_ssize_t size
        cdef long long arrived_ns
        if self._intake is None:
            return 0
        size = busyhour_receive(self._transport._socket, data, READ_MAX, &arrived_ns)
        if size == READ_MAX or (size < 0 and errno == EINTR):
            self._intake.again(self._transport._socket, self)
        if size < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        if size <= 0:
            self.leave(True)  # the transport will find out the same, and knows what to do
            return 0
        if arrived_ns and self._now_ns is _SYSTEM_NOW:
            self._since_ns = max(self._intake._all_read_ns, self._seen_ns)
            self.arrived_ns = max(arrived_ns, self._since_ns)  # else the clock on the wall was set
        try:
            self.take_all(data, size)
        finally:
            self.arrived_ns = 0
        return 0

    cdef int take_all(self, char* data, Py_ssize_t size) except -1:
        cdef Py_ssize_t header, message
        while size and self.stream is not None:
            header, message = _measured(<unsigned char*>data, size)
            if header < 0 or message > size - header or not _is_plain_text(<unsigned char*>data, message):
                break
            if not self._takes(data + header, message, size == header + message):
                break
            data += header + message
            size -= header + message
        if size:
            self._hand_on(data, size)
        return 0

    cdef int _hand_on(self, char* data, Py_ssize_t size) except -1:
        """To picows, as if its transport had read it; when that leaves it in the middle of a frame, it is to read on."""
        cdef Py_buffer room
        cdef Py_ssize_t count
        cdef bint whole = _ends_whole(<unsigned char*>data, size)
        transport = self._transport
        if transport is None or transport.underlying_transport.is_closing():  # it is over, and hears nothing more
            self.leave(False)
            return 0
        if not whole:
            self.leave(False)
        protocol = transport.underlying_transport.get_protocol()
        self._handing_on, self._through = True, False  # picows answers pings
        try:
            while size and not transport.is_disconnected:
                view = protocol.get_buffer(-1)
                PyObject_GetBuffer(view, &room, PyBUF_WRITABLE)
                count = min(size, room.len)
                memcpy(room.buf, data, count)
                PyBuffer_Release(&room)
                protocol.buffer_updated(count)
                data += count
                size -= count
        finally:
            self._handing_on = False
        if not whole and self._intake is None and not transport.is_disconnected:
            transport.underlying_transport.resume_reading()
        return 0


@cython.final
cdef class EarIntake(Intake):
    """Of a studio: reads the sockets of its ears."""

    cdef int read(self, object reader, char* data) except -1:
        return (<Ear>reader).readable(data)

    cdef void ahead(self, epoll_event* events, int count) noexcept:
        """As `_fetch_ticks`."""
        cdef void* stream
        cdef void* leg
        if count > 4:
            _fetch(events[4].data.ptr, 3)
        if count > 3:
            _fetch(<void*>(<Ear>events[3].data.ptr).stream, 2)
            _fetch(<void*>(<Ear>events[3].data.ptr)._transport, 3)
        if count > 2:
            stream = _some(<void*>(<Ear>events[2].data.ptr).stream)
            if stream is not NULL:
                _fetch(<void*>(<StreamState>stream).leg, 3)
                _fetch(<void*>(<StreamState>stream).before, 2)
                _fetch(<void*>(<StreamState>stream).after, 1)
        if count > 1:
            stream = _some(<void*>(<Ear>events[1].data.ptr).stream)
            leg = NULL if stream is NULL else _some(<void*>(<StreamState>stream).leg)
            if leg is not NULL:
                _fetch(<void*>(<LegState>leg)._playout, 2)


def ear_of(socket):
    return Ear(socket)
