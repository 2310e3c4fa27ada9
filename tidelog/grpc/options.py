"""How our channels and servers speak gRPC, whoever opens them."""

from __future__ import annotations

from typing import Final

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024

CHANNEL_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),  # our processes are neighbours, never behind somebody's proxy
    ("grpc.enable_retries", 0),  # whoever calls knows what may be sent twice
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
)
