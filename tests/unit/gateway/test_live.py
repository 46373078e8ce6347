"""The configuration that a process runs."""

from __future__ import annotations

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.live import LiveGateway

FIRST = GatewayConfig(tenant="t", project="p")
SECOND = GatewayConfig.model_validate({"tenant": "t", "project": "p", "limits": {"max_queue_size": 7}})


def test_subscribers_hear_the_current_one_and_each_change() -> None:
    live = LiveGateway(FIRST)
    heard: list[GatewayConfig] = []
    live.subscribe(heard.append)
    live.apply(SECOND)
    assert heard == [FIRST, SECOND]
    assert (live.current, live.checksum) == (SECOND, SECOND.checksum)


def test_a_subscriber_that_fails_keeps_no_other_from_the_change() -> None:
    live = LiveGateway(FIRST)
    heard: list[GatewayConfig] = []

    def failing(config: GatewayConfig) -> None:
        if config is SECOND:
            raise ValueError("cannot")

    live.subscribe(failing)
    live.subscribe(heard.append)
    live.apply(SECOND)
    assert heard == [FIRST, SECOND]
