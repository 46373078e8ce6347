"""A client of the public HTTP API: send, follow an answer through lost connections, read conversations.

async with Client("http://127.0.0.1:8010") as client:
    await client.sign_in()
    accepted = await client.send("Hello?")
    reading = Reading()
    async for event in client.follow(accepted.task_id):
        reading.add(event)
    print(reading.answer)
"""

from kdcube.client.answers import Accepted, Citation, Conversation, ConversationItem, Page, Profile, Turn
from kdcube.client.client import Client
from kdcube.client.errors import ClientError, Refused, Unreachable
from kdcube.client.events import Event
from kdcube.client.reading import Reading

__all__ = [
    "Accepted",
    "Citation",
    "Client",
    "ClientError",
    "Conversation",
    "ConversationItem",
    "Event",
    "Page",
    "Profile",
    "Reading",
    "Refused",
    "Turn",
    "Unreachable",
]
