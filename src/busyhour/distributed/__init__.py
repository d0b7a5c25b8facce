"""One plan in several processes: each performs its share of the same arrivals, and one of them leads.

`crew` leads: it starts the workers, tells them when phases begin, and sums up. `worker` is the program that they are.
`front` is the one address that the agent knows the carrier by. `merging` makes one journal of theirs.
"""
