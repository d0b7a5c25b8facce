"""Numbers in, numbers out: how readings become an estimate, and an estimate set against a limit a comparison.

Every class here is a `model.Evidence`: `n`, `value`, and the interval `low`..`high` whose either end is wrong with a
probability of at most 5 %, so that at alpha = 0.05 a limit at or above `high` is a PASS and one below `low` a FAIL.
"""
