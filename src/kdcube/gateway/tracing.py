"""Opens the tracing of a service: spans for a collector where one is configured, else none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from kdcube import __version__
from kdcube.config.service import ServiceSettings
from kdcube.config.tracing import ENDPOINT
from kdcube.protocol.errors import ConfigurationError
from kdcube.telemetry.tracing import NO_TRACING, Tracing


@asynccontextmanager
async def open_tracing(service: ServiceSettings) -> AsyncGenerator[Tracing]:
    """Raises ConfigurationError when the packages that it takes are not installed."""
    settings = service.tracing
    if settings is None:
        yield NO_TRACING
        return
    try:
        from kdcube.telemetry.otlp import open_otlp  # here: who records nothing need not have the packages
    except ImportError as error:
        raise ConfigurationError(
            ENDPOINT, f"is set, but {error.name} is not installed; install kdcube[tracing], or unset it"
        ) from error
    resource = {
        "service.name": settings.service_name or f"kdcube-{service.component}",
        "service.namespace": f"{service.gateway.tenant}/{service.gateway.project}",
        "service.instance.id": service.instance_id,
        "service.version": __version__,
    }
    async with open_otlp(
        endpoint=settings.endpoint,
        headers=settings.headers,
        sampler=settings.sampler,
        share=settings.share,
        resource=resource,
        version=__version__,
    ) as tracing:
        yield tracing
