"""An in-memory S3 for fast tests: the part of `s3fs.S3FileSystem` that `tasks.store.object_store.Store` calls.

s3 = MemoryS3()
mirror = s3.mirror("s3://bucket/prefix", folder)
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError
from fsspec.asyn import get_loop
from s3fs.errors import translate_boto_error

from tasks.store.mirror import Mirror
from tests.tasks.store.s3 import BUCKET, PAGE

REFUSED = ("PreconditionFailed", 412)


class StreamingBody:
    """The streaming body of a response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aenter__(self) -> StreamingBody:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def read(self) -> bytes:
        return self._data


class MemoryS3:
    """Requests run one at a time, in fsspec's event-loop thread, so that conditional writes are atomic."""

    def __init__(self) -> None:
        self.loop = get_loop()
        self.objects: dict[str, tuple[bytes, str]] = {}  # content and ETag by key
        self.requests: list[tuple[str, str]] = []  # method and key
        self.ignored_condition: str | None = None  # of a store without conditional writes
        self.before: Callable[[str, str], None] = lambda method, key: None  # may raise: the request is not executed
        self.after: Callable[[str, str], None] = lambda method, key: None  # may raise: the response is lost
        self._etags = count()

    def mirror(self, url: str, local: Path, patience_s: float = 60.0) -> Mirror:
        """Create a mirror that sends its requests here."""
        mirror = Mirror(url, local, {}, patience_s)
        mirror.store._fs = self
        return mirror

    async def _call_s3(self, method: str, *, Bucket: str, Key: str = "", **arguments: Any) -> Any:
        self.requests.append((method, Key))
        self.before(method, Key)
        if Bucket != BUCKET:
            raise client_error("NoSuchBucket", 404, "The specified bucket does not exist")
        if condition := {"IfMatch", "IfNoneMatch"} & arguments.keys() - {self.ignored_condition}:
            etag = self.objects[Key][1] if Key in self.objects else None
            if etag != (arguments["IfMatch"] if condition == {"IfMatch"} else None):
                raise client_error(*REFUSED)
        response = getattr(self, f"_{method}")(Key, **arguments)
        self.after(method, Key)
        return response

    async def _put_file(self, local: str, path: str, **_: Any) -> None:
        await self._call_s3("put_object", **_split(path), Body=Path(local).read_bytes())

    async def _get_file(self, path: str, local: str, **_: Any) -> None:
        response = await self._call_s3("get_object", **_split(path))
        Path(local).write_bytes(response["Body"]._data)

    def _put_object(self, key: str, Body: bytes, **_: str) -> dict[str, str]:
        etag = f'"{next(self._etags)}-{len(Body)}"'
        self.objects[key] = Body, etag
        return {"ETag": etag}

    def _get_object(self, key: str) -> dict[str, Any]:
        if key not in self.objects:
            raise client_error("NoSuchKey", 404)
        data, etag = self.objects[key]
        return {"Body": StreamingBody(data), "ETag": etag, "ContentLength": len(data)}

    def _copy_object(self, key: str, CopySource: dict[str, str]) -> dict[str, str]:
        self.objects[key] = self.objects[CopySource["Key"]]
        return {}

    def _delete_object(self, key: str, **_: str) -> dict[str, str]:
        del self.objects[key]
        return {}

    def _delete_objects(self, _: str, Delete: dict[str, Any]) -> dict[str, Any]:
        for each in Delete["Objects"]:
            self.objects.pop(each["Key"], None)
        return {}

    def _list_objects_v2(
        self, _: str, Prefix: str, MaxKeys: int = PAGE, ContinuationToken: str = ""
    ) -> dict[str, Any]:  # fmt: skip
        keys = sorted(key for key in self.objects if key.startswith(Prefix) and key > ContinuationToken)
        page = keys[:MaxKeys]
        contents = [{"Key": key, "Size": len(self.objects[key][0])} for key in page]
        is_truncated = len(keys) > len(page)
        return {"Contents": contents, "IsTruncated": is_truncated, "NextContinuationToken": page[-1] if page else ""}


class Clock:
    """A stand-in for the `time` module: `sleep` advances it at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.on_sleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.on_sleep()


def client_error(code: str, status: int, message: str = "what S3 says") -> BaseException:
    """Return an error response as s3fs raises it."""
    response: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: BaseException = translate_boto_error(ClientError(response, "Operation"))
    return error


def _split(path: str) -> dict[str, str]:
    bucket, _, key = path.partition("/")
    return {"Bucket": bucket, "Key": key}
