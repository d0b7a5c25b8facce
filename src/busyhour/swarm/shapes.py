"""The load profiles as shapes of Locust: so many users, who come at so many a second and stay for so long.

In a locustfile of your own: `from busyhour.swarm.shapes import Heavy`. With `busyhour locust --shape heavy` they are
the users that Locust shows; the requests that stand for them are the plan's own (`plans/backend.py -o profile=heavy`).
"""

from __future__ import annotations

from typing import ClassVar

from locust import LoadTestShape

from busyhour.swarm.settings import settings


class Profile(LoadTestShape):  # type: ignore[misc]  # of a library without types
    """The users come, and then they are there."""

    abstract = True
    users: ClassVar[int]
    spawned_per_second: ClassVar[float]
    minutes: ClassVar[float]

    def tick(self) -> tuple[int, float] | None:
        coming = self.users / self.spawned_per_second
        return (self.users, self.spawned_per_second) if self.get_run_time() < coming + 60 * self.minutes else None


class Light(Profile):
    abstract = False
    users, spawned_per_second, minutes = 10, 2, 2


class Medium(Profile):
    abstract = False
    users, spawned_per_second, minutes = 50, 5, 5


class Heavy(Profile):
    abstract = False
    users, spawned_per_second, minutes = 100, 10, 10


class Stress(Profile):
    abstract = False
    users, spawned_per_second, minutes = 200, 20, 10


SHAPES: dict[str, type[Profile]] = {"light": Light, "medium": Medium, "heavy": Heavy, "stress": Stress}


def chosen() -> type[Profile] | None:
    """As `--shape` said; what ends is the plan, so that it lasts until then."""
    name = settings().shape
    if not name:
        return None
    profile = SHAPES[name]

    def tick(self: Profile) -> tuple[int, float]:
        return (self.users, self.spawned_per_second)

    return type(profile.__name__, (profile,), {"tick": tick})
