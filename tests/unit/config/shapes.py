"""Valid configurations of the gateway in every shape in which they may be written."""

from __future__ import annotations

from hypothesis import strategies as st

from kdcube.config.profiles import Profile
from kdcube.config.resolution import SECTIONS
from kdcube.config.sections import COMPONENTS

rate = st.fixed_dictionaries({}, optional={"hourly": st.integers(-1, 9), "burst": st.integers(-1, 9)})
fields = {
    "service_capacity": {"processes_per_instance": st.integers(1, 9), "avg_processing_time_seconds": st.floats(0.5, 9)},
    "backpressure": {"capacity_buffer": st.floats(0, 0.9), "capacity_source_component": st.sampled_from(["proc"])},
    "rate_limits": {"anonymous": rate, "paid": rate},
    "pools": {"pg_pool_max_size": st.integers(1, 9), "pg_max_connections": st.none() | st.integers(9, 90)},
    "limits": {"max_queue_size": st.integers(0, 9), "max_page_items": st.integers(1, 9)},
    "redis": {"sse_stats_ttl_seconds": st.integers(1, 9)},
}
patterns = st.lists(st.sampled_from(["^/a", "b$", "c.*d"]), max_size=3)


def section(name: str) -> st.SearchStrategy[dict]:
    flat = st.fixed_dictionaries({}, optional=fields[name])
    if name == "rate_limits":
        flat = flat | flat.map(lambda roles: {"roles": roles})
    spelled = {spelling: flat for spellings in COMPONENTS.values() for spelling in spellings[:2]}
    members = st.fixed_dictionaries({}, optional=spelled).filter(
        lambda given: not ({"ingress", "rest"} <= set(given) or {"proc", "processor"} <= set(given))
    )
    return st.tuples(flat, members).map(lambda both: {**both[0], **both[1]})


documents = st.fixed_dictionaries(
    {"tenant": st.just("acme"), "project_id": st.just("support")},
    optional={
        "profile": st.sampled_from([profile.value for profile in Profile]),
        **{name: section(name) for name in SECTIONS},
        "guarded_rest_patterns": patterns
        | st.fixed_dictionaries({}, optional={"ingress": patterns, "worker": patterns}),
    },
)
