"""Calls with Locust and websocket-client: a user is a call, whose task sends on its schedule and whose greenlet reads.

python -m locust -f locust_calls.py --headless --host URL --users CALLS --spawn-rate 200 --seconds SECONDS
"""

import time
from itertools import count

import gevent
from locust import User, events, task
from measuring import FRAME, FRAME_NS, LINGER_SECONDS, SETTLE_SECONDS, Meter, raise_limit
from websocket import WebSocketException, create_connection

METER, NUMBERS = Meter(), count()
raise_limit()


class Caller(User):
    def on_start(self):
        self.socket = create_connection(f"{self.host}/{next(NUMBERS)}", skip_utf8_validation=True)
        gevent.spawn(self.listen)

    @task
    def speak(self):
        due_ns, frame = time.monotonic_ns(), 0
        while True:
            due_ns, frame = due_ns + FRAME_NS, frame + 1
            gevent.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            self.socket.send(FRAME % (frame, frame, 20 * frame))
            METER.sent(due_ns)

    def listen(self):
        try:
            while True:
                self.socket.recv()
                METER.received += 1
        except (OSError, WebSocketException):
            return


@events.init_command_line_parser.add_listener
def add_arguments(parser):
    parser.add_argument("--seconds", type=float, default=5)


@events.init.add_listener
def prepare(environment, **_):
    def measured():
        gevent.sleep(SETTLE_SECONDS)
        METER.begin()
        gevent.sleep(environment.parsed_options.seconds)
        METER.end()
        gevent.sleep(LINGER_SECONDS)
        environment.runner.quit()

    environment.events.spawning_complete.add_listener(lambda user_count, **_: gevent.spawn(measured))
