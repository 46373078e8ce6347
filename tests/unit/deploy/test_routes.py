"""Which service answers a path."""

from __future__ import annotations

import pytest

from kdcube.deploy.routes import Service, service_of

EVERYTHING = frozenset(Service)

SAMPLES = [
    ("/chatbot/api/integrations/bundles/a/b/c/operations/d", Service.PROC),
    ("/chatbot/api/integrations/", Service.PROC),
    ("/chatbot/api/integrations", Service.INGRESS),  # which has no such route, as on a load balancer
    ("/chatbot/api/integrationsx", Service.INGRESS),
    ("/chatbot/api/sse/chat", Service.INGRESS),
    ("/chatbot/api/admin/gateway-config", Service.INGRESS),
    ("/chatbot/api/", Service.INGRESS),
    ("/chatbot/api", Service.UI),
    ("/chatbot/", Service.UI),
    ("/chatbot/assets/app.js", Service.UI),
    ("/auth/login", Service.PROXYLOGIN),
    ("/authx/login", None),
    ("/auth", None),
    ("/chatbot", None),
    ("/", None),
    ("/sse/chat", None),
    ("/integrations/bundles", None),
    ("/metrics", None),
    ("/metrics/combined", None),
    ("/chatbot/api/metrics", None),
    ("/chatbot/api/metrics/combined", None),
    ("/chatbot/api/integrations/metrics", None),
    ("/Chatbot/api/sse/chat", None),
    ("/chatbot/API/sse/chat", Service.UI),
]


@pytest.mark.parametrize(("path", "service"), SAMPLES)
def test_samples(path, service):
    assert service_of(path, EVERYTHING) is service


def test_what_is_absent_does_not_fall_through_to_a_wider_route():
    without = EVERYTHING - {Service.PROC}
    assert service_of("/chatbot/api/integrations/x", without) is None
    assert service_of("/chatbot/api/x", EVERYTHING - {Service.INGRESS}) is None
