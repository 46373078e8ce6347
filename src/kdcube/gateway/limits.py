"""What callers may do in which time, as the configuration is now."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.requests import Request

from kdcube.config.gateway import GatewayConfig
from kdcube.gateway.caller import Caller
from kdcube.gateway.errors import RateLimited
from kdcube.gateway.exchange import exchange_of
from kdcube.gateway.live import LiveGateway
from kdcube.protocol.turns import UserType
from kdcube.redis.admission import AdmissionLimits, ClassLimits
from kdcube.redis.rates import Left, OverRate, Rates, Sender

WORDS: Mapping[str, str] = {
    "rate_limit_burst": "Too many messages at once.",
    "rate_limit_hourly": "Too many messages within an hour.",
}


MESSAGES = "/sse/chat"
"""Where messages are sent: who may send them from elsewhere does so under the limits of this path."""


class Limiter:
    """Rates of callers. Messages are counted by admission, requests to guarded paths here, as ``component`` is told."""

    def __init__(self, rates: Rates, live: LiveGateway, component: str = "ingress") -> None:
        self._rates = rates
        self._live = live
        self._component = component
        self.admission: AdmissionLimits
        self._requests: Mapping[UserType, ClassLimits]
        live.subscribe(self._take_over)

    def _take_over(self, config: GatewayConfig) -> None:
        self.admission = admission_limits(config)
        self._requests = _class_limits(config, self._component)

    def sender(self, request: Request, caller: Caller) -> Sender:
        """How admission is to count a message that came with ``request``."""
        return Sender(caller.address, not self._bypasses(request.scope["path"], "ingress"))

    def sender_of(self, caller: Caller) -> Sender:
        """How admission is to count a message that a bundle sends for ``caller``: as one that they send themselves."""
        return Sender(caller.address, not self._bypasses(MESSAGES, "ingress"))

    async def count(self, request: Request, caller: Caller) -> None:
        """Counts a request to a guarded path: one round trip, none for other paths.

        Raises RateLimited; StoreUnavailable when it cannot be counted.
        """
        path = request.scope["path"]
        guarded = self._live.current.guarded_rest_patterns.of(self._component)
        if not guarded or not guarded.matches(path) or self._bypasses(path, self._component):
            return
        outcome = await self._rates.charge(caller.user_id, self._requests[caller.user_type], caller.address)
        if isinstance(outcome, OverRate):
            raise over_rate(outcome)
        exchange_of(request).left = outcome

    async def left(self, caller: Caller) -> Left:
        """What the caller may still send, without changing it. Raises StoreUnavailable."""
        return await self._rates.left(caller.user_id, self.admission.classes[caller.user_type], caller.address)

    def _bypasses(self, path: str, component: str) -> bool:
        bypassing = self._live.current.bypass_throttling_patterns.of(component)
        return bool(bypassing) and bypassing.matches(path)


def over_rate(outcome: OverRate) -> RateLimited:
    error = RateLimited(
        WORDS[outcome.reason].replace("messages", "requests"),
        retry_after_s=outcome.retry_after_s,
        error=outcome.reason,
    )
    error.left = outcome.left
    return error


def admission_limits(gateway: GatewayConfig) -> AdmissionLimits:
    """What the admission script enforces. Pressure is that of proc's capacity; rates are those of ingress."""
    pressure = gateway.backpressure.ingress
    return AdmissionLimits(
        classes=_class_limits(gateway, "ingress"),
        hard_limit_threshold=pressure.hard_limit_threshold,
        capacity_buffer=pressure.capacity_buffer,
        queue_depth_multiplier=pressure.queue_depth_multiplier,
        max_queue_size=gateway.limits.proc.max_queue_size,
        running_per_user=gateway.limits.proc.max_running_turns_per_user,
        live_per_user=gateway.limits.proc.max_live_turns_per_user,
    )


def _class_limits(gateway: GatewayConfig, component: str) -> Mapping[UserType, ClassLimits]:
    pressure, rates = gateway.backpressure.ingress, gateway.rate_limits.of(component)
    return {
        user_type: ClassLimits(
            burst=rates.of(user_type).burst,
            burst_window_s=rates.of(user_type).burst_window,
            hourly=rates.of(user_type).hourly,
            address_share=gateway.limits.ingress.max_anonymous_users_per_address,
            pressure_threshold=pressure.threshold(user_type),
        )
        for user_type in UserType
    }
