"""A LangGraph agent: a graph of a model and a tool, whose tokens and tool calls are shown as they come.

The model is a script of this file, so that the example runs anywhere. Put yours in its place, such as
``ChatOpenAI(model=..., api_key=turn.secret("OPENAI_API_KEY"))``; nothing else changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph

from kdcube.sdk import Bundle, HistoryItem, Turn

bundle = Bundle("langgraph-agent@1.0.0")

TIMES = {"berlin": "18:30", "tokyo": "02:30"}


@tool
async def time_in(city: str) -> str:
    """The time in a city."""
    return TIMES.get(city, "unknown")


@bundle.on_message
async def answer(turn: Turn) -> None:
    messages = [*as_messages(turn.history), HumanMessage(turn.text)]
    async for mode, event in graph().astream({"messages": messages}, stream_mode=["messages", "updates"]):
        if mode == "messages":
            chunk, _ = event
            if isinstance(chunk, AIMessageChunk):
                await turn.delta(chunk.text)
        else:
            for node, update in event.items():
                await show(turn, node, update["messages"][-1])


async def show(turn: Turn, node: str, message: BaseMessage) -> None:
    """What the user sees of the graph: which tool is called, and what it says."""
    if node == "model" and isinstance(message, AIMessage):
        for call in message.tool_calls:
            await turn.step(call["id"] or "tool", f"Looking at the clock of {call['args']['city']}")
        if usage := message.usage_metadata:
            await turn.usage("scripted", usage["input_tokens"], usage["output_tokens"])
    elif isinstance(message, ToolMessage):
        await turn.step(message.tool_call_id, f"It is {message.text}", "completed")


def graph() -> Any:
    """The model, then the tool that it calls, then the model again, until it calls none."""

    async def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await ScriptedModel().ainvoke(state["messages"])]}

    async def tools(state: MessagesState) -> dict[str, Any]:
        calls = state["messages"][-1].tool_calls
        said = await asyncio.gather(*(time_in.ainvoke(call["args"]) for call in calls))
        return {
            "messages": [ToolMessage(text, tool_call_id=call["id"]) for call, text in zip(calls, said, strict=True)]
        }

    def calls_tools(state: MessagesState) -> str:
        return "tools" if state["messages"][-1].tool_calls else END

    steps = StateGraph(MessagesState)
    steps.add_node("model", model)
    steps.add_node("tools", tools)
    steps.add_edge(START, "model")
    steps.add_conditional_edges("model", calls_tools, ["tools", END])
    steps.add_edge("tools", "model")
    return steps.compile()


def as_messages(history: Sequence[HistoryItem]) -> list[BaseMessage]:
    return [HumanMessage(item.text) if item.role == "user" else AIMessage(item.text) for item in history]


class ScriptedModel(BaseChatModel):
    """Calls the tool when a city is named, and then says what it heard, in tokens."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        raise NotImplementedError("it only streams")

    async def _astream(
        self, messages: list[BaseMessage], *args: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        last = messages[-1]
        city = next((city for city in TIMES if city in last.text.lower()), None)
        if isinstance(last, HumanMessage) and city:
            call = {"name": "time_in", "args": f'{{"city": "{city}"}}', "id": f"call-{len(messages)}", "index": 0}
            yield ChatGenerationChunk(message=AIMessageChunk("", tool_call_chunks=[call]))
            return
        text = f"It is {last.text} there." if isinstance(last, ToolMessage) else "Name a city, please."
        for word in text.split():
            await asyncio.sleep(0.02)
            yield ChatGenerationChunk(message=AIMessageChunk(word + " "))
        usage = {"input_tokens": len(messages), "output_tokens": len(text.split()), "total_tokens": 0}
        yield ChatGenerationChunk(message=AIMessageChunk("", usage_metadata=usage))
