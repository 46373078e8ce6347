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


class Limiter:
    """Rates of callers. Messages are counted by admission, requests to guarded paths here."""

    def __init__(self, rates: Rates, live: LiveGateway) -> None:
        self._rates = rates
        self._live = live
        self.admission: AdmissionLimits
        live.subscribe(self._take_over)

    def _take_over(self, config: GatewayConfig) -> None:
        self.admission = admission_limits(config)

    def sender(self, request: Request, caller: Caller) -> Sender:
        """How admission is to count a message that came with ``request``."""
        return Sender(caller.address, not self._bypasses(request))

    async def count(self, request: Request, caller: Caller) -> None:
        """Counts a request to a guarded path: one round trip, none for other paths.

        Raises RateLimited; StoreUnavailable when it cannot be counted.
        """
        guarded = self._live.current.guarded_rest_patterns.ingress
        if not guarded or not guarded.matches(request.scope["path"]) or self._bypasses(request):
            return
        limit = self.admission.classes[caller.user_type]
        outcome = await self._rates.charge(caller.user_id, limit, caller.address)
        if isinstance(outcome, OverRate):
            raise over_rate(outcome)
        exchange_of(request).left = outcome

    async def left(self, caller: Caller) -> Left:
        """What the caller may still send, without changing it. Raises StoreUnavailable."""
        return await self._rates.left(caller.user_id, self.admission.classes[caller.user_type], caller.address)

    def _bypasses(self, request: Request) -> bool:
        bypassing = self._live.current.bypass_throttling_patterns.ingress
        return bool(bypassing) and bypassing.matches(request.scope["path"])


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
    pressure, rates = gateway.backpressure.ingress, gateway.rate_limits.ingress
    return AdmissionLimits(
        classes={
            user_type: ClassLimits(
                burst=rates.of(user_type).burst,
                burst_window_s=rates.of(user_type).burst_window,
                hourly=rates.of(user_type).hourly,
                address_share=gateway.limits.ingress.max_anonymous_users_per_address,
                pressure_threshold=pressure.threshold(user_type),
            )
            for user_type in UserType
        },
        hard_limit_threshold=pressure.hard_limit_threshold,
        capacity_buffer=pressure.capacity_buffer,
        queue_depth_multiplier=pressure.queue_depth_multiplier,
        max_queue_size=gateway.limits.proc.max_queue_size,
        running_per_user=gateway.limits.proc.max_running_turns_per_user,
        live_per_user=gateway.limits.proc.max_live_turns_per_user,
    )
