"""The commands of a session: lines that begin with a slash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kdcube.cli.chat.session import Session
from kdcube.client import Conversation, ConversationItem, Profile

_PAGE = 10
_PAST_TURNS = 10
_ENDED = frozenset({"completed", "failed", "cancelled", "interrupted", "applied"})

COMMANDS = ("/conversations", "/open", "/retry", "/new", "/bundle", "/help", "/quit")

_HELP = """\
/conversations [WORDS]  your conversations, or those with WORDS in their title
/conversations more     the next of them
/open NUMBER|ID         go on with one
/retry                  ask the last question again
/new                    begin a new conversation
/bundle [ID]            who answers; with ID, who answers from now on
/help                   this
/quit                   leave, as Ctrl-D does
While an answer comes, a line steers it and Ctrl-C cancels it.
Alt-Enter begins a new line."""


class Slash:
    """Carries out commands on a session. What the installation refuses is raised as ClientError."""

    def __init__(self, session: Session, profile: Profile) -> None:
        self._session = session
        self._view = session.view
        self._client = session.client
        self._profile = profile
        self._listed: list[ConversationItem] = []
        self._search: str | None = None
        self._next: str | None = None
        self._commands: dict[str, Callable[[str], Awaitable[None]]] = {
            "/conversations": self._conversations,
            "/open": self._open,
            "/retry": self._retry,
            "/new": self._new,
            "/bundle": self._bundle,
            "/help": self._help,
        }

    async def run(self, line: str) -> None:
        """``/name rest``; a name may be shortened as long as it is clear."""
        name, _, rest = line.partition(" ")
        found = [command for command in self._commands if command.startswith(name)]
        if name in self._commands:
            found = [name]
        if len(found) != 1 or name == "/":
            self._view.problem(f"there is no command {name}: /help shows them")
            return
        await self._commands[found[0]](rest.strip())

    async def _help(self, _: str) -> None:
        self._view.note(_HELP)

    async def _new(self, _: str) -> None:
        self._session.start_anew()
        self._view.note("a new conversation")

    async def _retry(self, _: str) -> None:
        if await self._session.ask_again() is None:
            self._view.problem("there is nothing to ask again")

    async def _bundle(self, named: str) -> None:
        known = {bundle.id: bundle for bundle in self._profile.bundles}
        chosen = self._session.bundle_id or self._profile.default_bundle_id
        if not named:
            for bundle in known.values():
                mark = "→" if bundle.id == chosen else " "
                self._view.note(f"{mark} {bundle.id}" + (f"  {bundle.description}" if bundle.description else ""))
        elif named not in known:
            self._view.problem(f"there is no bundle {named}; there are: {', '.join(known) or 'none'}")
        else:
            self._session.bundle_id = named
            self._view.note(f"{named} answers from now on")

    async def _conversations(self, asked: str) -> None:
        if asked != "more":
            self._listed, self._search, self._next = [], asked or None, None
        elif self._next is None:
            self._view.note("there are no more")
            return
        page = await self._client.conversations(search=self._search, cursor=self._next, limit=_PAGE)
        self._next = page.next
        self._view.listing(page.items, len(self._listed) + 1)
        self._listed += page.items
        if not self._listed:
            self._view.note("there are none" + (f" with {self._search!r}" if self._search else ""))
        elif self._next:
            self._view.note("/conversations more shows the next ones, /open NUMBER opens one")

    async def _open(self, named: str) -> None:
        if named.isdecimal() and len(named) < 6:  # an id is longer
            if not self._listed:
                await self._conversations("")
            if not 1 <= int(named) <= len(self._listed):
                self._view.problem(f"there is no conversation {named} in the list: /conversations shows it")
                return
            named = self._listed[int(named) - 1].conversation_id
        if not named:
            self._view.problem("/open needs a number of /conversations, or an id")
            return
        await self._show(await self._client.conversation(named))

    async def _show(self, conversation: Conversation) -> None:
        """What was said, and on with what is being said."""
        session = self._session
        session.conversation_id, session.last = conversation.conversation_id, None
        self._view.note(f"── {conversation.title}")
        over = [turn for turn in conversation.turns if turn.state in _ENDED]
        if len(over) > _PAST_TURNS:
            self._view.note(f"{len(over) - _PAST_TURNS} earlier turns are not shown")
        for turn in over[-_PAST_TURNS:]:
            self._view.past(turn)
            session.last = (turn.task_id, turn.message)
        for turn in (*conversation.turns, *conversation.pending):
            if turn.state not in _ENDED and turn.state != "steering":
                await session.watch(turn.task_id, turn.message)
