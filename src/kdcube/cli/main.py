"""``kdcube``: the commands, and how they end (0 done, 1 failed, 2 bad input)."""

from __future__ import annotations

import os
import sys

import cyclopts

from kdcube import __version__
from kdcube.protocol.errors import InvalidInput, KDCubeError

_COMMANDS = {
    "up": "Start the system on this machine.",
    "status": "Show what runs.",
    "down": "Stop the system.",
    "logs": "Show the services' logs.",
    "chat": "Ask one question, or talk.",
}

_CONFIG_COMMANDS = {
    "check": "Tell everything that is wrong with a configuration.",
    "show": "Show the configuration that runs, and where its values come from.",
    "default": "Print a configuration with every field and its default.",
    "schema": "Print a JSON Schema of the configuration, for editors.",
}

_CAPACITY_COMMANDS = {
    "plan": "Tell how many tasks, slots, connections and cores a load takes.",
    "simulate": "Tell what happens over time when a load comes.",
    "scenario": "Print a scenario to simulate.",
}

_DESCRIPTOR_COMMANDS = {
    "init": "Write a first descriptor, with secrets and a bundle.",
    "check": "Tell everything that is wrong with a descriptor.",
    "explain": "Tell in words what the deployment will be.",
    "schema": "Print a JSON Schema of descriptors, for editors.",
}

_COMPOSE_COMMANDS = {
    "render": "Write the files of a deployment on this machine.",
    "up": "Render, start, and wait until all is ready.",
    "down": "Drain and stop everything.",
    "status": "Show what runs, and why something is not ready.",
    "logs": "Show the containers' logs.",
}

_REGISTRY_COMMANDS = {
    "list": "Show the bundles that are registered, and what runs of them.",
    "add": "Register a bundle, and wait until it runs.",
    "update": "Change the entry of a bundle, and wait until that runs.",
    "remove": "Take a bundle away.",
    "reload": "Look for news of a bundle, and wait until they run.",
    "rollback": "Go back to an earlier release, and wait until it runs.",
    "history": "Show the releases of a bundle.",
}


def create_app() -> cyclopts.App:
    """The commands; each is imported when it is called, so that the others cost nothing."""
    app = cyclopts.App(name="kdcube", help="Serves agents and chat applications to many users.", version=__version__)
    for name, summary in _COMMANDS.items():
        app.command(f"kdcube.cli.{name}:{name}", name=name, help=summary)
    database = cyclopts.App(name="db", help="Look after the database.")
    database.command("kdcube.cli.db:upgrade", name="upgrade", help="Bring the schema up to this release.")
    app.command(database)
    bundles = cyclopts.App(name="bundles", help="Make bundles, and look after them.")
    bundles.command("kdcube.cli.bundles_new:new", name="new", help="Make the folder of a new bundle.")
    bundles.command("kdcube.cli.bundles:check", name="check", help="Load a bundle, and tell what is wrong with it.")
    for name, summary in _REGISTRY_COMMANDS.items():
        bundles.command(f"kdcube.cli.registry:{name.replace('list', 'list_')}", name=name, help=summary)
    bundles.command("kdcube.cli.bundles_bake:bake", name="bake", help="Write an image of proc with its bundles inside.")
    app.command(bundles)
    config = cyclopts.App(name="config", help="Check and show the gateway's configuration.")
    for name, summary in _CONFIG_COMMANDS.items():
        config.command(f"kdcube.cli.config:{name}", name=name, help=summary)
    app.command(config)
    capacity = cyclopts.App(name="capacity", help="Plan for a load, and simulate it.")
    for name, summary in _CAPACITY_COMMANDS.items():
        capacity.command(f"kdcube.cli.capacity:{name}", name=name, help=summary)
    app.command(capacity)
    descriptor = cyclopts.App(name="descriptor", help="Describe a deployment in kdcube.yaml, and check it.")
    for name, summary in _DESCRIPTOR_COMMANDS.items():
        descriptor.command(f"kdcube.cli.descriptor:{name}", name=name, help=summary)
    app.command(descriptor)
    compose = cyclopts.App(name="compose", help="Deploy kdcube.yaml on one machine by Docker Compose.")
    for name, summary in _COMPOSE_COMMANDS.items():
        compose.command(f"kdcube.cli.compose:{name}", name=name, help=summary)
    app.command(compose)
    return app


def main() -> int:
    """Runs one command; what failed is told in one line."""
    try:
        try:
            create_app()(sys.argv[1:])
        finally:
            sys.stdout.flush()
    except KDCubeError as error:
        print(f"kdcube: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, InvalidInput) else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read had enough, as in `kdcube config schema | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
