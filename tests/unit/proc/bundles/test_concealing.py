from __future__ import annotations

from kdcube.proc.bundles.concealing import Concealing

PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nshort\n-----END KEY-----"


def test_what_was_given_is_concealed_also_after_it_was_rotated():
    concealing = Concealing()
    assert concealing.without("sk-old-value") == "sk-old-value"
    concealing.add({"KEY": "sk-old-value"})
    concealing.add({"KEY": "sk-old-value-2", "TINY": "ab"})
    assert concealing.without("a sk-old-value-2, sk-old-value, ab") == "a [redacted], [redacted], ab"


def test_the_lines_of_a_long_one_are_concealed_each():
    concealing = Concealing()
    concealing.add({"PEM": PEM})
    assert [concealing.without(line) for line in PEM.splitlines()] == [
        "[redacted]",
        "[redacted]",
        "short",
        "[redacted]",
    ]
