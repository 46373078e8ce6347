"""Every key and channel name. Nothing else builds one.

All keys of a partition share the hash tag ``{tenant:project:partition}``, so that each script touches one slot and all
keys of a script are declared, whatever the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one partition. A user belongs to one partition; one ships."""

    tenant: str
    project: str
    partition: int = 0

    def _key(self, *parts: str) -> str:
        return ":".join((f"kd:{{{self.tenant}:{self.project}:{self.partition}}}", *parts))

    def state(self) -> list[str]:
        """The keys that every script of the queue takes first, in the order that ``lua/_turns.lua`` names."""
        return [
            self._key(name)
            for name in (
                "epoch",  # the epoch under which this working state was built
                "turns",  # hash: turn -> packed record
                "envelopes",  # hash: turn -> envelope
                "queue",  # lexical set: class, bundle, finish tag, order, turn
                "parked",  # lexical set: conversation, rank (steers have one of their own), order, turn
                "held",  # lexical set: user, order, turn
                "users",  # hash: user -> packed count of turns in the queue or claimed, and finish tags
                "conversations",  # hash: conversation -> user, active turn
                "leases",  # sorted set: turn by deadline
                "claims",  # hash: claim -> turn; a claim that is not here is not current
                "schedule",  # hash: virtual times, counters
                "doorbell",  # list: capped hint that work waits
                "beats",  # sorted set: worker by last heartbeat
                "slots",  # hash: worker -> slots
            )
        ]

    @property
    def epoch(self) -> str:
        return self._key("epoch")

    @property
    def building(self) -> str:
        return self._key("building")

    @property
    def server(self) -> str:
        """The run id of the server that the working state was built on: a replica that takes over has another."""
        return self._key("server")

    @property
    def format(self) -> str:
        return self._key("format")

    @property
    def turns(self) -> str:
        return self._key("turns")

    @property
    def envelopes(self) -> str:
        return self._key("envelopes")

    @property
    def conversations(self) -> str:
        return self._key("conversations")

    @property
    def claims(self) -> str:
        return self._key("claims")

    @property
    def queue(self) -> str:
        return self._key("queue")

    @property
    def parked(self) -> str:
        return self._key("parked")

    @property
    def held(self) -> str:
        return self._key("held")

    @property
    def leases(self) -> str:
        return self._key("leases")

    @property
    def schedule(self) -> str:
        return self._key("schedule")

    @property
    def doorbell(self) -> str:
        return self._key("doorbell")

    @property
    def beats(self) -> str:
        return self._key("beats")

    @property
    def slots(self) -> str:
        return self._key("slots")

    @property
    def workers(self) -> str:
        """Hash: worker -> what it says of itself, JSON."""
        return self._key("workers")

    @property
    def stops(self) -> str:
        """Set: revisions that must not claim (rule 12)."""
        return self._key("stops")

    @property
    def sources(self) -> str:
        """Sorted set: process by when it last reported."""
        return self._key("sources")

    def source(self, source: str) -> str:
        """What a process last reported, JSON; expires."""
        return self._key("source", source)

    def done(self, turn_id: str) -> str:
        """What a turn that has ended leaves for 24 h, so that a repeated send is answered."""
        return self._key("done", turn_id)

    def rate(self, user_id: str) -> str:
        """How much of its limits a user has used, whatever its sessions."""
        return self._key("rate", user_id)

    def address_rate(self, address: str) -> str:
        """The same of all anonymous users of an address."""
        return self._key("addressrate", address)

    def sessions_opened(self, address: str) -> str:
        """The bucket of anonymous sessions that an address may open."""
        return self._key("opened", address)

    def public_calls(self, address: str) -> str:
        """The bucket of calls of public operations that an address may make."""
        return self._key("publiccalls", address)

    def login(self, cookie_hash: str) -> str:
        return self._key("login", cookie_hash)

    def log(self, turn_id: str) -> str:
        """Stream: the events of a turn; the id of an entry is the offset of its last event."""
        return self._key("log", turn_id)

    def log_meta(self, turn_id: str) -> str:
        return self._key("logmeta", turn_id)

    def feed(self, user_id: str) -> str:
        """Stream: what happens to a user's turns and conversations."""
        return self._key("feed", user_id)

    def live(self, user_id: str) -> str:
        """Hash: the feed's tail (``#t``) and name (``#g``), and the user's live turns."""
        return self._key("live", user_id)

    def log_channel(self, turn_id: str) -> str:
        return self._key("c", "log", turn_id)

    def feed_channel(self, user_id: str) -> str:
        return self._key("c", "feed", user_id)

    def worker_channel(self, worker_id: str) -> str:
        """Cancels and steers for the turns of one worker."""
        return self._key("c", "worker", worker_id)

    @property
    def epoch_channel(self) -> str:
        return self._key("c", "epoch")

    @property
    def config_channel(self) -> str:
        """The version of the gateway configuration that was stored last."""
        return self._key("c", "config")

    @property
    def bundles_channel(self) -> str:
        """The sequence of the registry of bundles, when something in it changed."""
        return self._key("c", "bundles")

    @property
    def revocation_channel(self) -> str:
        """The ids of API keys that are revoked."""
        return self._key("c", "revoked")

    @property
    def channel_prefix(self) -> str:
        """What scripts put before ``log:``, ``feed:`` and ``worker:``; channels are not keys and need no declaring."""
        return self._key("c") + ":"
