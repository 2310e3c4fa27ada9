"""Who may do what in Kafka: one principal per service, and only the owner writes events.

`grants_of` is the whole rule, as a list; the rest asks and tells a cluster. A cluster must have an
authorizer, and must refuse what no rule allows (`allow.everyone.if.no.acl.found` off, its default).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
)
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType

from tidelog.errors import Unavailable
from tidelog.kafka.security import refusal
from tidelog.wire import commands_topic, events_topic

REQUEST_TIMEOUT_S: Final = 10.0
CLUSTER: Final = "kafka-cluster"
OWNER: Final = "command_service"
READERS: Final = ("projectors", "sagas", "effects", "notifications", "live_metrics", "operator")
"""Who reads events; `operator` is whoever uses the command line."""

PRINCIPALS: Final = ("registry", OWNER, *READERS)
GROUPS: Final[Mapping[str, str]] = {
    OWNER: "command-service",
    "projectors": "tidelog-projectors-",
    "sagas": "tidelog-sagas",
    "effects": "tidelog-effects",
    "notifications": "tidelog-notifications",
    "live_metrics": "tidelog-live-metrics-",
}
"""The consumer groups that a service joins; a name that ends in a dash is a beginning of names.

Whoever may Read a group may Describe it: so the instances of the owner find one another.
"""

_KINDS: Final = {
    "topic": ResourceType.TOPIC,
    "group": ResourceType.GROUP,
    "transactional-id": ResourceType.TRANSACTIONAL_ID,
    "cluster": ResourceType.BROKER,
}
_WRITING: Final = frozenset({AclOperation.WRITE, AclOperation.ALL})


class Grant(NamedTuple):
    """One principal may do one thing, from any host. A name that ends in `*` is a beginning."""

    principal: str
    operation: str
    kind: str
    name: str


def grants_of(contexts: Sequence[str], prefix: str, principals: Mapping[str, str]) -> list[Grant]:
    """Every right that a system needs, and no other. `principals` names that of each service."""
    events = [events_topic(context, prefix) for context in contexts]
    commands = [commands_topic(context, prefix) for context in contexts]
    owner, registry, relay = (principals[name] for name in (OWNER, "registry", "sagas"))
    schemas = f"{prefix}_schemas"
    return [
        # The registry's own log.
        *_each(registry, ("Create", "DescribeConfigs", "Read", "Write"), "topic", [schemas]),
        *_each(registry, ("Describe", "Write"), "transactional-id", [f"{schemas}-writer"]),
        # The owner: the one writer of events. Its two transactional ids per partition are fenced
        # by it alone, and nobody else may even initialise them.
        *_each(owner, ("Create", "Read", "Write"), "topic", [*events, *commands]),
        *_each(owner, ("Describe", "Write"), "transactional-id", [f"{name}-*" for name in events]),
        # Both write the marker that a broker forgot (ADR 16).
        Grant(registry, "Alter", "cluster", CLUSTER),
        Grant(owner, "Alter", "cluster", CLUSTER),
        # Everybody else reads; the sagas' relay sends commands, those of the effects too.
        *(
            grant
            for reader in READERS
            for grant in _each(principals[reader], ("Read",), "topic", events)
        ),
        *_each(relay, ("Write",), "topic", commands),
        *_each(principals["operator"], ("Read",), "topic", [*commands, schemas]),
        *(
            Grant(principals[member], "Read", "group", _beginning(f"{prefix}{group}"))
            for member, group in GROUPS.items()
        ),
        # Whoever reads without a group names one all the same, and the client asks for it.
        Grant(registry, "Describe", "group", f"{schemas}-reader"),
        Grant(owner, "Describe", "group", f"tidelog-replay-{prefix}*"),
        *(
            Grant(principals[reader], "Describe", "group", f"{prefix}tidelog-*")
            for reader in READERS
        ),
        Grant(principals["operator"], "Describe", "group", "*"),
    ]


def standing(admin: AdminClient) -> list[AclBinding]:
    """Every rule of the cluster. Raises Unavailable, also where it has no authorizer."""
    anything: Any = None
    every = AclBindingFilter(
        ResourceType.ANY,
        anything,
        ResourcePatternType.ANY,
        anything,
        anything,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    try:
        return list(admin.describe_acls(every, request_timeout=REQUEST_TIMEOUT_S).result())
    except KafkaException as error:
        raise _unavailable("Kafka does not tell who may do what", error) from error


def missing(grants: Iterable[Grant], rules: Iterable[AclBinding]) -> list[Grant]:
    """The grants for which there is no rule."""
    known = set(rules)
    return [grant for grant in grants if _binding(grant) not in known]


def give(admin: AdminClient, grants: Sequence[Grant]) -> None:
    """Make these rules; one that is there already stays. Raises Unavailable."""
    if not grants:
        return
    asked = admin.create_acls(
        [_binding(grant) for grant in grants], request_timeout=REQUEST_TIMEOUT_S
    )
    for made in asked.values():
        try:
            made.result()
        except KafkaException as error:
            raise _unavailable("Kafka does not take the rule", error) from error


def other_writers(
    contexts: Sequence[str], prefix: str, owner: str, rules: Iterable[AclBinding]
) -> list[str]:
    """Whoever else a rule allows to write events, as sentences. Denials are not weighed."""
    events = [events_topic(context, prefix) for context in contexts]
    return sorted(
        f"{rule.principal} may write {topic}"
        for rule in rules
        for topic in events
        if rule.restype is ResourceType.TOPIC
        and rule.permission_type is AclPermissionType.ALLOW
        and rule.operation in _WRITING
        and rule.principal != owner
        and _covers(rule, topic)
    )


def _each(
    principal: str, operations: Iterable[str], kind: str, names: Iterable[str]
) -> list[Grant]:
    return [Grant(principal, each, kind, name) for name in names for each in operations]


def _beginning(name: str) -> str:
    return f"{name}*" if name.endswith("-") else name


def _binding(grant: Grant) -> AclBinding:
    begins = grant.name.endswith("*") and grant.name != "*"
    return AclBinding(
        _KINDS[grant.kind],
        grant.name.removesuffix("*") if begins else grant.name,
        ResourcePatternType.PREFIXED if begins else ResourcePatternType.LITERAL,
        grant.principal,
        "*",
        _operation(grant.operation),
        AclPermissionType.ALLOW,
    )


def _operation(name: str) -> AclOperation:
    """`DescribeConfigs` as the library writes it."""
    return AclOperation["DESCRIBE_CONFIGS" if name == "DescribeConfigs" else name.upper()]


def _covers(rule: AclBinding, topic: str) -> bool:
    name = str(rule.name)
    if rule.resource_pattern_type is ResourcePatternType.PREFIXED:
        return topic.startswith(name)
    return name in ("*", topic)


def _unavailable(what: str, error: KafkaException) -> Unavailable:
    first: Any = error.args[0]
    return Unavailable(f"{what}: {refusal(first) or first.str()}")
