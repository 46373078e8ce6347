"""A PydanticAI agent: typed tools that know the turn, an answer that streams, and corrections in mid-turn.

The model is a function of this file, so that the example runs anywhere. Put yours in its place, such as
``Agent("openai:gpt-…")`` with a key from ``turn.secret("OPENAI_API_KEY")``; nothing else changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ModelResponse, TextPart, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from kdcube.sdk import Bundle, HistoryItem, Turn

bundle = Bundle("pydantic-ai-agent@1.0.0")

RULES = {
    "refund": "Money is returned within 14 days.",
    "shipping": "Parcels leave on the day of the order.",
}

agent = Agent(deps_type=Turn, instructions="Answer from the rules, and from nothing else.")


@agent.tool
async def find_rule(ctx: RunContext[Turn], topic: str) -> str:
    """What the rules say about a topic."""
    turn = ctx.deps
    await turn.step("rules", f"Reading the rules about {topic}")
    rule = RULES.get(topic, "")
    if rule:
        await turn.cite(title=f"Rules: {topic}", uri=f"rules:{topic}", quote=rule)
    await turn.step("rules", "Read" if rule else "There is no such rule", "completed")
    return rule


@bundle.on_message
async def answer(turn: Turn) -> None:
    history = as_messages(turn.history)
    question: str | None = turn.text
    while question is not None:
        async with agent.run_stream(question, model=model, deps=turn, message_history=history) as run:
            async for text in run.stream_text(delta=True, debounce_by=None):
                await turn.delta(text)
        used = run.usage
        await turn.usage("scripted", used.input_tokens, used.output_tokens)
        history = run.all_messages()
        correction = await turn.inbox.poll()  # said while we were answering
        question = correction.text if correction else None
        if question:
            await turn.delta("\n\n")


def as_messages(history: Sequence[HistoryItem]) -> list[ModelMessage]:
    return [
        ModelRequest([UserPromptPart(item.text)]) if item.role == "user" else ModelResponse([TextPart(item.text)])
        for item in history
    ]


async def scripted(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    """Stands in for a model: looks the topic up, and then says what it found, in tokens."""
    last = messages[-1].parts[-1]
    if isinstance(last, UserPromptPart):
        topic = next((topic for topic in RULES if topic in str(last.content).lower()), "that")
        yield {0: DeltaToolCall("find_rule", f'{{"topic": "{topic}"}}', tool_call_id="call")}
    elif isinstance(last, ToolReturnPart):
        for word in (str(last.content) or "The rules say nothing about it.").split():
            await asyncio.sleep(0.02)
            yield word + " "


model = FunctionModel(stream_function=scripted)
