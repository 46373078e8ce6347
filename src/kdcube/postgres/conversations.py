"""Conversations as their owners see them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdcube.postgres.branches import Link, Tree
from kdcube.postgres.database import Database, Fetch
from kdcube.postgres.queries import load_queries
from kdcube.postgres.records import (
    BranchTurn,
    CancelResult,
    Conversation,
    ConversationExport,
    ConversationView,
    Page,
    StoredTurn,
)
from kdcube.postgres.rows import conversation, storable, stored_turn
from kdcube.postgres.turns import cancel_unfinished
from kdcube.protocol.errors import InvalidInput

MAX_PAGE = 200
MAX_SEARCH_CHARS = 200

_CURSOR = re.compile(r"c1\.(\d{1,15})\.([\x21-\x7e]{1,128})")
_BEGINNING = (2**62, "")


class Conversations:
    """The conversations of one tenant and project. What is absent, deleted or another user's gives None.

    Every method raises StoreUnavailable.
    """

    def __init__(self, database: Database, tenant: str, project: str) -> None:
        self._database = database
        self._scope = (tenant, project)
        self._sql = load_queries("conversations")

    async def list(self, user_id: str, *, cursor: str | None = None, limit: int = 50, query: str | None = None) -> Page:
        """A page, newest activity first, of 1 to MAX_PAGE items; ``query`` is looked for in titles, messages, answers.

        Raises InvalidInput for ``cursor``, ``limit`` or ``q``.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput("limit", f"limit must be 1 to {MAX_PAGE}")
        if query is not None and len(query) > MAX_SEARCH_CHARS:
            raise InvalidInput("q", f"q must have at most {MAX_SEARCH_CHARS} characters")
        pattern = _like(query) if query else None
        after = _parse_cursor(cursor) if cursor else _BEGINNING
        rows = await self._database.fetch(
            self._sql["list_conversations"], *self._scope, user_id, *after, pattern, limit + 1
        )
        items = [conversation(row) for row in rows[:limit]]
        return Page(items, _cursor(items[-1]) if len(rows) > limit else None)

    async def get(self, user_id: str, conversation_id: str) -> Conversation | None:
        return await self._one("get_conversation", user_id, conversation_id)

    async def fetch(self, user_id: str, conversation_id: str) -> ConversationView | None:
        """The conversation with its active branch and what else is unfinished or never started."""
        found = await self.get(user_id, conversation_id)
        if found is None:
            return None
        tree = await self._tree(self._database.fetch, user_id, conversation_id)
        branch = tree.branch(found.head_turn_id)
        applied, pending, unstarted = tree.applied(), tree.pending(branch), tree.unstarted()
        steers = {turn_id: applied.get(turn_id, []) for turn_id in branch}
        ids = {*branch, *pending, *unstarted, *(steer for several in steers.values() for steer in several)}
        rows = await self._database.fetch(self._sql["turns_by_id"], *self._scope, user_id, [*ids])
        turns = {row["turn_id"]: stored_turn(row) for row in rows}
        return ConversationView(
            conversation=found,
            branch=[
                BranchTurn(turn, tree.siblings(turn.turn_id), tuple(_present(turns, steers[turn.turn_id])))
                for turn in _present(turns, branch)
            ],
            pending=[*_present(turns, pending)],
            unstarted=[*_present(turns, unstarted)],
        )

    async def export(self, user_id: str, conversation_id: str) -> ConversationExport | None:
        """The conversation with all turns of all branches."""
        found = await self.get(user_id, conversation_id)
        if found is None:
            return None
        rows = await self._database.fetch(self._sql["all_turns"], *self._scope, user_id, conversation_id)
        return ConversationExport(found, [stored_turn(row) for row in rows])

    async def rename(self, user_id: str, conversation_id: str, title: str) -> Conversation | None:
        return await self._one("rename", user_id, conversation_id, storable(title))

    async def pin(self, user_id: str, conversation_id: str, pinned: bool) -> Conversation | None:
        return await self._one("pin", user_id, conversation_id, pinned)

    async def delete(self, user_id: str, conversation_id: str, now_ms: int) -> Sequence[CancelResult] | None:
        """Hides the conversation and, in the same transaction, cancels what is unfinished: the results of that."""

        async def work(fetch: Fetch) -> Sequence[CancelResult] | None:
            if not await fetch(self._sql["delete"], *self._scope, user_id, conversation_id, now_ms):
                return None
            return await cancel_unfinished(fetch, self._scope, user_id, conversation_id, now_ms)

        return await self._database.transact(work)

    async def restore(self, user_id: str, conversation_id: str) -> Conversation | None:
        """Shows a deleted conversation again. What was cancelled stays cancelled."""
        return await self._one("restore", user_id, conversation_id)

    async def select_branch(self, user_id: str, conversation_id: str, turn_id: str) -> Conversation | None:
        """Shows the branch through ``turn_id``: the head becomes its newest descendant, or itself.

        None also when the conversation has no such turn, or it never started.
        """

        async def work(fetch: Fetch) -> Conversation | None:
            if not await fetch(self._sql["lock_conversation"], *self._scope, user_id, conversation_id):
                return None
            head = (await self._tree(fetch, user_id, conversation_id)).newest_leaf(turn_id)
            if head is None:
                return None
            rows = await fetch(self._sql["set_head"], *self._scope, user_id, conversation_id, head)
            return conversation(rows[0])

        return await self._database.transact(work)

    async def reown(self, from_user: str, to_user: str) -> Sequence[str]:
        """Hands the idle conversations of one user, with their turns, to another (rule 28); returns their ids.

        Those with an unfinished turn stay: call again later. That both users agree is for the caller to know.
        """

        async def work(fetch: Fetch) -> Sequence[str]:
            rows = await fetch(self._sql["lock_conversations"], *self._scope, from_user)
            ids = [row["conversation_id"] for row in rows]
            moved = await fetch(self._sql["reown"], *self._scope, from_user, to_user, ids)
            return [row["conversation_id"] for row in moved]

        return await self._database.transact(work)

    async def _one(self, query: str, user_id: str, conversation_id: str, *values: object) -> Conversation | None:
        row = await self._database.fetch_one(self._sql[query], *self._scope, user_id, conversation_id, *values)
        return None if row is None else conversation(row)

    async def _tree(self, fetch: Fetch, user_id: str, conversation_id: str) -> Tree:
        rows = await fetch(self._sql["turn_links"], *self._scope, user_id, conversation_id)
        return Tree([Link(*row.values()) for row in rows])


def _present(turns: dict[str, StoredTurn], ids: Sequence[str]) -> Sequence[StoredTurn]:
    return [turns[turn_id] for turn_id in ids if turn_id in turns]


def _like(text: str) -> str:
    """An ILIKE pattern that finds ``text`` as it stands."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", storable(text)) + "%"


def _cursor(last: Conversation) -> str:
    return f"c1.{last.last_activity_ms}.{last.conversation_id}"


def _parse_cursor(text: str) -> tuple[int, str]:
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise InvalidInput(
            "cursor", "the cursor is malformed; send one that this service issued, or none to start anew"
        )
    return int(match[1]), match[2]
