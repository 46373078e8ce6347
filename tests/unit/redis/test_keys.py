"""Names of keys and channels."""

from __future__ import annotations

from kdcube.redis.keys import Keys

KEYS = Keys("acme", "support", 2)


def every_key(keys: Keys) -> list[str]:
    by_id = (
        keys.done,
        keys.rate,
        keys.address_rate,
        keys.sessions_opened,
        keys.public_calls,
        keys.log,
        keys.log_meta,
        keys.feed,
        keys.live,
    )
    others = (keys.building, keys.server, keys.format, keys.workers, keys.stops)
    return [*keys.state(), *others, *(name("x") for name in by_id)]


def test_all_keys_of_a_partition_share_its_hash_tag():
    for key in every_key(KEYS):
        assert key.startswith("kd:{acme:support:2}:")


def test_no_two_keys_are_the_same():
    keys = [*every_key(KEYS), *every_key(Keys("acme", "support", 3)), *every_key(Keys("acme", "sales", 2))]
    assert len(set(keys)) == len(keys)


def test_the_properties_name_the_keys_of_the_state():
    named = (KEYS.epoch, KEYS.turns, KEYS.claims, KEYS.leases, KEYS.schedule, KEYS.doorbell, KEYS.beats, KEYS.slots)
    assert set(named) <= set(KEYS.state())
    assert len(KEYS.state()) == 14


def test_channels_begin_with_what_scripts_put_before_their_names():
    prefix = KEYS.channel_prefix
    assert KEYS.log_channel("t") == prefix + "log:t"
    assert KEYS.feed_channel("u") == prefix + "feed:u"
    assert KEYS.worker_channel("w") == prefix + "worker:w"
