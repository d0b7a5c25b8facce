"""What Locust's processes do for us: the master starts who leads the run, each worker starts one of ours; they relay.

Without master and workers (`locust --headless -u 1`) one process is both.
"""

from __future__ import annotations

from typing import Any

from locust import User, constant, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import LocalRunner, MasterRunner, WorkerRunner

from busyhour.swarm.leading import Leading
from busyhour.swarm.working import Working

_working: list[Working] = []


class Caller(User):  # type: ignore[misc]  # of a library without types
    """Stands for the people who call, or ask. What they do, and when, is the plan's: it waits until that is over."""

    wait_time = constant(0)

    @task  # type: ignore[untyped-decorator]  # as above
    def wait_for_the_run(self) -> None:
        for working in _working:
            working.over.wait()
        raise StopUser


@events.init.add_listener  # type: ignore[untyped-decorator]  # as above
def _begin(environment: Environment, **_: Any) -> None:
    runner = environment.runner
    if isinstance(runner, WorkerRunner | LocalRunner):
        _working.append(Working(environment))
    if isinstance(runner, MasterRunner | LocalRunner):
        Leading(environment)
