"""For all tests: how long one example of a property takes says something of the machine only."""

from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
