"""What ``kdcube up`` says when all is ready."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from kdcube.local.home import Home
from kdcube.local.state import read_state


def welcome(home: Home) -> None:
    """The address, what runs, where its data is, and what to try."""
    state = read_state(home.state_file)
    if state is None:  # stopped in this very moment
        return
    services = Table("service", "instance", "process", "address", box=None, pad_edge=False)
    for service in state.services:
        services.add_row(service.name, service.instance, str(service.process.pid), service.url)
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"KDCube is up at [bold]{state.url}[/bold]\n")
    console.print(services)
    console.print(f"\ndata  {home.path}\nlogs  {home.logs}  (kdcube logs -f)\n")
