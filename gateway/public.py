"""What every answer to the public has: headers for browsers, and which other sites may read it."""

from __future__ import annotations

import re
from typing import Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tidelog.errors import ConfigurationError

HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    ),
)
"""Answers are data; of pages there are the documents, which have styles and nothing else."""

REQUEST_HEADERS: Final = (
    "Authorization", "Consistency-Token", "Content-Type", "Idempotency-Key", "If-Match",
    "If-None-Match", "Last-Event-ID", "Prefer", "traceparent", "X-Correlation-Id",
)  # fmt: skip
ANSWER_HEADERS: Final = (
    "Cache-Status", "Consistency-Token", "ETag", "Idempotency-Key", "Link", "Location", "RateLimit",
    "RateLimit-Policy", "Retry-After", "X-As-Of", "X-Correlation-Id",
)  # fmt: skip
PREFLIGHT_S: Final = 600

_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")


class BrowserHeaders:
    """Adds the headers to whatever is answered; what an answer says itself holds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # What one caller was answered is kept for no other one, and asked for anew each time.
        reads = scope["method"] in ("GET", "HEAD")
        caching = (b"cache-control", b"private, no-cache" if reads else b"no-store")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                there = {name.lower() for name, _ in headers}
                headers += [pair for pair in (*HEADERS, caching) if pair[0] not in there]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, with_headers)


def open_to_public(app: FastAPI, origins: str) -> None:
    """Put the headers around the app; `origins` are those of other sites, with commas."""
    listed = [origin.strip() for origin in origins.split(",") if origin.strip()]
    for origin in listed:
        if not _ORIGIN.fullmatch(origin):
            raise ConfigurationError(
                f"TIDELOG_GATEWAY_CORS_ORIGINS: {origin} is no origin, such as https://shop.example"
            )
    if listed:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=listed,
            allow_methods=["GET", "HEAD", "POST"],
            allow_headers=list(REQUEST_HEADERS),
            expose_headers=list(ANSWER_HEADERS),
            allow_credentials=False,  # a token is sent on purpose, never by the browser itself
            max_age=PREFLIGHT_S,
        )
    app.add_middleware(BrowserHeaders)
