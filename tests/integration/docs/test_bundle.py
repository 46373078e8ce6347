"""What the bundle says, step by step."""

from __future__ import annotations

import fcntl

import msgspec
import pytest

from kdcube.docs.bundle import bundle
from kdcube.docs.indexing.place import Progress, place_of
from kdcube.docs.indexing.scan import scan
from kdcube.docs.settings import Settings
from kdcube.sdk.testing import run
from kdcube.sdk.wire import Delta

pytestmark = pytest.mark.anyio


async def test_an_answer_with_steps_deltas_and_a_citation(ask):
    result = await ask("How do I add a DNS record?")
    assert result.answer == (
        "Open a merge request in the repository ``zones``. The record is live five minutes after the merge. "
        "The time to live is 300 seconds unless you say otherwise. [1]"
    )
    assert result.citations == [
        {
            "n": 1,
            "title": "Names and domains",
            "uri": "network/dns.rst#adding-a-record",
            "heading": "Names and domains › Adding a record",
            "quote": result.answer.partition(" [1]")[0],
        }
    ]
    assert [(step["step"], step["status"]) for step in result.steps if step["step"] != "index"] == [
        ("search", "started"),
        ("search", "completed"),
        ("read", "completed"),
        ("compose", "started"),
        ("compose", "completed"),
    ]
    assert len([event for event in result.events if isinstance(event, Delta)]) == 1


async def test_code_is_kept_whole(ask):
    result = await ask("How do I install the development tools?")
    code = (
        "curl -o bootstrap.sh https://intranet.example/bootstrap.sh\n\n# read it before you run it\nless bootstrap.sh"
    )
    assert f"```bash\n{code}\nbash bootstrap.sh --team yours\n```" in result.answer


async def test_a_row_of_a_table_is_read_out(ask):
    result = await ask("What is the limit for a taxi?")
    assert result.answer.startswith("**taxi**: 60 euros a ride; needed [1]")


async def test_a_question_goes_on_from_the_one_before(ask):
    history = [("user", "How do I open a port in the firewall?"), ("assistant", "File a ticket.")]
    result = await ask("And in an emergency?", history=history)
    assert result.citations[0]["uri"] == "network/firewall.html#emergency"
    assert "Call the duty phone" in result.answer
    again = await ask("and how long does it take them?", history=history)
    assert again.citations[0]["uri"].startswith("network/firewall.html")


@pytest.mark.parametrize("text", ["Hello!", "", "What can you do?", "thanks a lot"])
async def test_what_asks_nothing_is_told_what_there_is(ask, text):
    result = await ask(text)
    assert result.answer.startswith("I answer questions about the handbook (10 documents), and say where")
    assert "- Travel and expenses (`handbook/travel.md`)" in result.answer
    assert result.citations == []


async def test_a_folder_without_documents(ask, config):
    assert "there is nothing in them that I can read" in (await ask("Hello", config)).answer
    assert (await ask("What is a fence?", config)).answer.startswith("I find no answer to that in these documents.")


async def test_a_base_makes_links_of_citations(ask, corpus_config):
    result = await ask("How do I add a DNS record?", {**corpus_config, "base_uri": "https://docs.example/"})
    assert result.citations[0]["uri"] == "https://docs.example/network/dns.rst#adding-a-record"


async def test_other_parts_are_offered(ask, project_config):
    result = await ask("What happens when a bundle host dies?", project_config)
    assert all(question.startswith("What do the documents say about “") for question in result.followups)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({}, "missing required field `folder`"),
        ({"folder": "/x", "folders": 1}, "unknown field `folders`"),
        ({"folder": "/x", "limits": {"files": 0}}, "$.limits.files"),
    ],
)
async def test_a_config_that_is_wrong_is_told(ask, config, told):
    result = await ask("Hello", config)
    assert result.error.code == "docs_misconfigured"
    assert told in result.error.message


async def test_a_folder_that_is_gone_is_told(ask, config, folder):
    folder.rmdir()
    result = await ask("Hello", config)
    assert result.error.code == "docs_unavailable"
    assert "cannot be read" in result.error.message


async def test_who_asks_while_the_documents_are_read_sees_how_far_it_is(config, folder):
    """Another process builds: it holds the lock, and leaves its progress where all see it."""
    (folder / "a.md").write_text("# Ports\n\nThe port of the parrot is 4711.")
    place = place_of(msgspec.convert(config, Settings))
    place.path.mkdir(parents=True)
    with place.lock.open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with run(bundle, "Which port has the parrot?", config=config) as session:
            for done in (1_200, 3_400):
                place.progress.write_bytes(msgspec.json.encode(Progress(done, 10_000, "x.md")))
                await session.until(lambda done=done: f"{done:,} of 10,000 files" in str(session.events))
            fcntl.flock(lock, fcntl.LOCK_UN)
            result = await session.result()
    assert "4711" in result.answer
    assert [step["title"] for step in result.steps if step["step"] == "index"][-1] == "Read the documents"
    assert scan(msgspec.convert(config, Settings)).left_out == []


async def test_a_question_that_is_a_query_is_only_words(ask):
    for text in ('"unclosed', "a AND", "NEAR(", "title:x", "*", "fridge OR", "-- ; drop", "'" * 50, "ß" * 10_000):
        assert (await ask(text)).outcome == "completed"
