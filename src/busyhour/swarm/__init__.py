"""A plan on Locust: its master and workers, its web UI, reports and load shapes; the arrivals stay in our engine.

`import locust` replaces the blocking calls of the whole interpreter by gevent's, which no event loop of ours survives:
so each of Locust's processes starts ours as a child, and passes on what they say to each other (`hooks`, `children`).
"""
