"""The reverse proxy as an nginx configuration.

Plain functions instead of a template: each argument passes through one function that quotes it, and routes, limits and
timeouts come from the same typed facts as those of every other renderer.

nginx routes by the path that it has decoded and tidied, and passes on the one that it was sent. So that a service
cannot read another path than nginx has routed, only paths are served that both read alike: see STRAIGHT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

from kdcube.deploy.proxy import Fixed, Named, ProxyFacts, Tls
from kdcube.deploy.render.nginx import block, directive
from kdcube.deploy.routes import ROUTES, Service, service_of
from kdcube.gateway.identity.addresses import Address

# No empty segment, none of dots alone, no parameters (;), no backslash. Encoded: no slash, backslash, semicolon,
# percent sign, control character, nor what needs no encoding, such as letters and dots.
_SEGMENT = (
    r"(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%(?:2[0-46-9A-Ca-c]|3[AaC-Fc-f]|40|5[BbDdEe]|60|7[B-Db-d]|[89A-Fa-f][0-9A-Fa-f]))"
)
STRAIGHT = rf"^/(?:(?!\.+(?:[/?]|$)){_SEGMENT}++/)*+(?:(?!\.+(?:\?|$)){_SEGMENT}++)?(?:\?[^#]*)?$"

_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_API_POLICY = "default-src 'none'; frame-ancestors 'none'"
_PAGES_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_OF_PAGES = frozenset({Service.UI, Service.PROXYLOGIN})

_TOLD = (
    ("X-Content-Type-Options", "$content_type_options", "nosniff"),
    ("X-Frame-Options", "$frame_options", "DENY"),
    ("Referrer-Policy", "$referrer_policy", "no-referrer"),
    ("X-Request-ID", "$told_request_id", "$sane_request_id"),
)
"""Headers of every answer, the variables that hold them, and what they are unless a service says it otherwise."""

_ASSERTING = (
    *("Forwarded", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server"),
    *(
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Groups",
        "X-Forwarded-Access-Token",
        "X-Forwarded-Client-Cert",
    ),
    *("X-Auth-Request-User", "X-Auth-Request-Email", "X-Remote-User", "Remote-User", "X-Amzn-Oidc-Data"),
    *("X-Amzn-Oidc-Identity", "X-Amzn-Oidc-Accesstoken", "X-Original-URL", "X-Original-URI", "X-Rewrite-URL"),
    *("X-HTTP-Method-Override", "X-Client-IP", "X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP"),
    *("Proxy", "Upgrade", "TE", "Trailer"),
)
"""Headers that assert without proof what only a proxy could know. They end here; tokens and cookies, which prove
themselves, pass."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the proxy answers by itself, in the shape of every error."""

    status: int
    error: str
    message: str
    retry_after_s: int | None = None

    @property
    def place(self) -> str:
        return f"@refused_{self.status}"

    @property
    def body(self) -> str:
        told: dict[str, object] = {"error": self.error, "message": self.message}
        if self.retry_after_s is not None:
            told["retry_after_s"] = self.retry_after_s
        return json.dumps({**told, "request_id": "$sane_request_id"})


_REFUSALS = (
    _Refusal(404, "not_found", "There is no such route."),
    _Refusal(413, "too_large", "The request's body is too large."),
    _Refusal(429, "rate_limited", "Too many requests or connections from this address.", 1),
    _Refusal(502, "bad_gateway", "The service did not answer; what was sent may have arrived.", 1),
    _Refusal(504, "gateway_timeout", "The service did not answer in time; what was sent may have arrived.", 1),
)
_CROOKED = _Refusal(400, "bad_path", "The path is not written plainly: no empty or dotted segments, no ; and no %2F.")
_WRONG_HOST = _Refusal(400, "bad_host", "The Host header is missing, or contradicts the request's URL.")
_MISDIRECTED = _Refusal(421, "misdirected", "This host is not served here.")


def render_proxy(facts: ProxyFacts) -> str:
    """The whole of nginx.conf, for nginx 1.22 and later. It runs in the foreground, unprivileged."""
    return "\n".join(
        (
            "# Rendered from the deployment's facts. Do not edit: change the facts and render again.",
            directive("daemon", "off"),
            directive("worker_processes", "auto"),
            directive("worker_rlimit_nofile", facts.max_open_files),
            directive("worker_shutdown_timeout", f"{facts.timeouts.drain}s"),
            directive("pid", f"{facts.folder}/nginx.pid"),
            # What nginx has to say of a request includes its query, in which a browser's stream may carry a token. So
            # only what is critical is written here; what became of each request stands in the access log, without it.
            directive("error_log", "stderr", "crit"),
            block("events", body=[directive("worker_connections", facts.max_open_files // 2)]),
            block("http", body=_http(facts)),
            "",
        )
    )


def _http(facts: ProxyFacts) -> Iterator[str]:
    yield from _temporary(facts)
    yield directive("default_type", "application/json")
    yield directive("server_tokens", "off")
    yield directive("server_names_hash_bucket_size", 512)
    yield directive("sendfile", "on")
    yield directive("tcp_nodelay", "on")
    yield from _logging(facts)
    yield from _clients(facts)
    yield from _judging(facts)
    yield from _telling(facts)
    yield from _limiting(facts)
    yield from _passing(facts)
    if facts.resolver:
        yield directive("resolver", *map(_host, facts.resolver), "valid=10s")
        yield directive("resolver_timeout", "3s")
    for service, upstream in sorted(facts.services.items()):
        if isinstance(upstream, Fixed):
            yield _group(service, upstream, facts)
    yield from _servers(facts)


def _temporary(facts: ProxyFacts) -> Iterator[str]:
    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"):
        yield directive(f"{kind}_temp_path", f"{facts.folder}/{kind}")


def _logging(facts: ProxyFacts) -> Iterator[str]:
    yield block(
        "map", "$request_uri", "$logged_path", body=[directive("default", ""), directive("~^(?<bare>[^?#]*)", "$bare")]
    )
    fields = {
        "time": "$time_iso8601",
        "request_id": "$sane_request_id",
        "address": "$remote_addr",
        "method": "$request_method",
        "path": "$logged_path",
        "status": "$status",
        "bytes": "$bytes_sent",
        "seconds": "$request_time",
        "service": "$upstream_addr",
        "service_status": "$upstream_status",
    }
    yield directive("log_format", "lines", "escape=json", json.dumps(fields))
    yield directive("access_log", str(facts.access_log), "lines")


def _clients(facts: ProxyFacts) -> Iterator[str]:
    """How long and how large a client may be."""
    times = facts.timeouts
    yield directive("client_header_timeout", f"{times.header}s")
    yield directive("client_body_timeout", f"{times.body}s")
    yield directive("send_timeout", f"{times.send}s")
    yield directive("keepalive_timeout", f"{times.client_keepalive}s")
    yield directive("keepalive_requests", 10_000)
    yield directive("reset_timedout_connection", "on")
    yield directive("lingering_timeout", "2s")
    yield directive("lingering_time", "10s")
    yield directive("client_header_buffer_size", "2k")
    yield directive("large_client_header_buffers", "4", "8k")
    yield directive("client_max_body_size", "64k")
    yield directive("client_body_buffer_size", "32k")


def _judging(facts: ProxyFacts) -> Iterator[str]:
    """What is known of a request: who sent it, and whether it is written plainly."""
    for network in facts.trusted_proxies:
        yield directive("set_real_ip_from", str(network))
    if facts.trusted_proxies:
        yield directive("real_ip_header", "X-Forwarded-For")
        yield directive("real_ip_recursive", "on")
    trusted = [directive(str(network), 1) for network in facts.trusted_proxies]
    yield block("geo", "$realip_remote_addr", "$from_trusted", body=[directive("default", 0), *trusted])
    yield block(
        "map",
        "$from_trusted:$http_x_forwarded_proto",
        "$true_scheme",
        body=[directive("default", "$scheme"), directive("1:https", "https"), directive("1:http", "http")],
    )
    yield block("map", "$request_uri", "$straight", body=[directive("default", 0), directive(f"~{STRAIGHT}", 1)])
    # A URL in the request line has a host of its own, which nginx goes by; services go by the header.
    yield block(
        "map",
        "$host|$http_host",
        "$one_host",
        body=[directive("default", 0), directive(r"~*^([a-z0-9.-]+|\[[0-9a-f:.]+\])\|\1(:\d{1,5})?$", 1)],
    )
    yield block(
        "map",
        "$http_x_request_id",
        "$sane_request_id",
        body=[directive("default", "$request_id"), directive(r"~^[A-Za-z0-9._:-]{8,64}$", "$http_x_request_id")],
    )


def _telling(facts: ProxyFacts) -> Iterator[str]:
    """The headers of answers: what a service says itself is kept, and said once."""
    csp = "Content-Security-Policy"
    policies = ((csp, "$api_policy", _API_POLICY), (csp, "$pages_policy", _PAGES_POLICY))
    for name, variable, value in (*_TOLD, *policies):
        said = "$upstream_http_" + name.lower().replace("-", "_")
        yield block("map", said, variable, body=[directive("default", said), directive("", value)])
    for name in (*(name for name, _, _ in _TOLD), csp, "Strict-Transport-Security"):
        yield directive("proxy_hide_header", name)
    lasting = facts.tls is None or facts.tls.lasting
    strict = directive("https", "max-age=31536000" if lasting else "")
    yield block("map", "$true_scheme", "$strict_transport", body=[directive("default", ""), strict])


def _limiting(facts: ProxyFacts) -> Iterator[str]:
    yield block(
        "map",
        "$binary_remote_addr",
        "$limited_address",
        body=[directive("default", "$binary_remote_addr"), directive(r"~^(?<net>[\s\S]{8})[\s\S]{8}$", "$net")],
    )
    yield directive("limit_conn_zone", "$limited_address", "zone=connections:10m")
    yield directive("limit_req_zone", "$limited_address", "zone=requests:10m", f"rate={facts.limits.requests_per_s}r/s")
    yield directive("limit_conn_status", 429)
    yield directive("limit_req_status", 429)


def _passing(facts: ProxyFacts) -> Iterator[str]:
    """How requests reach services, and answers come back."""
    times = facts.timeouts
    yield directive("proxy_http_version", "1.1")
    for name, value in (
        ("Host", "$http_host"),
        ("Connection", ""),
        ("X-Request-ID", "$sane_request_id"),
        ("X-Real-IP", "$remote_addr"),
        ("X-Forwarded-For", "$remote_addr"),
        ("X-Forwarded-Proto", "$true_scheme"),
        *((name, "") for name in _ASSERTING),
    ):
        yield directive("proxy_set_header", name, value)
    yield directive("proxy_connect_timeout", f"{times.connect}s")
    yield directive("proxy_read_timeout", f"{times.idle}s")
    yield directive("proxy_send_timeout", f"{times.send}s")
    yield directive("proxy_socket_keepalive", "on")
    yield directive("proxy_buffering", "off")  # an event is passed on when it comes
    yield directive("proxy_buffer_size", "16k")
    yield directive("proxy_buffers", 8, "16k")
    yield directive("proxy_redirect", "off")
    # Another process is asked when one is dead: at any time for what may be repeated, else before anything was sent.
    yield directive("proxy_next_upstream", "error", "timeout")
    yield directive("proxy_next_upstream_tries", 3)
    yield directive("proxy_next_upstream_timeout", f"{3 * times.connect}s")
    accelerated = ("Redirect", "Expires", "Limit-Rate", "Buffering", "Charset")
    yield directive("proxy_ignore_headers", *(f"X-Accel-{name}" for name in accelerated))


def _group(service: Service, upstream: Fixed, facts: ProxyFacts) -> str:
    # No server is put aside after a failure: on one host a dead one refuses at once, and is back in a moment.
    servers = [directive("server", f"{_host(address)}:{port}", "max_fails=0") for address, port in upstream.addresses]
    kept = [directive("keepalive", 64), directive("keepalive_timeout", f"{facts.timeouts.upstream_keepalive}s")]
    return block("upstream", service.value, body=[*servers, *kept])


def _servers(facts: ProxyFacts) -> Iterator[str]:
    tls = facts.tls
    if facts.hosts:
        refused = block("location", "/", body=_refusing(_MISDIRECTED))
        strangers = [*_listening(facts, tls, "default_server"), *_about(facts), refused]
        yield block("server", body=[directive("server_name", "_"), *strangers])
    elif tls is not None:
        yield block("server", body=[*_listening(facts, None), *_about(facts), *_redirecting(tls)])
    if facts.hosts and tls is not None:
        names = directive("server_name", *facts.hosts)
        yield block("server", body=[names, *_listening(facts, None), *_about(facts), *_redirecting(tls)])
    yield block("server", body=_serving(facts))


def _serving(facts: ProxyFacts) -> Iterator[str]:
    tls = facts.tls
    if facts.hosts:
        yield directive("server_name", *facts.hosts)
    yield from _listening(facts, tls, only_tls=True)
    yield from _headers()
    yield from _about(facts)
    yield _unless("$straight", _CROOKED)
    yield _unless("$one_host", _WRONG_HOST)
    yield directive("limit_conn", "connections", facts.limits.connections)
    yield directive("limit_req", "zone=requests", f"burst={facts.limits.burst}", "nodelay")
    for refusal in _REFUSALS:
        yield directive("error_page", refusal.status, refusal.place)
        yield block("location", refusal.place, body=_refusing(refusal))
    for route in ROUTES:
        bare = route.prefix.rstrip("/")
        yield block("location", "^~", route.prefix, body=_answering(service_of(route.prefix, facts.services), facts))
        # Or nginx would redirect it to the one with a slash, which may be another service's.
        yield block("location", "=", bare, body=_answering(service_of(bare, facts.services), facts))
    yield block("location", "/", body=[directive("return", 404)])


def _listening(facts: ProxyFacts, tls: Tls | None, *more: str, only_tls: bool = False) -> Iterator[str]:
    """On all addresses: on the port of TLS if there is one, and on the plain one."""
    for address in facts.listen:
        if tls is None or not only_tls:
            yield directive("listen", f"{_host(address)}:{facts.port}", *more)
        if tls is not None:
            yield directive("listen", f"{_host(address)}:{tls.port}", "ssl", "http2", *more)
    if tls is not None:
        yield directive("ssl_certificate", str(tls.certificate))
        yield directive("ssl_certificate_key", str(tls.key))
        yield directive("ssl_protocols", "TLSv1.2", "TLSv1.3")
        yield directive("ssl_ciphers", _CIPHERS)
        yield directive("ssl_prefer_server_ciphers", "off")
        yield directive("ssl_session_cache", "shared:tls:5m")
        yield directive("ssl_session_tickets", "off")


def _about(facts: ProxyFacts) -> Iterator[str]:
    """What load balancers and `kdcube status` ask: whether this process serves, not whether others do."""
    checksum = {} if facts.config_checksum is None else {"config_checksum": facts.config_checksum}
    told = json.dumps({"status": "alive", "service": "proxy", "version": facts.version, **checksum})
    for path in ("/health", "/ready"):
        yield block("location", "=", path, body=[directive("access_log", "off"), directive("return", 200, told)])


def _redirecting(tls: Tls) -> Iterator[str]:
    port = "" if tls.port == 443 else f":{tls.port}"
    yield _unless("$straight", _CROOKED)
    yield _unless("$one_host", _WRONG_HOST)
    yield block("location", "/", body=[directive("return", 308, f"https://$host{port}$request_uri")])


def _unless(variable: str, refusal: _Refusal) -> str:
    return block("if", f"({variable}", "=", "0)", body=[directive("return", refusal.status, refusal.body)])


def _refusing(refusal: _Refusal) -> Iterator[str]:
    if refusal.retry_after_s is not None:
        yield from _headers()
        yield directive("add_header", "Retry-After", refusal.retry_after_s, "always")
    yield directive("return", refusal.status, refusal.body)


def _answering(service: Service | None, facts: ProxyFacts) -> Iterator[str]:
    if service is None:
        yield directive("return", 404)
        return
    upstream = facts.services[service]
    yield directive("client_max_body_size", facts.body_bytes[service])
    if service in _OF_PAGES:
        yield from _headers("$pages_policy")
    if isinstance(upstream, Named):
        # In a variable, or it would be resolved once only, at start.
        yield directive("set", f"${service.value}_at", f"{upstream.host}:{upstream.port}")
        yield directive("proxy_pass", f"http://${service.value}_at")
    else:
        yield directive("proxy_pass", f"http://{service.value}")


def _headers(policy: str = "$api_policy") -> Iterator[str]:
    """What every answer carries. A place that adds a header of its own has to add these again."""
    for name, variable in (*((name, variable) for name, variable, _ in _TOLD), ("Content-Security-Policy", policy)):
        yield directive("add_header", name, variable, "always")
    yield directive("add_header", "Strict-Transport-Security", "$strict_transport", "always")


def _host(address: Address) -> str:
    return f"[{address}]" if isinstance(address, IPv6Address) else str(address)
