"""A classification of S3 client errors: expected, transient or final, with advice for the user."""

from __future__ import annotations

import aiohttp
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

# S3's error codes; the numbers are botocore's codes for a response without a body.
MISSING = frozenset({"NoSuchKey", "404"})
REFUSED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409", *MISSING})
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidToken", "RequestExpired"})
NO_RESPONSE = (
    boto.ConnectionError, boto.HTTPClientError, ResponseParserError, aiohttp.ClientError, ConnectionError, TimeoutError,
)  # fmt: skip
NO_RIGHT = (PermissionError, boto.NoCredentialsError, boto.PartialCredentialsError, boto.ProfileNotFound)


def error_code(error: BaseException) -> tuple[str | None, int]:
    """Return S3's error code and HTTP status, which s3fs keeps in the cause; (None, 0) if S3 sent none."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return response["Error"].get("Code"), response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return None, 0


def is_transient(error: BaseException, status: int) -> bool:
    """Return whether a retry may help: no response, a broken one, or an overloaded server."""
    if isinstance(error, boto.SSLError):
        return False  # a certificate that is not trusted now will not be later
    return status >= 500 or status == 429 or isinstance(error, NO_RESPONSE)


def one_line(error: BaseException) -> str:
    """Return the error's message in one line, without the errno that s3fs makes up."""
    if isinstance(error, TimeoutError) and not str(error):
        return "timed out"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def advice(code: str | None, error: BaseException) -> str:
    """Return the user's next step after a final error."""
    if code == "NoSuchBucket":
        return "create the bucket, or correct the URL"
    if code in EXPIRED:
        return "the session's credentials have expired: get new ones, then run the same command again"
    if isinstance(error, NO_RIGHT):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE, or the Prefect Secret block"
            " dual-sampling-storage) of somebody who may list, read, write and delete there"
        )
    return "correct the URL, AWS_ENDPOINT_URL or AWS_DEFAULT_REGION"
