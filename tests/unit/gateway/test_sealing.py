"""What is sealed is secret, genuine, and good for one place only."""

from __future__ import annotations

import pytest

from kdcube.gateway.identity.sealing import Keyring, Unsealable

OLD, NEW = b"o" * 32, b"n" * 32


def test_what_was_sealed_opens_in_its_context() -> None:
    ring = Keyring([NEW])
    sealed = ring.seal(b"secret", "logins.tokens", "row 1")
    assert b"secret" not in sealed and sealed != ring.seal(b"secret", "logins.tokens", "row 1")
    assert ring.unseal(sealed, "logins.tokens", "row 1") == b"secret"
    for context in (("logins.tokens", "row 2"), ("logins.claims", "row 1"), ("logins.tokens",), ()):
        with pytest.raises(Unsealable):
            ring.unseal(sealed, *context)


def test_the_first_key_seals_and_all_open() -> None:
    before, during, after = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    sealed = before.seal(b"secret", "row")
    assert during.unseal(sealed, "row") == b"secret"
    assert during.current == after.current != before.current
    assert after.unseal(during.seal(b"secret", "row"), "row") == b"secret"
    with pytest.raises(Unsealable):
        after.unseal(sealed, "row")


def test_no_byte_can_be_changed() -> None:
    ring = Keyring([NEW])
    sealed = ring.seal(b"secret", "row")
    for place in range(len(sealed)):
        changed = sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :]
        with pytest.raises(Unsealable):
            ring.unseal(changed, "row")
    for length in range(len(sealed)):
        with pytest.raises(Unsealable):
            ring.unseal(sealed[:length], "row")
