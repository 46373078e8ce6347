from __future__ import annotations

from kdcube.proc.bundles.share import ReadShare


def test_what_is_within_the_share_is_read_at_once():
    share = ReadShare(share=0.25, burst_s=0.05)
    assert [share.spend(0.001, now=number * 0.004) for number in range(1000)] == [0.0] * 1000


def test_beyond_it_the_pause_makes_the_share_good():
    share = ReadShare(share=0.25, burst_s=0.05)
    assert share.spend(0.05, now=0.0) == 0.0
    pause_s = share.spend(0.01, now=0.0)
    assert pause_s == 0.04
    assert share.spend(0.0, now=pause_s) == 0.0


def test_a_pause_is_bounded():
    assert ReadShare().spend(60.0, now=0.0) == 1.0
