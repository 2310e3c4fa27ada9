"""The schemas of order events, by their ids at the stack's registry, for peers that decode."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.peers.avro_decode import Decoder
from bench.stack import Stack
from schemas.orders import ORDERS
from tidelog.avro import avro_schema
from tidelog.registry.client import RegistryClient
from tidelog.wire import events_topic


def order_schemas(stack: Stack, prefix: str) -> dict[int, Any]:
    """Every event type's schema; it is registered already."""
    registry = RegistryClient(stack.registry)
    found = {}
    for kind in ORDERS.event_types:
        name = ORDERS.full_name(kind)
        schema = json.loads(json.dumps(avro_schema(kind, name)))
        subject = f"{events_topic(ORDERS.name, prefix)}-{name}"
        found[registry.register(subject, json.dumps(schema))] = schema
    registry.close()
    return found


def order_decoder(stack: Stack, prefix: str) -> Decoder:
    """A decoder of order events."""
    return Decoder(order_schemas(stack, prefix))


def save_schemas(stack: Stack, prefix: str) -> Path:
    """The schemas as a file, for a process that cannot ask our registry."""
    path = stack.folder / f"{prefix}schemas.json"
    path.write_text(json.dumps(order_schemas(stack, prefix)))
    return path
