"""The examples in the whole system: hosts load them, with what they import, and their answers come by HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.e2e.client import answer

pytestmark = pytest.mark.anyio

EXAMPLES = Path(__file__).parents[2] / "examples"
ASKED = {
    "plain-loop@1.0.0": (
        "What is a lease?",
        "Hello! A lease is a claim with a deadline; who does not renew it loses it. ",
    ),
    "langgraph-agent@1.0.0": ("What time is it in Tokyo?", "It is 02:30 there. "),
    "pydantic-ai-agent@1.0.0": ("How does a refund work?", "Money is returned within 14 days. "),
    "ticket-desk@1.0.0": ("How many?", "There are 1 tickets, 0 of them urgent."),
}


async def test_each_example_answers(new_stack, connect):
    folders = sorted(file.parent for file in EXAMPLES.glob("*/bundle.py"))
    assert len(folders) == len(ASKED)
    stack = new_stack("--ingress", "1", *(part for folder in folders for part in ("--bundle", str(folder))))
    client = connect(stack)
    for bundle_id, (question, expected) in ASKED.items():
        sent = await client.sent(question, bundle_id=bundle_id)
        events = await client.ended(sent["task_id"])
        assert answer(events) == expected, stack.logs()
        assert any(event.name == "chat_step" for event in events)
