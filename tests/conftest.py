"""For all tests: how long one example of a property takes says something of the machine only; the long begin first."""

import os
import signal

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So a shell starts what is to run in the background; what the tests start would inherit it, and outlive its Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each worker of `--dist worksteal` is dealt one stretch of the tests, and has its share of the long ones at the
    head of it: so none of them is left when the others are done."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    long = [item for item in items if item.get_closest_marker("long")]
    rest = [item for item in items if not item.get_closest_marker("long")]
    ends = [(worker + 1) * len(rest) // workers for worker in range(workers)]
    began = 0
    items.clear()
    for worker, end in enumerate(ends):
        items += [*long[worker::workers], *rest[began:end]]
        began = end
