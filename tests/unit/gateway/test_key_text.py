"""API keys as texts: what is one, what is a typo, and what is kept."""

from __future__ import annotations

import hashlib
import re

from kdcube.gateway.identity.key_text import new_key, parse_key


def test_a_key_is_known_by_its_text_and_kept_as_a_hash():
    text, kept = new_key()
    assert re.fullmatch(r"kdk_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}", text)
    secret = text.split("_")[2][:43]
    assert (kept.key_id, kept.secret_hash) == (text.split("_")[1], hashlib.sha256(secret.encode()).digest())
    assert parse_key(text) == kept
    assert str(kept.secret_hash) not in repr(kept) and secret not in repr(kept)
    assert new_key()[0] != text


def test_a_typo_is_told_without_a_store():
    text, _ = new_key()
    for place in range(len(text)):
        for other in "aB3":
            if other != text[place]:
                assert parse_key(text[:place] + other + text[place + 1 :]) is None
    for wrong in (text[:-1], text + "a", text.upper(), f" {text}", f"{text}\n", text.replace("kdk", "kdx"), "kdk_", ""):
        assert parse_key(wrong) is None
