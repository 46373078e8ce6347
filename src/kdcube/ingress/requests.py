"""What requests carry, apart from a message: bodies, and ids in the path."""

from __future__ import annotations

import msgspec
from starlette.requests import Request

from kdcube.gateway.errors import NotFound
from kdcube.gateway.turns.messages import ClientId
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.ids import check_client_id, check_user_id

REACTION_MAX_CHARS = 32
FEEDBACK_MAX_CHARS = 10_000
REASON_MAX_CHARS = 500


class Cancel(msgspec.Struct):
    """``POST /sse/cancel``: one of the two."""

    turn_id: ClientId | None = None
    conversation_id: ClientId | None = None


class Status(msgspec.Struct):
    """``POST /sse/conv_status.get``. ``stream_id`` is what existing clients send along."""

    conversation_id: ClientId
    stream_id: str | None = None


class Patch(msgspec.Struct):
    """``PATCH /conversations/{id}``: what is to change. ``head_turn_id`` shows the branch through a turn."""

    title: str | None = None
    pinned: bool | None = None
    head_turn_id: ClientId | None = None


class Feedback(msgspec.Struct):
    """``PUT …/feedback``. Both null: no feedback."""

    reaction: str | None = None
    text: str | None = None


def path_id(request: Request, name: str) -> str:
    """The id that the path has at ``name``. Raises NotFound for what cannot be an id: it names nothing."""
    try:
        return check_client_id(name, request.path_params[name])
    except InvalidInput:
        raise NotFound from None


def only_user_id(request: Request) -> str:
    """The user that the query names as ``user_id``: there any id can be written, also one with a slash in it. Raises
    InvalidInput.
    """
    given = request.query_params.getlist("user_id")
    if len(given) != 1:
        raise InvalidInput("user_id", "give the id of one user as ?user_id=")
    return check_user_id("user_id", given[0])
