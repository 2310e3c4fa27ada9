"""What can be wrong with an HTTP request before any command is looked at.

TidelogError
├── Unauthorized          401   no token, or one that does not hold
├── Forbidden             403   a token without the scope
├── MethodNotAllowed      405   the path exists, but not for this method
├── RequestTimeout        408   the request did not arrive in time
├── ContentTooLarge       413   the body is larger than the bound
├── UnsupportedMediaType  415   a content type or encoding that is not read here
├── PreconditionRequired  428   If-Match is required and missing
├── QuotaExceeded         429   the caller has as many of something as it may have
├── HeadersTooLarge       431   the header block is larger than the bound
└── InternalError         500   whatever went wrong on our side, in public
"""

from __future__ import annotations

from typing import ClassVar

from tidelog.errors import TidelogError


class Unauthorized(TidelogError):
    """The request carries no token, or one that does not hold. Get a new token and send it."""

    status = 401
    title = "Not authenticated"


class Forbidden(TidelogError):
    """The token is good, but it lacks the scope that this request needs."""

    status = 403
    title = "Not allowed"


class MethodNotAllowed(TidelogError):
    """The path exists, but not for this method; the Allow header names those that work."""

    status = 405
    title = "Method not allowed"

    def __init__(self, allow: str) -> None:
        super().__init__(f"This path takes {allow} only.")
        self.allow = allow


class RequestTimeout(TidelogError):
    """The request did not arrive in time. Nothing was done; send it again, faster."""

    status = 408
    title = "The request took too long to arrive"


class ContentTooLarge(TidelogError):
    """The body is larger than the bound. Nothing was done; split it."""

    status = 413
    title = "The body is too large"


class UnsupportedMediaType(TidelogError):
    """The content type or content encoding is not one that this path reads."""

    status = 415
    title = "Unsupported media type"


class PreconditionRequired(TidelogError):
    """This service asks for If-Match on every command. Read the version and send it."""

    status = 428
    title = "If-Match is required"


class QuotaExceeded(TidelogError):
    """The caller has as many of something as it may have. Give one back, or try again later."""

    status = 429
    retry = True
    title = "Too many at once"
    retry_after_s: ClassVar[int] = 5


class HeadersTooLarge(TidelogError):
    """The request line and headers together are larger than the bound."""

    status = 431
    title = "The headers are too large"


class InternalError(TidelogError):
    """Something went wrong on our side. Whether the command was carried out is not known.

    Send it again with the same Idempotency-Key: that tells, and changes nothing twice.
    """


HTTP_ERRORS: tuple[type[TidelogError], ...] = (
    Unauthorized,
    Forbidden,
    MethodNotAllowed,
    RequestTimeout,
    ContentTooLarge,
    UnsupportedMediaType,
    PreconditionRequired,
    QuotaExceeded,
    HeadersTooLarge,
)
