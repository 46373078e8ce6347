"""A desk for tickets: a form of a page calls its operations, and its messages answer questions about them.

Tickets are kept in this file's memory, so that the example runs anywhere; put your database in its place: a bundle runs
in several processes, and each has a memory of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec

from kdcube.sdk import AcceptedTurn, Bundle, BundleError, OperationContext, Turn

bundle = Bundle("ticket-desk@1.0.0")

Urgency = Literal["low", "high"]


class NewTicket(msgspec.Struct):
    """What the form sends. Whatever does not fit is refused with the field's name, before any of this runs."""

    title: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    urgency: Urgency = "low"


class Ticket(msgspec.Struct):
    number: int
    owner: str
    title: str
    urgency: Urgency


TICKETS = [Ticket(1, "", "The printer on the second floor is out of paper", "low")]


@bundle.on_message
async def answer(turn: Turn) -> None:
    await turn.step("tickets", "Looking at the tickets")
    urgent = sum(ticket.urgency == "high" for ticket in TICKETS)
    await turn.delta(f"There are {len(TICKETS)} tickets, {urgent} of them urgent.")


@bundle.operation("open")
async def open_(ctx: OperationContext, data: NewTicket) -> Ticket:
    """Opens a ticket in the caller's name."""
    ticket = Ticket(len(TICKETS) + 1, ctx.user.id, data.title, data.urgency)
    TICKETS.append(ticket)
    return ticket


@bundle.operation("mine")
async def mine(ctx: OperationContext) -> AsyncIterator[Ticket]:
    """The caller's tickets, one after the other: an operation that yields is a stream."""
    for ticket in TICKETS:
        if ticket.owner == ctx.user.id:
            yield ticket


@bundle.operation("discuss")
async def discuss(ctx: OperationContext, data: int) -> AcceptedTurn:
    """Begins a conversation about a ticket, once, however often the button is pressed."""
    ticket = next((ticket for ticket in TICKETS if ticket.number == data), None)
    if ticket is None or ticket.owner != ctx.user.id:
        raise BundleError("no_such_ticket", f"You have no ticket {data}.")
    return await ctx.start_turn(f"What about “{ticket.title}”?", idempotency_key=f"discuss-ticket-{data}")


@bundle.operation("open_tickets", public=True)
async def open_tickets(ctx: OperationContext) -> int:
    """How many there are, for a page that nobody signs in to."""
    return len(TICKETS)
