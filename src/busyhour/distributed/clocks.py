"""By how much the clock of another machine is ahead of ours, and how well that is known.

A round trip bounds it: the other clock was read between our sending and our receiving, so that half of the trip is the
most that the middle can be wrong by (RFC 5905, section 8). The shortest of several trips says it best.
"""

from __future__ import annotations

from busyhour.distributed.member import Lost, Member
from busyhour.distributed.offsets import Offset
from busyhour.model import Clock

ROUNDS = 9


async def offset_of(member: Member, clock: Clock) -> Offset:
    """Raises Lost."""
    found: list[Offset] = []
    for _ in range(ROUNDS):
        sent_ns = clock.now_ns()
        reply = await member.order("clock")
        received_ns = clock.now_ns()
        middle_ns, half_ns = (sent_ns + received_ns) // 2, (received_ns - sent_ns + 1) // 2
        found.append(Offset(int(reply["now_ns"]) - middle_ns, half_ns))
    return min(found, key=lambda one: one.within_ns)


async def check_clock(member: Member, clock: Clock) -> str:
    """Measure it again: the doubt, if there is one now; "" for a member on our own clock."""
    if member.offset is None:
        return ""
    try:
        return member.offset.doubt(await offset_of(member, clock))
    except Lost:
        return ""
