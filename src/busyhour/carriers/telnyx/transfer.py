"""A transferred call: a second leg to somebody else, who answers or does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from busyhour.carriers.endings import End
from busyhour.carriers.telnyx.endings import TRANSFER_FAILED_WITH
from busyhour.carriers.telnyx.exchange import Ids
from busyhour.carriers.telnyx.params import Transfer
from busyhour.carriers.telnyx.webhooks import utc_now
from busyhour.model import MS

if TYPE_CHECKING:
    from busyhour.carriers.telnyx.call import Call


async def put_through(call: Call, transfer: Transfer) -> None:
    """Ring the other party; if it answers the caller is with it, and for the caller the agent's part is over.

    A transfer that fails leaves the caller with the agent.
    """
    manners = call.exchange.manners
    other = Ids.drawn(call.random, session=call.ids.session)
    numbers = {"from": transfer.from_number or call.setup.to_number, "to": transfer.to}
    state = {"client_state": transfer.client_state}
    began = {"direction": "outgoing", "state": "bridging", "start_time": utc_now()}
    call.event("call.initiated", other, **began, **numbers, **state)
    await call.pause(manners.transfer_after_ms * MS)
    if manners.transfer != "answered":
        cause, sip = TRANSFER_FAILED_WITH[manners.transfer]
        hangup = {"state": "hangup", "hangup_cause": cause, "hangup_source": "callee", "sip_hangup_cause": sip}
        call.event("call.hangup", other, **hangup, **numbers, **state)
        return
    call.event("call.answered", other, state="answered", start_time=began["start_time"], **numbers, **state)
    call.event("call.bridged", other, **numbers, **state)
    call.event("call.bridged", **call.numbers())
    call.state = "transferred"
    call.bridged = other, numbers | state
    call.note(f"the caller is connected with {transfer.to}")
    leg = call.media.leg
    if leg is None:
        call.finish(End(why="transferred", by="agent", detail=f"to {transfer.to}"))
    else:
        leg.end(call.clock.now_ns(), "transferred")
