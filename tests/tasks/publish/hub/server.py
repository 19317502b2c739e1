"""A local HTTP server with the Hub's API for dataset repositories, in memory.

It answers the requests of huggingface_hub, without Xet: its store is LFS.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, READ_TOKEN = "hf_WritesHere0123456789abcdefABCDEF", "hf_ReadsOnly0123456789abcdefABCDEF"
LFS_BYTES = 10 << 20  # as on the Hub: larger files, and those with this suffix, are LFS
LFS_SUFFIX = ".parquet"
PAGE = 4  # entries of a tree in one response, so that every listing has several


@dataclass
class Fault:
    """An error of the requests that match `pattern` ("METHOD /path"), after the first `skip` of them."""

    pattern: str
    status: int | None = None  # None: the connection is reset
    times: float = 1  # float("inf"): always
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    is_done: bool = False  # the request is carried out, and its response lost
    hang_s: float = 0.0  # delay before that
    echoes_token: bool = False  # in the response's body, as a careless proxy does
    is_page: bool = False  # HTML in place of a response


@dataclass
class Commit:
    """`files` after it; `operations` in order: (kind, path)."""

    oid: str
    message: str
    operations: list[tuple[str, str]]
    files: dict[str, bytes]


@dataclass
class Repo:
    """`commits` of its one branch, the oldest first; `tags` with their commits' ids."""

    repo_id: str
    private: bool
    commits: list[Commit]
    tags: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit | None:
        oid = self.commits[-1].oid if revision == "main" else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit.oid == oid), None)


class Refusal(Exception):
    """A response other than 200."""

    def __init__(self, status: int, message: str, code: str = "", **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


class HubServer:
    """A server at `url` while the context is entered, with a record of all requests and uploads."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.store: dict[str, bytes] = {}  # LFS, by sha256
        self.requests: list[str] = []  # "METHOD /path", in order
        self.sent: list[str] = []  # sha256 of each LFS file's upload
        self.faults: list[Fault] = []
        self.kept: dict[str, bytes | None] = {}  # replaces a path's committed content; None: ignores the path
        self.between: dict[str, bytes] = {}  # files that someone else commits right after the next commit
        self._seen: Counter[int] = Counter()
        self._lock = threading.RLock()
        self._http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def fault(self, request: str) -> Fault | None:
        """Count the request; return its fault."""
        with self._lock:
            for fault in self.faults:
                if re.search(fault.pattern, request):
                    self._seen[id(fault)] += 1
                    if fault.skip < self._seen[id(fault)] <= fault.skip + fault.times:
                        return fault
        return None

    def num_faults(self, fault: Fault) -> int:
        """Return how often a fault occurred."""
        return int(min(max(self._seen[id(fault)] - fault.skip, 0), fault.times))

    def count(self, pattern: str) -> int:
        """Return the number of requests that match."""
        return sum(re.search(pattern, request) is not None for request in self.requests)

    def answer(self, method: str, url: str, token: str | None, body: bytes) -> tuple[Any, dict[str, str]]:
        """Return JSON, or a file's bytes, with further headers. Raises Refusal."""
        path, query = unquote(urlsplit(url).path), parse_qs(urlsplit(url).query)
        if method == "PUT" and (put := re.fullmatch("/store/([0-9a-f]{64})", path)):
            return self._put(put[1], body)  # signed elsewhere: no token
        if token not in (TOKEN, READ_TOKEN):
            raise Refusal(401, "Invalid credentials in Authorization header" if token else "Unauthorized")
        if method in ("POST", "PUT") and token == READ_TOKEN and not re.search("paths-info|validate-yaml", path):
            raise Refusal(403, "You don't have the required permissions")
        if path == "/api/validate-yaml":
            return {"warnings": []}, {}
        if path == "/api/repos/create":
            return self._create(**json.loads(body))
        for pattern, answer in (
            ("/api/datasets/([^/]+/[^/]+?)(?:/revision/([^/]+))?", self._info),
            ("/api/datasets/([^/]+/[^/]+)/preupload/([^/]+)", self._preupload),
            ("/datasets/([^/]+/[^/]+).git/info/lfs/objects/(batch)", self._batch),
            ("/api/datasets/([^/]+/[^/]+)/commit/([^/]+)", self._commit),
            ("/api/datasets/([^/]+/[^/]+)/tree/([^/]+)(?:/(.+))?", self._tree),
            ("/api/datasets/([^/]+/[^/]+)/paths-info/([^/]+)", self._paths_info),
            ("/api/datasets/([^/]+/[^/]+)/tag/([^/]+)", self._tag),
            ("/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self._resolve),
        ):
            if found := re.fullmatch(pattern, path):
                name, *rest = found.groups()
                if name not in self.repos:
                    raise Refusal(404, "Repository not found", "RepoNotFound")
                answered, headers = answer(self.repos[name], *rest, body=body, query=query)
                if "Link" in headers:
                    headers = {"Link": f'<{self.url}{path}?{headers["Link"]}>; rel="next"'}
                return answered, headers
        raise Refusal(404, f"this server has no {method} {path}")

    def _create(self, name: str, organization: str, type: str, visibility: str = "public") -> Any:
        assert type == "dataset"
        repo_id = f"{organization}/{name}"
        url = f"{self.url}/datasets/{repo_id}"
        if repo_id in self.repos:
            raise Refusal(409, "You already created this dataset repo", url=url)
        first = Commit(_oid("first", repo_id), "initial commit", [], {".gitattributes": b"*.parquet filter=lfs\n"})
        self.repos[repo_id] = Repo(repo_id, visibility == "private", [first])
        return {"url": url}, {}

    def _info(self, repo: Repo, revision: str | None, **_: Any) -> Any:
        commit = _at(repo, revision or "main")
        card = commit.files.get("README.md", b"").decode()
        header = yaml.safe_load(card.split("---")[1]) if card.startswith("---") else {}
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        info = {"id": repo.repo_id, "sha": commit.oid, "private": repo.private, "siblings": siblings}
        return {**info, "tags": ["region:us", *header.get("tags", [])], "cardData": header}, {}

    def _preupload(self, repo: Repo, revision: str, *, body: bytes, **_: Any) -> Any:
        there = _at(repo, revision).files
        files = []
        for file in json.loads(body)["files"]:
            path = file["path"]
            is_lfs = path.endswith(LFS_SUFFIX) or file["size"] > LFS_BYTES
            held = _entry(path, there[path])["lfs" if is_lfs else "oid"] if path in there else None
            oid = held["oid"] if isinstance(held, dict) else held
            mode = {
                "uploadMode": "lfs" if is_lfs else "regular",
                "shouldIgnore": path in self.kept and self.kept[path] is None,
            }
            files.append({"path": path, "oid": oid, **mode})
        return {"files": files}, {}

    def _batch(self, repo: Repo, _what: str, *, body: bytes, **_: Any) -> Any:
        objects = json.loads(body)["objects"]
        for asked in objects:
            if asked["oid"] not in self.store:
                asked["actions"] = {"upload": {"href": f"{self.url}/store/{asked['oid']}"}}
        return {"transfer": "basic", "objects": objects}, {}

    def _put(self, oid: str, body: bytes) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refusal(400, "the content is not of this sha256")
        self.store[oid] = body
        self.sent.append(oid)
        return {}, {}

    def _commit(self, repo: Repo, revision: str, *, body: bytes, **_: Any) -> Any:
        header, *lines = [json.loads(line) for line in body.splitlines()]
        parent = _at(repo, revision)
        if header["value"].get("parentCommit", parent.oid) != parent.oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files, operations = dict(parent.files), []
        for line in lines:
            kind, value = line["key"], line["value"]
            path = value["path"]
            operations.append((kind, path))
            if kind == "file":
                files[path] = base64.b64decode(value["content"])
            elif kind == "lfsFile":
                if value["oid"] not in self.store:
                    raise Refusal(400, f"{path} was not uploaded")
                files[path] = self.store[value["oid"]]
            elif kind == "deletedFile" and path in files:
                del files[path]
            else:
                raise Refusal(404, f"{kind} {path}: A file with this name doesn't exist", "EntryNotFound")
        files |= {path: data for path, data in self.kept.items() if path in files and data is not None}
        commit = Commit(_oid(parent.oid, str(operations)), header["value"]["summary"], operations, files)
        repo.commits.append(commit)
        if self.between:
            other = {**files, **self.between}
            repo.commits.append(Commit(_oid(commit.oid, "between"), "someone else's", [], other))
            self.between = {}
        return {"commitUrl": f"{self.url}/datasets/{repo.repo_id}/commit/{commit.oid}", "commitOid": commit.oid}, {}

    def _tree(self, repo: Repo, revision: str, folder: str | None, *, query: dict[str, list[str]], **_: Any) -> Any:
        inside = f"{folder}/" if folder else ""
        names = {
            path: _entry(path, data) for path, data in _at(repo, revision).files.items() if path.startswith(inside)
        }
        for path in list(names):
            for i, char in enumerate(path):
                if char == "/" and i > len(inside):
                    names[path[:i]] = {"type": "directory", "path": path[:i], "oid": _oid(path[:i]), "size": 0}
        if query.get("recursive") != ["true"]:
            names = {path: entry for path, entry in names.items() if "/" not in path[len(inside) :]}
        if folder and not names:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        start = int(query.get("cursor", ["0"])[0])
        entries = [names[path] for path in sorted(names)]
        following = f"recursive={query.get('recursive', ['false'])[0]}&cursor={start + PAGE}"
        return entries[start : start + PAGE], {"Link": following} if start + PAGE < len(entries) else {}

    def _paths_info(self, repo: Repo, revision: str, *, body: bytes, **_: Any) -> Any:
        files = _at(repo, revision).files
        return [_entry(path, files[path]) for path in parse_qs(body.decode())["paths"] if path in files], {}

    def _tag(self, repo: Repo, revision: str, *, body: bytes, **_: Any) -> Any:
        tag = json.loads(body)["tag"]
        if tag in repo.tags:
            raise Refusal(409, "Tag reference exists already")
        repo.tags[tag] = _at(repo, revision).oid
        return {}, {}

    def _resolve(self, repo: Repo, revision: str, path: str, **_: Any) -> Any:
        commit = _at(repo, revision)
        if path not in commit.files:
            raise Refusal(404, f"{path} does not exist", "EntryNotFound")
        return commit.files[path], {"X-Repo-Commit": commit.oid, "ETag": f'"{_oid(str(commit.files[path]))}"'}


def _oid(*parts: str) -> str:
    return hashlib.sha1("\0".join(parts).encode()).hexdigest()


def _at(repo: Repo, revision: str) -> Commit:
    if (commit := repo.at(revision)) is None:
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return commit


def _entry(path: str, data: bytes) -> dict[str, Any]:
    """Return a file as the Hub lists it; the oid of an LFS file is its pointer's."""
    blob = data
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
    if path.endswith(LFS_SUFFIX) or len(data) > LFS_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        blob = f"version https://git-lfs\noid sha256:{sha256}\nsize {len(data)}\n".encode()
        entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": len(blob)}
    return {**entry, "oid": hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()}


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Ignore a client that closed the connection."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def _serve(self) -> None:
        body = self._body()
        request = f"{self.command} {self.path}"
        self.hub.requests.append(request)
        token = (self.headers["Authorization"] or "").removeprefix("Bearer ") or None
        fault = self.hub.fault(request)
        if fault is not None:
            time.sleep(fault.hang_s)
        try:
            if fault is not None and not fault.is_done:
                raise Refusal(
                    fault.status or 0, "a fault was asked for", error=f"of {token if fault.echoes_token else 0}"
                )
            with self.hub._lock:
                answer, headers = self.hub.answer(self.command, self.path, token, body)
            status, data = 200, answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            if fault is not None:
                status = fault.status or 0
        except Refusal as refusal:
            status, data = refusal.status, json.dumps(refusal.body).encode()
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": str(refusal)}
        if fault is not None and fault.is_page:
            status, data = fault.status or 0, b"<html>Bad gateway</html>"
        if not status:
            # SO_LINGER of 0 s: closing sends RST, which the other side reads as a reset connection.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.send_response(status)
        extra = fault.headers if fault is not None else {}
        for name, value in {**headers, **extra, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _body(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
