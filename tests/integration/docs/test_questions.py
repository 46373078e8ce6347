"""Questions with known sources, and questions that the documents have no answer to."""

from __future__ import annotations

import pytest
from tests.integration.docs.questions import CORPUS, OFF_TOPIC, PROJECT

pytestmark = pytest.mark.anyio

ENOUGH = 36


async def test_of_40_questions_36_cite_the_right_file_first(ask, corpus_config, project_config):
    wrong: list[str] = []
    for questions, config in ((PROJECT, project_config), (CORPUS, corpus_config)):
        for question, *sources in questions:
            result = await ask(question, config)
            assert result.outcome == "completed", result.error
            first = result.citations[0]["uri"].partition("#")[0] if result.citations else "nothing"
            if first not in sources:
                wrong.append(f"{question} {first} instead of {sources}")
    print("\n".join(wrong))
    assert len(PROJECT) + len(CORPUS) == 40
    assert 40 - len(wrong) >= ENOUGH, wrong


@pytest.mark.parametrize("question", OFF_TOPIC)
async def test_no_answer_is_said_plainly(ask, corpus_config, project_config, question):
    for config, name in ((project_config, "the documentation of KDCube"), (corpus_config, "the handbook")):
        result = await ask(question, config)
        assert result.answer.startswith(f"I find no answer to that in {name}.")
        assert result.citations == []


async def test_the_same_question_gets_the_same_answer(ask):
    first, second = [await ask("How do I open a port in the firewall?") for _ in range(2)]
    assert first.answer == second.answer
    assert first.citations == second.citations
