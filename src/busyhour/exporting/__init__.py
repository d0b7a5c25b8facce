"""What a run has for other tools: its live figures while it goes on, and its rows afterwards.

Live: `counting.Tally` counts what goes into the journal, `openmetrics.py` writes it as a page for Prometheus,
`metrics.py` serves that, `otlp.py` pushes it to a collector. Afterwards: `rows.py` writes CSV and Parquet.
"""
