"""What ``kdcube up`` says when all is ready."""

from __future__ import annotations

from kdcube.cli.output import table
from kdcube.local.home import Home
from kdcube.local.state import State, read_state


def welcome(home: Home) -> None:
    """The address, what runs, where its data is, and what to try."""
    state = read_state(home.state_file)
    if state is None:  # stopped in this very moment
        return
    print(f"KDCube is up at {state.url}\n")
    rows = [(service.name, service.instance, str(service.process.pid), service.url) for service in state.services]
    table(("service", "instance", "process", "address"), rows)
    print(f"\ndata  {home.path}\nlogs  {home.logs} (kdcube logs -f)\n\n{_trial(state)}", flush=True)


def _trial(state: State) -> str:
    """Lines for a shell; the last one reads the answer from another ingress process, if there is one."""
    ingress = [service.url for service in state.services if service.name == "ingress"]
    message = """'{"message": {"text": "Hello, is anybody there?", "turn_id": "turn_1"}}'"""
    return f"""Try it: kdcube chat "What is a turn?", or without it
be somebody, say something, read the answer (again, from anywhere: -H 'Last-Event-ID: ...')
  curl -s -c kdcube.cookies {ingress[0]}/chatbot/api/profile
  curl -s -b kdcube.cookies {ingress[0]}/chatbot/api/sse/chat -H 'Content-Type: application/json' -d {message}
  curl -sN -b kdcube.cookies {ingress[-1]}/chatbot/api/turns/turn_1/stream"""
