"""A trace from the client to what its turn does, and log lines that lead to it and tell nothing that is secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.collector import Collector, collector
from tests.e2e.conftest import USERS, Stack
from tests.e2e.test_running import ALICE, stream

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"

BUNDLE = """
import sys
from kdcube.sdk import Bundle

bundle = Bundle("traced@1.0.0")

@bundle.on_message
async def answer(turn):
    key = turn.secret("KEY")
    if turn.text.startswith("canary-print"):
        print("the key is", key, flush=True)
        print("and here", key, file=sys.stderr, flush=True)
    if turn.text.startswith("canary-raise"):
        raise RuntimeError(f"401 for key {key}")
    await turn.delta(turn.trace.traceparent + " " + turn.trace.tracestate)

@bundle.operation("ask")
async def ask(ctx, data: str) -> str:
    if data.startswith("canary-raise"):
        raise RuntimeError("401 for key " + ctx.secret("KEY"))
    await ctx.start_turn("canary-started", idempotency_key="started")
    return ctx.trace.traceparent
"""
SERVICES = ("ingress-0", "ingress-1", "proc-0")
SECRETS = {
    "MINE": "canary-of-the-bundle",
    "GIT_HTTP_TOKEN": "canary-git-token",
    "OTEL_EXPORTER_OTLP_HEADERS": "x-key=canary-collector-key",
}


@dataclass
class Installation:
    stack: Stack
    collecting: Collector

    def post(self, path: str, *, headers: dict[str, str] | None = None, **body) -> httpx.Response:
        """To ingress, once it takes what is asked of it."""
        asked = (
            httpx.post(f"{self.stack.ingress[0]}{path}", headers=headers or ALICE, **body)
            for _ in self.stack.attempts()
        )
        return next(answer for answer in asked if answer.status_code != 503)

    def turn(self, turn_id: str, text: str, **headers: str) -> list[dict]:
        """Its events."""
        message = {"message": {"text": text, "turn_id": turn_id, "payload": {"note": "canary-payload"}}}
        assert self.post("/sse/chat", json=message, headers={**ALICE, **headers}).status_code == 202
        with stream(self.stack.ingress[1], turn_id) as events:
            return list(events)

    def operation(self, data: str, **headers: str) -> httpx.Response:
        path = "/integrations/bundles/local/main/traced@1.0.0/operations/ask"
        (proc,) = (service.url for service in self.stack.state.services if service.name == "proc")
        return httpx.post(f"{proc}{path}", json={"data": data}, headers={**ALICE, **headers})

    def lines(self) -> list[dict]:
        """Of the services, parsed: a line that is no JSON fails."""
        logs = [self.stack.home / "logs" / f"{instance}.log" for instance in SERVICES]
        return [json.loads(line) for log in logs for line in log.read_text().splitlines()]


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("tracing")
    (folder / "traced").mkdir()
    (folder / "traced" / "bundle.py").write_text(BUNDLE)
    bundles = {
        "traced@1.0.0": {"path": str(folder / "traced"), "secrets": {"KEY": "env:MINE"}},
        "away@1.0.0": {"git_url": "https://127.0.0.1:1/canary.git", "git_ref": "main"},
    }
    with collector() as collecting:
        address = collecting.url.replace("http://", "http://who:canary-in-a-url@")
        variables = {
            **{"LOG_LEVEL": "debug", "OTEL_EXPORTER_OTLP_ENDPOINT": address, **SECRETS},
            "AGENTIC_BUNDLES_JSON": json.dumps({"bundles": bundles, "default_bundle_id": "traced@1.0.0"}),
        }
        stack = Stack(folder, variables)
        stack.up(["--bundle", str(folder / "traced")])
        try:
            yield Installation(stack, collecting)
        finally:
            stack.down()


def text_of(events: list[dict]) -> str:
    return "".join((event.get("delta") or {}).get("text", "") for event in events)


def test_a_trace_leads_from_the_client_to_the_bundle(installation):
    text = text_of(installation.turn("traced", "hi", traceparent=PARENT, tracestate="vendor=1"))
    spans = installation.collecting.trace(
        TRACE, "POST /sse/chat", "turn.admit", "turn.commit", "turn.wait", "turn.run", "turn.bundle"
    )
    request, run, bundle = spans["POST /sse/chat"], spans["turn.run"], spans["turn.bundle"]
    assert request.parent_id == PARENT.split("-")[2]
    assert {spans[f"turn.{name}"].parent_id for name in ("admit", "commit", "wait", "run")} == {request.span_id}
    assert bundle.parent_id == run.span_id
    assert text == f"00-{TRACE}-{bundle.span_id}-01 vendor=1"
    assert (request.service, run.service) == ("kdcube-ingress", "kdcube-proc")
    assert request.attributes["http.response.status_code"] == 202
    assert run.attributes["kdcube.turn_state"] == "completed" and run.attributes["kdcube.attempt"] == 1
    assert run.start_ms <= bundle.start_ms <= bundle.end_ms <= run.end_ms
    assert not any(span.failed for span in spans.values())
    assert "canary-collector-key" in installation.collecting.headers[0]["x-key"]


def test_a_turn_without_a_client_s_trace_begins_one(installation):
    text = text_of(installation.turn("alone", "hi", traceparent="not-one"))
    trace_id = text.split("-")[1]
    spans = installation.collecting.trace(trace_id, "POST /sse/chat", "turn.bundle")
    assert spans["POST /sse/chat"].parent_id == ""
    assert spans["turn.bundle"].span_id in text


def test_an_operation_and_the_turn_that_it_starts_are_of_one_trace(installation):
    trace_id = "a" * 32
    answer = installation.operation("hi", traceparent=f"00-{trace_id}-{'b' * 16}-01").json()["ask"]
    spans = installation.collecting.trace(trace_id, "operation.bundle", "turn.run", "turn.bundle")
    assert answer == f"00-{trace_id}-{spans['operation.bundle'].span_id}-01"
    assert spans["turn.run"].parent_id == spans["operation.bundle"].span_id


def test_log_lines_lead_to_turn_and_trace_and_hold_no_secret(installation):
    stack, post = installation.stack, installation.post
    canaries = {*USERS, *SECRETS.values(), "canary-in-a-url", "canary-collector-key"}

    # What works, with something to hide at every place where there is one.
    failed = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-01"}
    installation.turn("printed", "canary-print", **failed)
    events = installation.turn("raised", "canary-raise", **failed)
    assert events[-1]["data"]["error"]["code"] == "bundle_error"
    assert installation.operation("canary-raise").status_code == 500
    key = post("/api-keys", json={"name": "canary-name", "scopes": ["chat"]}).json()["key"]
    canaries |= {key, key[10:]}
    installation.turn("by-key", "canary-text", Authorization=f"Bearer {key}")

    # What is refused, or wrong.
    wrong = {"Authorization": "Bearer canary-wrong-token", "X-ID-Token": "canary-id-token"}
    assert post("/sse/chat", json={"message": {"text": "canary-text"}}, headers=wrong).status_code == 401
    assert post("/sse/chat", content=b'{"message": {"text": "canary-text"').status_code == 400
    assert post("/sse/chat", json={"message": {"text": ["canary-text"]}}).status_code == 400
    assert post("/sse/chat", json={"message": {"text": "canary-other", "turn_id": "traced"}}).status_code == 409
    assert post("/webhooks/bundles/away@1.0.0", content=b"canary-text", headers={"X-Hub-Signature-256": "canary-sig"})
    for url in stack.ingress:
        for query in ("bearer_token=canary-query-token", "id_token=canary-query-token"):
            assert httpx.get(f"{url}/sse/stream?stream_id=s&{query}").status_code == 401

    # What is away: the stores, and the collector.
    installation.collecting.refusing = True
    for store in ("valkey", "postgres"):
        stack.kill(store)
        stack.wait_back()
        installation.turn(f"after-{store}", "canary-text")

    lines = installation.lines()
    assert {(line["tenant"], line["project"]) for line in lines} == {("local", "main")}
    assert {line["service"] for line in lines} == {"ingress", "proc"}
    assert all(line["instance"] and line["timestamp"] and line["level"] for line in lines)
    (raised,) = (line for line in lines if line["event"] == "a bundle failed")
    assert raised["trace_id"] == "c" * 32 and raised["turn_id"] and raised["request_id"]
    assert "401 for key [redacted]" in raised["detail"]
    assert sum("the key is [redacted]" in line.get("line", "") for line in lines) == 1
    told = {line["event"] for line in lines}
    assert {"tracing.collector_away", "bundle_output", "operation.crashed"} <= told

    canaries |= secrets_given_to(stack)
    canaries |= {f"canary-{what}" for what in ("text", "other", "payload", "wrong-token", "id-token", "query-token")}
    canaries |= {f"canary-{what}" for what in ("sig", "started", "name")}
    logs = sorted((stack.home / "logs").glob("*"))
    assert len(logs) >= 5
    found = {
        (log.name, canary, line[:400])
        for log in logs
        for line in log.read_text(errors="replace").splitlines()
        for canary in canaries
        if canary in line
    }
    assert not found


def secrets_given_to(stack: Stack) -> set[str]:
    """What the environment of the services holds, as ``kdcube up`` made it: keys, and passwords in URLs."""
    secrets: set[str] = set()
    for pid in stack.pids.values():
        for variable in Path(f"/proc/{pid}/environ").read_text().split("\0"):
            name, _, value = variable.partition("=")
            if re.search(r"SECRET$|PASSWORD|TOKEN|ENCRYPTION", name):
                secrets.add(value)
            elif "://" in value and urlsplit(value).password:
                secrets.add(urlsplit(value).password)
    assert secrets
    return secrets
