"""Who waits for a place, in order of arrival, and who has to give one up while others wait."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from triportrait.core.errors import InputError
from triportrait.serve.live.admission import Admission, Refusal

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

MOST_WAITING = 16
SILENT_S = 30.0  # without any message: the other end has gone
IDLE_S = 60.0  # a session without a frame gives its place up while others wait
TURN_S, WARNED_S = 600.0, 60.0  # a session may be so old while others wait, and is told so long before it ends


@dataclass(eq=False)
class Ticket:
    """A page that is in, or waits for it.

    Attributes:
        address: where it comes from.
        in_: whether it has a place.
        refused: it has lost its place in the queue to a page of somebody who waits less.
        changed: something of this has changed.
    """

    address: str
    in_: bool = False
    refused: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class WaitingLine:
    """The queue before the admission. All of it is called from the event loop.

    Args:
        admission: how many fit.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._waiting: list[Ticket] = []

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def ask(self, address: str) -> Ticket | Refusal:
        """A page wants in: it is let in, waits, or is refused."""
        refusal = None if self._waiting else self._admission.enter()
        if not self._waiting and refusal is None:
            return Ticket(address, in_=True)
        if self.waiting >= MOST_WAITING and not self._make_room(address):
            return refusal or self._admission.refusal()
        self._waiting.append(ticket := Ticket(address))
        self.let_in()
        return ticket

    def _make_room(self, address: str) -> bool:
        """Whoever holds most of a full queue cannot keep somebody out who holds less: the last of them goes."""
        held = Counter(ticket.address for ticket in self._waiting)
        greedy = max(held, key=lambda name: held[name], default=address)
        if held[greedy] < held[address] + 2:
            return False
        last = [ticket for ticket in self._waiting if ticket.address == greedy][-1]
        last.refused = True
        self.leave_queue(last)
        return True

    def position(self, ticket: Ticket) -> int:
        """1 is next."""
        return 1 + self._waiting.index(ticket)

    def leave_queue(self, ticket: Ticket) -> None:
        """It waits no more; those behind it move up."""
        self._waiting.remove(ticket)
        for other in (*self._waiting, ticket):
            other.changed.set()

    def leave(self, length_s: float) -> None:
        """A session has ended: whoever is next comes in."""
        self._admission.leave(length_s)
        self.let_in()

    def let_in(self) -> None:
        """Let in whom there is room for."""
        while self._waiting and self._admission.enter() is None:
            ticket = self._waiting[0]
            ticket.in_ = True
            self.leave_queue(ticket)

    def refusal(self) -> Refusal:
        """What is said to who cannot come in."""
        return self._admission.refusal()

    def sentence(self, ticket: Ticket) -> str:
        """What is said to who waits."""
        position = self.position(ticket)
        where = "this page is next" if position == 1 else f"{position - 1} before this page"
        full = self._admission.refusal().sentence.rpartition(";")[0]
        return f"{full}; {where}: it begins by itself when a place is free"


async def wait_for_place(websocket: WebSocket, waiting_line: WaitingLine, ticket: Ticket) -> bool:
    """Keep a page waiting that was accepted; gives whether it has come in, and is still there.

    Raises:
        InputError: it has fallen silent.
    """
    from starlette.websockets import WebSocketState

    receiving = asyncio.create_task(_receive(websocket))
    position = 0
    try:
        while not ticket.in_ and not ticket.refused:
            ticket.changed.clear()
            if waiting_line.position(ticket) != position:
                position = waiting_line.position(ticket)
                message = {"is": "waiting", "position": position, "sentence": waiting_line.sentence(ticket)}
                async with asyncio.timeout(SILENT_S):
                    await websocket.send_text(json.dumps(message))
                continue  # it may have changed meanwhile
            changed = asyncio.create_task(ticket.changed.wait())
            try:
                await asyncio.wait({changed, receiving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if receiving.done():
                receiving.result()
                break
    except (TimeoutError, RuntimeError):  # it takes nothing, or has gone
        return False
    finally:
        receiving.cancel()
        await asyncio.wait({receiving})
        if not ticket.in_ and not ticket.refused:
            waiting_line.leave_queue(ticket)
    return ticket.in_ and websocket.client_state is WebSocketState.CONNECTED


async def _receive(websocket: WebSocket) -> None:
    """Read until the page leaves; what it says is not asked for yet."""
    while True:
        try:
            async with asyncio.timeout(SILENT_S):
                message = await websocket.receive()
        except TimeoutError as error:
            raise InputError("nothing was heard from this page while it waited; click anywhere to go on") from error
        if message["type"] == "websocket.disconnect":
            return
        await asyncio.sleep(0.05)  # what is not wanted is not read fast
