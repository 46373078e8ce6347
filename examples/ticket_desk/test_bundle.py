"""How operations are tested: no servers, no process. Run it with pytest from this folder."""

from __future__ import annotations

import pytest
from bundle import TICKETS, bundle

from kdcube.sdk.testing import Installation, OperationError, run_operation, run_turn

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def one_ticket() -> None:
    del TICKETS[1:]


async def test_a_ticket_is_opened_and_counted():
    opened = await run_operation(bundle, "open", {"title": "No coffee", "urgency": "high"})
    assert (opened["number"], opened["title"]) == (2, "No coffee")
    assert [ticket["number"] for ticket in await run_operation(bundle, "mine")] == [2]
    assert await run_operation(bundle, "open_tickets") == 2
    assert (await run_turn(bundle, "How many?")).answer == "There are 2 tickets, 1 of them urgent."


async def test_what_does_not_fit_never_reaches_it():
    with pytest.raises(OperationError) as error:
        await run_operation(bundle, "open", {"title": ""})
    assert (error.value.code, error.value.field) == ("invalid_input", "data.title")
    assert len(TICKETS) == 1


async def test_a_conversation_about_a_ticket():
    await run_operation(bundle, "open", {"title": "No coffee"})
    installation = Installation()
    await run_operation(bundle, "discuss", 2, installation=installation)
    assert installation.sent[0].text == "What about “No coffee”?"


async def test_somebody_elses_ticket():
    with pytest.raises(OperationError, match="no_such_ticket: You have no ticket 1"):
        await run_operation(bundle, "discuss", 1)
