"""An object store as the pipeline asks it.

S3, with whatever speaks its protocol. Every call is retried while the store does not answer, and is idempotent, so that
asking twice does no harm; conditional writes say so where the answer to the first try may have been lost.

An `s3fs.S3FileSystem` carries the requests in its own event loop's thread: one is shared by all threads of a process.
Its listings are never asked of it, because it remembers them while other machines write.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import s3fs
from fsspec.asyn import sync

from sampling.errors import OutputError
from tasks.store.refusals import MISSING, REFUSED, is_silence, refusal, said, what_to_do

logger = logging.getLogger(__name__)

# A store that restarts is back within seconds. With the last try's 40 s a run hears within 100 s that it is gone.
PATIENCE_S = 60.0
PAUSES_S = (0.5, 1.0, 2.0)  # between tries; the last is repeated: an observer's lease is longer (tasks/store/lease.py)
# Three tries of 10 s, with botocore's pauses of at most 3 s; a second more for each MiB. botocore's own read timeout
# does not count while an upload waits for a server that has stopped reading.
CALL_S = 40.0
MIN_BYTES_PER_S = 2**20
CONFIG = {"connect_timeout": 5.0, "read_timeout": 10.0, "retries": {"mode": "standard", "max_attempts": 3}}
# Files from 32 MiB on go in parts of 16 MiB, four at a time: 64 MiB of memory a file.
PART_BYTES = 16 * 2**20
MAX_PARTS_AT_ONCE = 4
MAX_DELETED_AT_ONCE = 1000  # S3's own limit

Answer = TypeVar("Answer")


class Stored(NamedTuple):
    """An object's content with the tag that a conditional write names."""

    data: bytes
    tag: str


class Store:
    """The objects below a URL, by their names relative to it.

    Credentials come from the environment as botocore reads it (AWS_*, profiles, AWS_ENDPOINT_URL), or from `options`,
    s3fs's own (key, secret, endpoint_url, client_kwargs, …); neither is ever shown. Every method raises OutputError
    when the store refuses, or has not answered for `patience_s`. It can be sent to a spawned process, not to a forked
    one.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None, patience_s: float = PATIENCE_S) -> None:
        """Nothing is asked yet. Raises OutputError for a URL that is no store's."""
        scheme, _, place = url.partition("://")
        self._bucket, _, prefix = place.partition("/")
        if scheme not in ("s3", "s3a") or not self._bucket:
            raise OutputError(f"{scheme}://… is no object store known here; give s3://bucket/prefix, or a folder")
        if "@" in self._bucket:
            raise OutputError("an s3:// URL holds no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.url = f"s3://{self._bucket}/{self._prefix}".rstrip("/")
        self._options = dict(options or {})
        self._patience_s = patience_s
        self._keeps_conditions = False
        config = {**CONFIG, **self._options.get("config_kwargs", {})}
        settings: dict[str, Any] = {**self._options, "config_kwargs": config, "use_listings_cache": False}
        self._fs = s3fs.S3FileSystem(**settings, skip_instance_cache=True)
        self._fs.retries = 1  # s3fs's own, around botocore's: this class has its own

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.url, self._options, self._patience_s)

    def with_patience(self, patience_s: float) -> Store:
        """The same store over the same connections, asked again for another time."""
        other = object.__new__(Store)
        other.__dict__.update(self.__dict__, _patience_s=patience_s)
        return other

    def address(self, name: str) -> str:
        """The URL of an object."""
        return f"{self.url}/{name}".rstrip("/")

    def size(self, name: str) -> int | None:
        """Bytes of an object, None where there is none."""
        # Not HEAD, which says neither that the bucket is missing nor, without the right to list, that the object is.
        return self._list(name, first=True).get(name)

    def listing(self, folder: str) -> dict[str, int]:
        """Bytes of every object below a folder, by their names relative to it."""
        prefix = f"{folder}/" if folder else ""
        return {name.removeprefix(prefix): size for name, size in self._list(prefix).items()}

    def read(self, name: str) -> Stored | None:
        """A small object whole, None where there is none."""
        return self._ask(name, lambda: self._get(name), expected=MISSING)

    def write(self, name: str, data: bytes) -> None:
        """Write a small object; it is whole under its name, or not there."""
        self._ask(name, lambda: self._put(name, data), num_bytes=len(data))

    def write_if(self, name: str, data: bytes, tag: str | None) -> str | None:
        """Write where the object still has this tag (None: where there is none); its new tag.

        None: refused, because the object is another one now. That may be this very data, when the store's answer to a
        first try was lost: read it to know.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        return self._ask(name, lambda: self._put(name, data, **condition), expected=REFUSED)

    def remove_if(self, name: str, tag: str) -> bool:
        """Remove an object that still has this tag; whether it had."""
        call = self._call("delete_object", name, IfMatch=tag)
        return self._ask(name, call, expected=REFUSED) is not None

    def check_conditions(self, name: str, data: bytes) -> None:
        """Raises OutputError where this store ignores conditions; `name` holds `data`. Asked once.

        Some stores that speak S3's protocol do, and then two that write at once both believe that they have won.
        """
        if self._keeps_conditions:
            return
        for tag in (None, '"0"'):
            if self.write_if(name, data, tag) is not None:
                raise OutputError(
                    f"{self.url}: this store ignores {'If-Match' if tag else 'If-None-Match'}, so two runs could write"
                    " the same dataset; choose one with conditional writes, or a folder"
                )
        self._keeps_conditions = True

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file; it is whole under its name, or not there.

        The store compares it with the CRC that botocore sends; its size is read back.
        """
        size = file.stat().st_size
        options = {"chunksize": PART_BYTES, "max_concurrency": MAX_PARTS_AT_ONCE}
        self._ask(name, lambda: self._fs._put_file(str(file), self._key(name), **options), num_bytes=size)
        if (found := self.size(name)) != size:
            raise OutputError(
                f"{self.address(name)} has {found} bytes, {file} has {size}: did another process write one of them?"
                " Run the same command again"
            )

    def download(self, name: str, file: Path) -> None:
        """Copy an object to a local file, which is not whole before this returns."""
        size = self.size(name)
        if size is None:
            raise OutputError(f"{self.address(name)} is gone: was it removed meanwhile? Run the same command again")
        options = {"chunksize": PART_BYTES, "max_concurrency": MAX_PARTS_AT_ONCE}
        self._ask(name, lambda: self._fs._get_file(self._key(name), str(file), **options), num_bytes=size)
        if (found := file.stat().st_size) != size:
            raise OutputError(f"{self.address(name)} has {size} bytes, {found} came; run the same command again")

    def remove(self, name: str) -> None:
        """Remove an object, or all below a folder; nothing there is no error."""
        below = [f"{name}/{inner}" if name else inner for inner in self.listing(name)]
        names = [name, *below] if name else below
        for start in range(0, len(names), MAX_DELETED_AT_ONCE):
            objects = [{"Key": self._prefix + each} for each in names[start : start + MAX_DELETED_AT_ONCE]]
            request = {"Objects": objects, "Quiet": True}
            answer = self._ask(name, self._call("delete_objects", Delete=request))
            for error in (answer or {}).get("Errors", []):
                raise OutputError(f"s3://{self._bucket}/{error['Key']} cannot be removed: {error.get('Message')}")

    def _key(self, name: str) -> str:
        return f"{self._bucket}/{self._prefix}{name}"

    def _call(self, method: str, name: str | None = None, **arguments: Any) -> Callable[[], Awaitable[Any]]:
        if name is not None:
            arguments["Key"] = self._prefix + name
        return lambda: self._fs._call_s3(method, Bucket=self._bucket, **arguments)

    async def _get(self, name: str) -> Stored:
        answer = await self._call("get_object", name)()
        async with answer["Body"] as body:
            return Stored(await body.read(), answer["ETag"])

    async def _put(self, name: str, data: bytes, **condition: str) -> str:
        answer = await self._call("put_object", name, Body=data, **condition)()
        tag: str = answer["ETag"]
        return tag

    def _list(self, start: str, first: bool = False) -> dict[str, int]:
        """Bytes of the objects whose names start so; or of the first of them, which has just that name if any has."""
        found: dict[str, int] = {}
        arguments: dict[str, Any] = {"Prefix": self._prefix + start, **({"MaxKeys": 1} if first else {})}
        while True:
            page = self._ask(start, self._call("list_objects_v2", **arguments)) or {}
            for entry in page.get("Contents", []):
                found[entry["Key"].removeprefix(self._prefix)] = entry["Size"]
            if first or not page.get("IsTruncated"):
                return found
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def _ask(
        self,
        name: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        expected: Collection[str] = (),
        num_bytes: int = 0,
    ) -> Answer | None:
        """The answer, None for a refusal that is `expected`; asked again while there is none."""
        start, num_tries = time.monotonic(), 0
        while True:
            try:
                answer: Answer = sync(self._fs.loop, call, timeout=CALL_S + num_bytes / MIN_BYTES_PER_S)
                return answer
            except Exception as error:
                code, status = refusal(error)
                if code in expected:
                    return None
                if not is_silence(error, status):
                    if code is None and isinstance(error, OSError):
                        raise  # of the local file
                    advice = what_to_do(code, error)
                    raise OutputError(f"{self.address(name)}: {said(error)}; {advice}") from error
                waited_s = time.monotonic() - start
                if waited_s >= self._patience_s:
                    raise OutputError(
                        f"{self.address(name)}: the store has not answered for {waited_s:.0f} s ({said(error)}); see"
                        " whether it is up and AWS_ENDPOINT_URL right, then run the same command again"
                    ) from error
                if num_tries == 0:
                    logger.warning("%s does not answer (%s): asked again", self.address(name), said(error))
                time.sleep(PAUSES_S[min(num_tries, len(PAUSES_S) - 1)])
                num_tries += 1
