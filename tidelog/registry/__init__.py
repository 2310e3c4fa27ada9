"""The schema registry: a built-in server that speaks Confluent's REST API, and its client.

Run the server with `python -m tidelog.registry`. Everything else asks through the port
`SchemaRegistry`: `RegistryClient` over HTTP, `MemoryRegistry` in tests and simulation.
"""

from tidelog.registry.canonical import fingerprint
from tidelog.registry.client import RegistryClient
from tidelog.registry.errors import ErrorCode, RegistryRefusal, SchemaRefused
from tidelog.registry.lints import check_schema
from tidelog.registry.memory import MemoryRegistry
from tidelog.registry.port import SchemaRegistry

__all__ = [
    "ErrorCode",
    "MemoryRegistry",
    "RegistryClient",
    "RegistryRefusal",
    "SchemaRefused",
    "SchemaRegistry",
    "check_schema",
    "fingerprint",
]
