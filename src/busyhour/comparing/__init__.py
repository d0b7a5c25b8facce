"""Runs beside each other: `busyhour compare` says whether a build is worse than another, `busyhour history` since when.

`reading.py` gives a number per run and metric, judged by one plan; `differing.py` says what else differs between the
runs than the build; `weighing.py` sets the shift against its tolerance; `past.py` looks for changes in a history;
`telling.py` and `telling_past.py` print them. The statistics are in `busyhour.statistics.shift` and `.changes`.
"""
