"""From a message to an envelope."""

from __future__ import annotations

import pytest

from kdcube.config.bundles import BundleRegistry
from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.bundles.live import LiveBundles
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import Forbidden
from kdcube.gateway.live import LiveGateway
from kdcube.gateway.turns.messages import Composer, Message, Origin
from kdcube.protocol.errors import InvalidInput
from kdcube.protocol.turns import Policy, TurnEnvelope, UserType

GATEWAY = GatewayConfig(tenant="t", project="p")
BUNDLES = BundleRegistry.model_validate(
    {
        "default_bundle_id": "echo",
        "bundles": {"echo": {"path": "/e"}, "paid": {"path": "/p", "required_user_type": "paid"}},
    }
)
ALICE = Caller("alice", UserType.REGISTERED, ("r",), "s1")


def compose(message: Message, *, key: str | None = None, caller: Caller = ALICE, origin: Origin | None = None):
    return Composer(LiveGateway(GATEWAY), LiveBundles.of(BUNDLES)).compose(
        message, caller, key=key, request_id="r1", origin=origin
    )


def test_an_envelope_says_who_sent_what() -> None:
    envelope = compose(Message(text="hi", turn_id="turn_1", policy=Policy.STEER, payload={"a": 1}))
    assert envelope == TurnEnvelope(
        turn_id=envelope.turn_id, client_turn_id="turn_1", tenant="t", project="p", user_id="alice",
        user_type=UserType.REGISTERED, session_id="s1", request_id="r1", conversation_id=envelope.conversation_id,
        bundle_id="echo", text="hi", content_hash=envelope.content_hash, roles=("r",), payload={"a": 1},
        policy=Policy.STEER,
    )  # fmt: skip


def test_ids_derive_from_the_key_or_else_from_the_clients_id() -> None:
    by_id, again = compose(Message(text="hi", turn_id="k")), compose(Message(text="hi", turn_id="k"))
    assert (by_id.turn_id, by_id.conversation_id, by_id.content_hash) == (
        again.turn_id, again.conversation_id, again.content_hash,
    )  # fmt: skip
    by_key = compose(Message(text="hi", turn_id="other"), key="k")
    assert (by_key.turn_id, by_key.client_turn_id) == (by_id.turn_id, "other")
    bob = Caller("bob", UserType.REGISTERED, (), "s2")
    assert compose(Message(text="hi", turn_id="k"), caller=bob).turn_id != by_id.turn_id
    assert compose(Message(text="hi")).turn_id != compose(Message(text="hi")).turn_id


def test_a_repeat_may_name_the_conversation_that_it_was_told() -> None:
    first = compose(Message(text="hi", turn_id="k"))
    again = compose(Message(text="hi", turn_id="k", conversation_id=first.conversation_id))
    assert again.content_hash == first.content_hash


@pytest.mark.parametrize(
    "other",
    [
        Message(text="ho", turn_id="k"),
        Message(text="hi", turn_id="k", payload={"a": 1}),
        Message(text="hi", turn_id="k", policy=Policy.REJECT),
        Message(text="hi", turn_id="k", bundle_id="echo"),
        Message(text="hi", turn_id="k", conversation_id="c"),
    ],
)
def test_other_content_has_another_hash(other: Message) -> None:
    assert compose(other).content_hash != compose(Message(text="hi", turn_id="k")).content_hash


def test_an_edit_knows_where_its_branch_begins() -> None:
    plain = compose(Message(text="hi", turn_id="k", conversation_id="c"))
    under = compose(Message(text="hi", turn_id="k", conversation_id="c"), origin=Origin("parent"))
    root = compose(Message(text="hi", turn_id="k", conversation_id="c"), origin=Origin(None))
    assert (plain.parent_turn_id, plain.root) == (None, False)
    assert (under.parent_turn_id, under.root) == ("parent", False)
    assert (root.parent_turn_id, root.root) == (None, True)
    assert len({plain.content_hash, under.content_hash, root.content_hash}) == 3


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Message(), "message.text"),
        (Message(text=""), "message.text"),
        (Message(text="x" * 100_001), "message.text"),
        (Message(payload={"a": "x" * 65_536}), "message.payload"),
        (Message(payload={"a": 2**64}), "message.payload"),
        (Message(text="x", turn_id=""), "message.turn_id"),
        (Message(text="x", conversation_id="a\x1fb"), "message.conversation_id"),
        (Message(text="x", bundle_id="unknown"), "message.bundle_id"),
    ],
)
def test_what_is_wrong_is_named(message: Message, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        compose(message)
    assert refusal.value.field == field


def test_a_bundle_may_ask_for_a_type_of_users() -> None:
    with pytest.raises(Forbidden):
        compose(Message(text="x", bundle_id="paid"))
    for user_type in (UserType.PAID, UserType.PRIVILEGED):
        compose(Message(text="x", bundle_id="paid"), caller=Caller("u", user_type, (), "s"))


def test_without_a_default_a_bundle_must_be_named() -> None:
    bundles = BundleRegistry.model_validate({"bundles": {"a": {"path": "/a"}, "b": {"path": "/b"}}})
    with pytest.raises(InvalidInput, match="name a bundle: a, b"):
        Composer(LiveGateway(GATEWAY), LiveBundles.of(bundles)).compose(
            Message(text="x"), ALICE, key=None, request_id="r"
        )
