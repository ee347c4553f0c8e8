"""How a gRPC channel to a service of Google's behaves, for every backend that opens one."""

from __future__ import annotations

from typing import Any

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A service that is back is found in seconds; by itself gRPC waits for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # In truth the least time that a connection may take to be made, TLS included; by itself 20 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]
