"""Requests with Locust's FastHttpUser, each as soon as the last is answered; only what follows its start-up counts.

python -m locust -f locust_http.py --headless --host URL --users 100 --spawn-rate 100 --seconds SECONDS
"""

import json
import time

import gevent
from locust import FastHttpUser, constant, events, task
from measuring import SETTLE_SECONDS, cpu_seconds


class Asking(FastHttpUser):
    wait_time = constant(0)

    @task
    def get(self):
        self.client.get("/")


@events.init_command_line_parser.add_listener
def add_arguments(parser):
    parser.add_argument("--seconds", type=float, default=5)


@events.init.add_listener
def prepare(environment, **_):
    def measured():
        gevent.sleep(SETTLE_SECONDS)
        total = environment.stats.total
        requests, began, cpu = total.num_requests, time.monotonic(), cpu_seconds()
        gevent.sleep(environment.parsed_options.seconds)
        told = {"requests": total.num_requests - requests, "cpu": cpu_seconds() - cpu}
        print(json.dumps(told | {"seconds": time.monotonic() - began}), flush=True)
        environment.runner.quit()

    environment.events.spawning_complete.add_listener(lambda user_count, **_: gevent.spawn(measured))
