"""Where the metrics service exports its signals to, how often, and under which names."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Self, TypeAlias, cast
from urllib.parse import urlsplit

from kdcube.config.documents import UnreadableDocument, measured, named, read_json
from kdcube.config.environment import Environment
from kdcube.config.gateway import GatewayConfig
from kdcube.config.secrets import ask_for_credentials
from kdcube.config.signals import OLDER, PER_UNIT, SIGNALS, WITHOUT_SIGNAL, Unit
from kdcube.protocol.errors import ConfigurationError

MAPPING = "METRICS_MAPPING_JSON"
DIMENSIONS = "METRICS_CLOUDWATCH_DIMENSIONS_JSON"
NAMESPACE = "METRICS_CLOUDWATCH_NAMESPACE"
REGION = "METRICS_CLOUDWATCH_REGION"
PUSH_URL = "METRICS_PROM_PUSHGATEWAY_URL"
LABELS = "METRICS_PROM_GROUPING_LABELS_JSON"

EXPORT_VARIABLES = (
    *("METRICS_SCHEDULER_ENABLED", "METRICS_EXPORT_INTERVAL_SEC", "METRICS_EXPORT_ON_START", MAPPING),
    *("METRICS_EXPORT_CLOUDWATCH", NAMESPACE, REGION, DIMENSIONS, "AWS_ENDPOINT_URL_CLOUDWATCH"),
    *("METRICS_EXPORT_PROMETHEUS_PUSH", PUSH_URL, "METRICS_PROM_JOB_NAME", LABELS, "METRICS_PROM_SCRAPE_TTL_SEC"),
)
"""All that ``ExportSettings`` reads, but for those of AWS's own."""

DIMENSIONS_MAX = 30
NAME_MAX_CHARS = 255
VALUE_MAX_CHARS = 1024

Pairs: TypeAlias = tuple[tuple[str, str], ...]

_PRINTABLE = re.compile(r"(?!:)[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_NAMESPACE = re.compile(r"(?!:)[A-Za-z0-9._/#:-][A-Za-z0-9._/#: -]{0,254}")
_NOT_IN_GAUGES = re.compile(r"[^A-Za-z0-9_]")
_LABEL = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
_MEMBERS = ("name", "metric", "cloudwatch_name", "unit")
"""``metric`` and ``cloudwatch_name`` are older words for ``name``."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """What a signal is called outside. ``unit`` None: its own."""

    name: str | None
    unit: Unit | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudWatchSettings:
    """Credentials are found by the library of AWS itself."""

    enabled: bool
    namespace: str
    dimensions: Pairs
    region: str | None
    endpoint: str | None
    """Of an emulator or a private endpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushSettings:
    """A push gateway of Prometheus. The URL may hold a password."""

    url: str = field(repr=False)
    job: str
    labels: Pairs
    """Further labels of the group that is replaced by each push."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """Part of the settings of the metrics service."""

    scheduled: bool
    every_s: float
    on_start: bool
    scrape_ttl_s: float
    """How long an answer to a scrape is good for another one."""
    mapping: Mapping[str, Renamed]
    """By source key, only keys of ``SIGNALS``."""
    cloudwatch: CloudWatchSettings
    push: PushSettings | None
    warnings: tuple[str, ...]
    """What is probably not meant, a line each."""

    @property
    def wanted(self) -> bool:
        """Whether there is anywhere to export to."""
        return self.cloudwatch.enabled or self.push is not None

    @classmethod
    def read(cls, environment: Environment, gateway: GatewayConfig) -> Self:
        """Raises ConfigurationError."""
        mapping, warnings = read_mapping(environment)
        scheduled = environment.flag("METRICS_SCHEDULER_ENABLED", False)
        cloudwatch, push = _read_cloudwatch(environment, gateway), _read_push(environment)
        return cls(
            scheduled=scheduled,
            every_s=environment.seconds("METRICS_EXPORT_INTERVAL_SEC", 30.0, minimum=5, maximum=3_600),
            on_start=environment.flag("METRICS_EXPORT_ON_START", True),
            scrape_ttl_s=environment.seconds("METRICS_PROM_SCRAPE_TTL_SEC", 10.0, minimum=0, maximum=300),
            mapping=mapping,
            cloudwatch=cloudwatch,
            push=push,
            warnings=tuple(warnings),
        )


def read_mapping(environment: Environment) -> tuple[Mapping[str, Renamed], list[str]]:
    """METRICS_MAPPING_JSON: ``{source key: {"name", "unit"}}``, or just the name; and what is to be told of it."""
    mapping: dict[str, Renamed] = {}
    warnings: list[str] = []
    said_by: dict[str, str] = {}
    for key, entry in _read_object(environment.optional(MAPPING), MAPPING).items():
        if (why := WITHOUT_SIGNAL.get(key)) is not None:
            warnings.append(f"{MAPPING}: {key} does nothing: {why}")
            continue
        source = OLDER.get(key, key)
        if source not in SIGNALS:
            raise ConfigurationError(MAPPING, _unknown(key))
        if source in said_by:
            raise ConfigurationError(MAPPING, f"{key} is the same as {said_by[source]}; keep one of them")
        said_by[source] = key
        mapping[source] = _renamed(key, source, entry)
    _check_names(mapping, said_by)
    return MappingProxyType(mapping), warnings


def gauge_name(name: str) -> str:
    """What a push gateway knows a source key, or the name given instead, by."""
    return "kdcube_" + _NOT_IN_GAUGES.sub("_", name)


def _check_names(mapping: Mapping[str, Renamed], said_by: Mapping[str, str]) -> None:
    """No two signals may come out under one name, neither in CloudWatch nor at a push gateway."""
    taken: dict[str, str] = {}
    for source, signal in SIGNALS.items():
        if source not in mapping and signal.asked:
            continue
        key, given = said_by.get(source, source), mapping[source].name if source in mapping else None
        for name in (given or signal.name, gauge_name(given or source)):
            if name in taken:
                raise ConfigurationError(MAPPING, f"{key} and {taken[name]} are both called {name}; rename one of them")
            taken[name] = key


def _unknown(key: str) -> str:
    known = [*SIGNALS, *OLDER]
    if close := difflib.get_close_matches(key[:128], known, n=1, cutoff=0.6):
        return f"{named(key)}: unknown source key; did you mean {close[0]}?"
    return f"{named(key)}: unknown source key; give one of {', '.join(SIGNALS)}"


def _renamed(key: str, source: str, entry: Any) -> Renamed:
    if isinstance(entry, str):
        entry = {"name": entry}
    if not isinstance(entry, dict):
        raise ConfigurationError(MAPPING, f'{key}: give {{"name": …, "unit": …}}, or the name alone')
    members = cast("dict[str, Any]", entry)
    for member in members:
        if member not in _MEMBERS:
            raise ConfigurationError(MAPPING, f"{key}.{named(member)}: unknown field; give name and unit")
    names = [members[member] for member in ("name", "metric", "cloudwatch_name") if members.get(member)]
    name = names[0] if names else None
    if name is not None and not (isinstance(name, str) and len(name) <= NAME_MAX_CHARS and _PRINTABLE.fullmatch(name)):
        raise ConfigurationError(
            MAPPING, f"{key}.name: give 1 to {NAME_MAX_CHARS} printable ASCII characters, not beginning with a colon"
        )
    # A dot in a name was always sent as a slash: alarms know it like that.
    return Renamed(name.replace(".", "/") if name else None, _unit(key, source, members.get("unit")))


def _unit(key: str, source: str, given: Any) -> Unit | None:
    if given is None:
        return None
    allowed = PER_UNIT[SIGNALS[source].unit]
    for unit in allowed:
        if given == unit:
            return unit
    shown = f'"{given}"' if given in [*Unit] else "unknown"
    raise ConfigurationError(MAPPING, f"{key}.unit: is {shown}; give {' or '.join(allowed)}")


def _read_cloudwatch(environment: Environment, gateway: GatewayConfig) -> CloudWatchSettings:
    wanted = environment.flag("METRICS_EXPORT_CLOUDWATCH", False)
    namespace = environment.text(NAMESPACE, "KDCube/Metrics")
    if not _NAMESPACE.fullmatch(namespace) or namespace.startswith("AWS/"):
        raise ConfigurationError(
            NAMESPACE, "give 1 to 255 letters, digits, blanks and ._-/#:, beginning with neither a colon nor AWS/"
        )
    text = environment.optional(DIMENSIONS)
    # Without dimensions two installations in one account would mix their figures.
    ours = (("tenant", gateway.tenant), ("project", gateway.project))
    dimensions = ours if text is None else _dimensions(text)
    region = environment.optional(REGION)
    of_aws, by_default = environment.optional("AWS_REGION"), environment.optional("AWS_DEFAULT_REGION")
    endpoint, any_endpoint = (
        environment.optional("AWS_ENDPOINT_URL_CLOUDWATCH"),
        environment.optional("AWS_ENDPOINT_URL"),
    )
    ask_for_credentials(environment)
    return CloudWatchSettings(
        enabled=wanted,
        namespace=namespace,
        dimensions=dimensions,
        region=region or of_aws or by_default,
        endpoint=endpoint or any_endpoint,
    )


def _dimensions(text: str) -> Pairs:
    pairs = _read_pairs(text, DIMENSIONS)
    if len(pairs) > DIMENSIONS_MAX:
        raise ConfigurationError(DIMENSIONS, f"has {len(pairs)} dimensions; give at most {DIMENSIONS_MAX}")
    for name, value in pairs:
        if len(name) > NAME_MAX_CHARS or not _PRINTABLE.fullmatch(name):
            raise ConfigurationError(
                DIMENSIONS,
                f"the name {named(name)}: give 1 to {NAME_MAX_CHARS} printable ASCII characters, "
                "not beginning with a colon",
            )
        if len(value) > VALUE_MAX_CHARS or not value.strip() or not (value.isascii() and value.isprintable()):
            raise ConfigurationError(
                DIMENSIONS, f"{name}: is {measured(value)}; give 1 to {VALUE_MAX_CHARS} printable ASCII characters"
            )
    return pairs


def _read_push(environment: Environment) -> PushSettings | None:
    wanted = environment.flag("METRICS_EXPORT_PROMETHEUS_PUSH", False)
    url = environment.secret(PUSH_URL)
    job = environment.text("METRICS_PROM_JOB_NAME", "kdcube_metrics")
    labels = _read_pairs(environment.optional(LABELS), LABELS)
    for name, value in labels:
        if not _LABEL.fullmatch(name) or name == "job":
            raise ConfigurationError(LABELS, f"{named(name)}: give letters, digits and _, and not job, as names")
        if not value:
            raise ConfigurationError(LABELS, f"{name}: is empty; remove it, or give it a value")
    if not wanted:
        return None
    if url is None:
        raise ConfigurationError(PUSH_URL, "is not set; give http://host:9091, or METRICS_EXPORT_PROMETHEUS_PUSH=0")
    return PushSettings(url=_push_url(url.get_secret_value().strip()), job=job, labels=labels)


def _push_url(text: str) -> str:
    """``host:port`` means http. Nothing of it is shown: it may hold a password."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        bad = parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment
        _ = parts.port
    except ValueError:
        bad = True
    if bad:
        raise ConfigurationError(PUSH_URL, "is no URL of a push gateway; give http(s)://[user:password@]host[:port]")
    return url.rstrip("/")


def _read_pairs(text: str | None, name: str) -> Pairs:
    """``{"tenant": "acme"}``, or as AWS writes it: ``[{"Name": "tenant", "Value": "acme"}]``."""
    document = _read(text, name)
    if isinstance(document, list):
        members: dict[str, Any] = {}
        for place, item in enumerate(cast("list[Any]", document)):
            fields = (
                {key.lower(): value for key, value in cast("dict[str, Any]", item).items()}
                if isinstance(item, dict)
                else {}
            )
            if fields.keys() != {"name", "value"} or not isinstance(fields["name"], str):
                raise ConfigurationError(name, f'{place}: give {{"Name": …, "Value": …}}')
            if fields["name"] in members:
                raise ConfigurationError(name, f"{named(fields['name'])} is given twice; keep one of them")
            members[fields["name"]] = fields["value"]
        document = members
    pairs: list[tuple[str, str]] = []
    for key, value in _object(document, name).items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ConfigurationError(name, f"{named(key)}: give a text")
        pairs.append((key, str(value)))
    return tuple(pairs)


def _read_object(text: str | None, name: str) -> dict[str, Any]:
    return _object(_read(text, name), name)


def _object(document: Any, name: str) -> dict[str, Any]:
    if not isinstance(document, dict):
        raise ConfigurationError(name, "give a JSON object")
    return cast("dict[str, Any]", document)


def _read(text: str | None, name: str) -> Any:
    if text is None:
        return {}
    try:
        return read_json(text)
    except UnreadableDocument as error:
        raise ConfigurationError(name, str(error)) from None
