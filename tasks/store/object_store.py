"""A synchronous client of an S3-compatible object store, with retries.

Every call is idempotent and retried while the store does not respond. Requests run in the event-loop thread of one
`s3fs.S3FileSystem`, which all threads of a process share. Its own listings are not used: it caches them while other
machines write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

import s3fs
from fsspec.asyn import sync

from sampling.errors import OutputError
from tasks.store.durable import MAX_DOCUMENT_BYTES
from tasks.store.names import check_name
from tasks.store.s3_errors import MISSING, REFUSED, advice, error_code, is_transient, one_line

logger = logging.getLogger(__name__)

# A store that restarts is back within seconds. With the last try's 40 s, a run fails 100 s after the store is gone.
PATIENCE_S = 60.0
PAUSES_S = (0.5, 1.0, 2.0)  # between tries, the last repeated; shorter than a lease (tasks/store/lease.py)
# Three tries of 10 s with botocore's pauses of at most 3 s; one second more per MiB. botocore's read timeout does not
# apply while an upload waits for a server that has stopped reading.
CALL_S = 40.0
MIN_BYTES_PER_S = 2**20
CONFIG = {"connect_timeout": 5.0, "read_timeout": 10.0, "retries": {"mode": "standard", "max_attempts": 3}}
# Files of 32 MiB or more are sent in parts of 16 MiB, four at a time: 64 MiB of memory per file.
PART_BYTES = 16 * 2**20
MAX_PARTS_AT_ONCE = 4
MAX_LISTED = 2_000_000  # objects of one folder: 300 MB of names
MAX_DELETED_AT_ONCE = 1000  # S3's limit

Response = TypeVar("Response")


class StoredObject(NamedTuple):
    """An object's content and ETag."""

    data: bytes
    etag: str


class Store:
    """The objects under a URL, addressed by their names relative to it.

    Credentials come from the environment as botocore reads it (AWS_*, profiles, AWS_ENDPOINT_URL) or from `options`,
    s3fs's own (key, secret, endpoint_url, client_kwargs, …); neither is ever printed. Every method raises OutputError
    if the store refuses, or has not responded for `patience_s`. Pickles to a spawned process, not to a forked one.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, patience_s: float = PATIENCE_S) -> None:
        """Parse `url`, without a request. Raises OutputError if it is not an s3:// URL."""
        scheme, _, path = url.partition("://")
        self._bucket, _, prefix = path.partition("/")
        if scheme not in ("s3", "s3a") or not self._bucket:
            raise OutputError(f"{scheme}://… is no object store known here; give s3://bucket/prefix, or a folder")
        user = unquote(self._bucket)
        if "@" in user or (":" in user and "@" in unquote(path)):  # a secret key may hold a slash
            raise OutputError("an s3:// URL holds no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._options = dict(options or {})
        self._patience_s = patience_s
        self._has_conditional_writes = False
        config = {**CONFIG, **self._options.get("config_kwargs", {})}
        settings: dict[str, Any] = {**self._options, "config_kwargs": config, "use_listings_cache": False}
        self._fs = s3fs.S3FileSystem(**settings, skip_instance_cache=True)
        self._fs.retries = 1  # no retries of s3fs around botocore's: this class has its own

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url, self._options, self._patience_s)

    def with_patience(self, patience_s: float) -> Store:
        """Return the same store over the same connections, with another retry limit."""
        other = object.__new__(Store)
        other.__dict__.update(self.__dict__, _patience_s=patience_s)
        return other

    def address(self, name: str) -> str:
        """Return the URL of an object."""
        return f"{self.url}/{name}".rstrip("/")

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""
        # Not HEAD, which does not report a missing bucket nor, without the right to list, a missing object.
        return self._list(name, first=True).get(name)

    def listing(self, folder: str) -> dict[str, int]:
        """Return the sizes in bytes of all objects under a folder, keyed by their names relative to it.

        Raises OutputError for a name that would leave a local folder. Empty objects that stand for a folder, as some
        clients make them, are left out.
        """
        prefix = f"{folder}/" if folder else ""
        found = ((name.removeprefix(prefix), size) for name, size in self._list(prefix).items())
        return {
            check_name(name, self.address(folder)): size
            for name, size in found
            if size or not (name.endswith("/") or name == "")
        }

    def read(self, name: str) -> StoredObject | None:
        """Read a small object, None if there is none."""
        return self._request(name, lambda: self._get(name), expected=MISSING)

    def write(self, name: str, data: bytes) -> None:
        """Write a small object, atomically."""
        self._request(name, lambda: self._put(name, data), num_bytes=len(data))

    def write_if(self, name: str, data: bytes, etag: str | None) -> str | None:
        """Write if the object still has this ETag (None: if there is no object); return the new ETag.

        None means refused, because the object has changed. It may hold this very data, if the response to a first try
        was lost: read it to know.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        return self._request(name, lambda: self._put(name, data, **condition), expected=REFUSED)

    def remove_if(self, name: str, etag: str) -> bool:
        """Remove the object if it still has this ETag; return whether it had."""
        return self._request(name, self._call("delete_object", name, IfMatch=etag), expected=REFUSED) is not None

    def check_conditions(self, name: str, data: bytes) -> None:
        """Raise OutputError if the store ignores conditions, tested once on `name`, which holds `data`.

        Some S3-compatible stores do, and then two concurrent writers would both succeed.
        """
        if self._has_conditional_writes:
            return
        for etag, header in ((None, "If-None-Match"), ('"0"', "If-Match")):
            if self.write_if(name, data, etag) is not None:
                raise OutputError(
                    f"{self.url}: this store ignores {header}, so two runs could write the same dataset; choose one"
                    " with conditional writes, or a folder"
                )
        self._has_conditional_writes = True

    def upload(self, file: Path, name: str) -> None:
        """Upload a local file, atomically. The store verifies botocore's CRC; the size is read back."""
        size = file.stat().st_size
        options = {"chunksize": PART_BYTES, "max_concurrency": MAX_PARTS_AT_ONCE}
        self._request(name, lambda: self._fs._put_file(str(file), self._key(name), **options), num_bytes=size)
        if (found := self.size(name)) != size:
            raise OutputError(
                f"{self.address(name)} has {found} bytes, {file} has {size}: did another process write one of them?"
                " Run the same command again"
            )

    def download(self, name: str, file: Path) -> None:
        """Download an object to a local file, which is incomplete until this returns."""
        size = self.size(name)
        if size is None:
            raise OutputError(f"{self.address(name)} is gone: was it removed meanwhile? Run the same command again")
        options = {"chunksize": PART_BYTES, "max_concurrency": MAX_PARTS_AT_ONCE}
        self._request(name, lambda: self._fs._get_file(self._key(name), str(file), **options), num_bytes=size)
        if (found := file.stat().st_size) != size:
            raise OutputError(f"{self.address(name)} has {size} bytes, {found} came; run the same command again")

    def copy(self, source: str, target: str) -> None:
        """Copy an object of at most 5 GB, atomically, without its bytes passing through here."""
        from_there = {"Bucket": self._bucket, "Key": self._prefix + source}
        self._request(source, self._call("copy_object", target, CopySource=from_there))

    def remove(self, name: str) -> None:
        """Remove an object or all objects under a folder, if there are any."""
        below = [f"{name}/{inner}" if name else inner for inner in self.listing(name)]
        names = [name, *below] if name else below
        for start in range(0, len(names), MAX_DELETED_AT_ONCE):
            objects = [{"Key": self._prefix + each} for each in names[start : start + MAX_DELETED_AT_ONCE]]
            call = self._call("delete_objects", Delete={"Objects": objects, "Quiet": True})
            for error in (self._request(name, call) or {}).get("Errors", []):
                raise OutputError(f"s3://{self._bucket}/{error['Key']} cannot be removed: {error.get('Message')}")

    def _key(self, name: str) -> str:
        return f"{self._bucket}/{self._prefix}{name}"

    def _call(self, method: str, name: str | None = None, **arguments: Any) -> Callable[[], Awaitable[Any]]:
        if name is not None:
            arguments["Key"] = self._prefix + name
        return lambda: self._fs._call_s3(method, Bucket=self._bucket, **arguments)

    async def _get(self, name: str) -> StoredObject:
        response = await self._call("get_object", name)()
        async with response["Body"] as body:
            if (size := response["ContentLength"]) > MAX_DOCUMENT_BYTES:
                raise OutputError(
                    f"{self.address(name)} has {size} bytes, {MAX_DOCUMENT_BYTES} at most are read; remove it, or ask"
                    " who wrote it"
                )
            return StoredObject(await body.read(), response["ETag"])

    async def _put(self, name: str, data: bytes, **condition: str) -> str:
        response = await self._call("put_object", name, Body=data, **condition)()
        return str(response["ETag"])

    def _list(self, start: str, first: bool = False) -> dict[str, int]:
        """Return the sizes of the objects whose names begin with `start`.

        With `first`, only of the first in order, which is the one named `start` if it exists.
        """
        found: dict[str, int] = {}
        arguments: dict[str, Any] = {"Prefix": self._prefix + start, **({"MaxKeys": 1} if first else {})}
        while True:
            page = self._request(start, self._call("list_objects_v2", **arguments)) or {}
            for entry in page.get("Contents", []):
                found[entry["Key"].removeprefix(self._prefix)] = entry["Size"]
            if first or not page.get("IsTruncated"):
                return found
            if len(found) > MAX_LISTED or page["NextContinuationToken"] == arguments.get("ContinuationToken"):
                raise OutputError(
                    f"{self.address(start)} lists over {MAX_LISTED} objects, or the same ones again; give the folder of"
                    " one run or dataset"
                )
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def _request(
        self, name: str, call: Callable[[], Awaitable[Response]], *, expected: Collection[str] = (), num_bytes: int = 0
    ) -> Response | None:
        """Return the response, None for an `expected` error code; retry transient errors for `patience_s`."""
        start, num_tries = time.monotonic(), 0
        while True:
            try:
                response: Response = sync(self._fs.loop, call, timeout=CALL_S + num_bytes / MIN_BYTES_PER_S)
                return response
            except OutputError:
                raise
            except Exception as error:
                code, status = error_code(error)
                if code in expected:
                    return None
                if not is_transient(error, status):
                    if code is None and isinstance(error, OSError):
                        raise  # of the local file
                    raise OutputError(f"{self.address(name)}: {one_line(error)}; {advice(code, error)}") from error
                waited_s = time.monotonic() - start
                if waited_s >= self._patience_s:
                    raise OutputError(
                        f"{self.address(name)}: the store has not answered for {waited_s:.0f} s ({one_line(error)});"
                        " see whether it is up and AWS_ENDPOINT_URL right, then run the same command again"
                    ) from error
                if num_tries == 0:
                    logger.warning("%s does not answer (%s): asked again", self.address(name), one_line(error))
                time.sleep(PAUSES_S[min(num_tries, len(PAUSES_S) - 1)])
                num_tries += 1
