"""The locustfile: what `busyhour locust` gives to Locust. Alone in its folder, which Locust puts before all modules."""

from busyhour.swarm import shapes
from busyhour.swarm.hooks import Caller

__all__ = ["Caller"]

if (shape := shapes.chosen()) is not None:
    globals()[shape.__name__] = shape
