"""The waiting line of a full server: pages wait in order of arrival until a session ends."""

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
SILENT_S = 30.0  # a page that sent no message for so long has gone
# While others wait, a session ends after IDLE_S without a frame, and WARNED_S after a warning that comes at TURN_S.
IDLE_S, TURN_S, WARNED_S = 60.0, 600.0, 60.0


@dataclass(eq=False)
class Ticket:
    """The place of one page in the line.

    Attributes:
        address: the page's IP address.
        admitted: whether its session may begin.
        refused: whether it lost its place to a page of an address with fewer pages in the line.
        changed: set when its position, `admitted` or `refused` has changed.
    """

    address: str
    admitted: bool = False
    refused: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class WaitingLine:
    """Pages that wait for the admission of their session. All methods are called on the event loop.

    Args:
        admission: decides whether one more session fits.
    """

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._waiting: list[Ticket] = []

    @property
    def waiting(self) -> int:
        """Count the pages that wait."""
        return len(self._waiting)

    def ask(self, address: str) -> Ticket | Refusal:
        """Admit a page, let it wait, or refuse it where the line is full."""
        refusal = None if self._waiting else self._admission.enter()
        if not self._waiting and refusal is None:
            return Ticket(address, admitted=True)
        if self.waiting >= MOST_WAITING and not self._make_room(address):
            return refusal or self._admission.refusal()
        self._waiting.append(ticket := Ticket(address))
        self.let_in()
        return ticket

    def _make_room(self, address: str) -> bool:
        """Refuse the last page of the address with most pages in the line, if it has two more than this one has."""
        count = Counter(ticket.address for ticket in self._waiting)
        largest = max(count, key=lambda name: count[name], default=address)
        if count[largest] < count[address] + 2:
            return False
        last = [ticket for ticket in self._waiting if ticket.address == largest][-1]
        last.refused = True
        self.leave_queue(last)
        return True

    def position(self, ticket: Ticket) -> int:
        """Return the position of a page in the line; 1 is next."""
        return 1 + self._waiting.index(ticket)

    def leave_queue(self, ticket: Ticket) -> None:
        """Take a page out of the line; those behind it move up."""
        self._waiting.remove(ticket)
        for affected in (*self._waiting, ticket):
            affected.changed.set()

    def leave(self, length_s: float) -> None:
        """Count a session as ended, and admit the next page."""
        self._admission.leave(length_s)
        self.let_in()

    def let_in(self) -> None:
        """Admit pages as long as there is room."""
        while self._waiting and self._admission.enter() is None:
            ticket = self._waiting[0]
            ticket.admitted = True
            self.leave_queue(ticket)

    def sentence(self, ticket: Ticket) -> str:
        """Build the sentence that a waiting page shows."""
        position = self.position(ticket)
        place = "this page is next" if position == 1 else f"{position - 1} before this page"
        full = self._admission.refusal().sentence.rpartition(";")[0]
        return f"{full}; {place}: it begins by itself when a place is free"


async def wait_for_place(websocket: WebSocket, waiting_line: WaitingLine, ticket: Ticket) -> bool:
    """Tell a page its position until it is admitted, refused or gone; return whether it is admitted and still there.

    Raises:
        InputError: nothing was heard from the page for too long.
    """
    from starlette.websockets import WebSocketState

    receiving = asyncio.create_task(_receive(websocket))
    position = 0
    try:
        while not ticket.admitted and not ticket.refused:
            ticket.changed.clear()
            if waiting_line.position(ticket) != position:
                position = waiting_line.position(ticket)
                message = {"is": "waiting", "position": position, "sentence": waiting_line.sentence(ticket)}
                async with asyncio.timeout(SILENT_S):
                    await websocket.send_text(json.dumps(message))
                continue  # the position may have changed while this was sent
            changed = asyncio.create_task(ticket.changed.wait())
            try:
                await asyncio.wait({changed, receiving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if receiving.done():
                receiving.result()
                break
    except (TimeoutError, RuntimeError):  # the page reads nothing, or has gone
        return False
    finally:
        receiving.cancel()
        await asyncio.wait({receiving})
        if not ticket.admitted and not ticket.refused:
            waiting_line.leave_queue(ticket)
    return ticket.admitted and websocket.client_state is WebSocketState.CONNECTED


async def _receive(websocket: WebSocket) -> None:
    """Read and ignore messages until the page leaves."""
    while True:
        try:
            async with asyncio.timeout(SILENT_S):
                message = await websocket.receive()
        except TimeoutError as error:
            raise InputError("nothing was heard from this page while it waited; click anywhere to go on") from error
        if message["type"] == "websocket.disconnect":
            return
        await asyncio.sleep(0.05)  # what is not wanted is not read fast
