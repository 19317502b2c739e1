"""Tests of uploads to the Hub: in order, complete or without a manifest, resumed, and silent about the token."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import tasks.publish.hub.upload
from sampling.errors import ConfigurationError, PublishError, RefusedError, SourceError
from tasks.publish.hub import failures
from tasks.publish.hub.upload import upload_dataset
from tasks.publish.publish import publish_dataset
from tasks.store.durable import sha256_of
from tasks.store.manifest import MANIFEST, ListedFile
from tests.flows.conftest import write_dataset
from tests.tasks.publish.hub.server import READ_TOKEN, TOKEN, Fault, HubServer
from tests.tasks.publish.test_publish import sampled

ID = "org/name"
CARD = "---\ntags: [dual-sampling]\n---\n# A set\n"
FOR_GOOD = float("inf")
COMMIT = "POST .*/commit/"
LOAD = """
import sys
from datasets import load_dataset
rows = load_dataset(sys.argv[1], split="train", revision=sys.argv[2], cache_dir=sys.argv[3])
print(len(rows), rows[0]["completion"])
"""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """Serve an empty Hub to a user without a token."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(failures, "RETRY_DELAY_S", 0.01)
    with HubServer() as server:
        yield server
    huggingface_hub.close_session()  # its connections, with the timeout that a test may have set


def made(folder: Path, version: str = "v1", num_rows: int = 24, num_files: int = 2) -> Path:
    """Write a folder as the pipeline publishes it, with every kind of file."""
    write_dataset(folder, version, num_rows)
    (first,) = (folder / "data").iterdir()
    for i in range(1, num_files):
        path = shutil.copyfile(first, folder / "data" / f"train-{i:05d}.parquet")
        with open(path, "r+b") as file:
            file.seek(8)  # within a page, which nothing here reads
            file.write(f"{version} {i}".encode())
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "README.md").write_text(CARD + version)
    for name in ("report.html", "report.json", "quarantine.jsonl"):
        (folder / name).write_text(f"{name} of {version}")
    (folder / "data_docs" / "checks").mkdir(parents=True)
    (folder / "data_docs" / "checks" / f"{version}.html").write_text("<p>checks</p>")
    listed = [asdict(ListedFile.of(folder, path)) for path in sorted(folder.rglob("*")) if path.is_file()]
    manifest["files"] = [file for file in listed if file["path"].startswith("data/")]
    manifest["documents"] = [file for file in listed if file not in manifest["files"] and file["path"] != MANIFEST]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def upload(hub: HubServer, folder: Path, **settings: Any) -> str:
    return upload_dataset(folder, ID, **{"token": TOKEN, "private": True, "endpoint": hub.url, **settings})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def on_hub(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    commit = hub.repos[ID].at(revision)
    assert commit is not None
    return {path: data for path, data in commit.files.items() if path != ".gitattributes"}


def check_never_torn(hub: HubServer) -> None:
    """Check that each commit with a manifest holds its files, and no other data."""
    for commit in hub.repos[ID].commits:
        if "manifest.json" in commit.files:
            listed = json.loads(commit.files["manifest.json"])["files"]
            data = {path: content for path, content in commit.files.items() if path.startswith("data/")}
            found = {path: hashlib.sha256(content).hexdigest() for path, content in data.items()}
            assert found == {file["path"]: file["sha256"] for file in listed}


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_the_pipeline_publishes_arrives_and_loads(hub: HubServer, tmp_path: Path) -> None:
    folder, run = sampled(tmp_path / "out")
    publish_dataset(folder, run)
    assert upload(hub, folder.latest) == f"{hub.url}/datasets/{ID}"
    assert on_hub(hub) == on_hub(hub, folder.version) == contents(folder.published)
    again = sampled(tmp_path / "out", sampling={"seed": 5})
    publish_dataset(*again)
    upload(hub, again[0].published)
    assert on_hub(hub) == on_hub(hub, again[0].version) == contents(again[0].published)
    settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    loaded = subprocess.run(
        [sys.executable, "-c", LOAD, ID, folder.version, str(tmp_path / "cache")],
        env={**os.environ, **settings, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert loaded.stdout.split(" ")[0] == "10", loaded.stderr


def test_the_card_goes_first_and_the_manifest_last(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    (folder / "notes.txt").write_text("of no matter to the Hub")
    assert upload(hub, folder) == f"{hub.url}/datasets/{ID}"
    repo = hub.repos[ID]
    assert repo.private
    _, files, manifest = repo.commits
    assert files.operations == [
        ("file", "README.md"),
        ("lfsFile", "data/train-00000.parquet"),
        ("lfsFile", "data/train-00001.parquet"),
        ("file", "data_docs/checks/v1.html"),
        *(("file", name) for name in ("facts.json", "quarantine.jsonl", "report.html", "report.json")),
        ("file", "tokenizer.json"),
    ]
    assert manifest.operations == [("file", "manifest.json")]
    assert (files.message, manifest.message) == ("set v1: the files", "set v1: the manifest")
    assert repo.tags == {"v1": manifest.oid}
    assert on_hub(hub) == {path: data for path, data in contents(folder).items() if path != "notes.txt"}


@pytest.mark.parametrize("name", ["README.md", "report.html", "data/train-00001.parquet", "data_docs"])
def test_no_link_is_followed(hub: HubServer, tmp_path: Path, name: str) -> None:
    """A dataset of a stranger could have one that leads to a private file of this user."""
    folder = made(tmp_path / "set")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RefusedError, match=f"{name}.* is a link, or lies behind one"):
        upload(hub, folder)
    assert not hub.repos


def test_after_a_crash_between_the_commits_the_data_are_not_sent_again(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    hub.faults = [Fault(COMMIT, 500, FOR_GOOD, skip=1)]
    with pytest.raises(PublishError, match=r"org/name was not published after 5 tries: .*500.*; run the same command"):
        upload(hub, folder)
    assert "manifest.json" not in on_hub(hub)
    assert hub.repos[ID].tags == {}
    hub.faults, num_sent, num_asked = [], len(hub.sent), hub.count("objects/batch")
    upload(hub, folder)
    assert (len(hub.sent), hub.count("objects/batch")) == (num_sent, num_asked) == (2, 1)
    assert [commit.message for commit in hub.repos[ID].commits[1:]] == ["set v1: the files", "set v1: the manifest"]
    assert on_hub(hub) == on_hub(hub, "v1") == contents(folder)


def test_files_that_were_sent_before_a_crash_are_not_sent_again(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    first = sha256_of(folder / "data" / "train-00000.parquet")
    hub.faults = [Fault(f"PUT (?!/store/{first})", 400, FOR_GOOD), Fault(COMMIT, 500, FOR_GOOD)]
    with pytest.raises(ConfigurationError, match=r"the Hub refuses org/name \(Bad request"):
        upload(hub, folder)
    assert (hub.sent, on_hub(hub)) == ([first], {})
    hub.faults = []
    upload(hub, folder)
    assert (hub.sent.count(first), len(hub.sent)) == (1, 2)
    assert on_hub(hub) == contents(folder)


def test_a_newer_version_takes_the_place_of_the_older(hub: HubServer, tmp_path: Path) -> None:
    older, newer = made(tmp_path / "v1", num_files=3), made(tmp_path / "v2", "v2", num_rows=25)
    upload(hub, older)
    hub.repos[ID].commits[-1].files["LICENSE"] = b"theirs"
    hub.faults = [Fault(COMMIT, 500, FOR_GOOD, skip=1)]
    with pytest.raises(PublishError):
        upload(hub, newer)
    halfway = {path: data for path, data in contents(newer).items() if path != "manifest.json"}
    assert on_hub(hub) == {**halfway, "LICENSE": b"theirs"}
    hub.faults = []
    upload(hub, newer)
    assert on_hub(hub) == {**contents(newer), "LICENSE": b"theirs"}
    assert on_hub(hub, "v1") == {**contents(older), "LICENSE": b"theirs"}
    assert len(hub.repos[ID].commits) == 5
    check_never_torn(hub)
    upload(hub, older)  # is there, under its tag: the newer stays
    assert on_hub(hub) == {**contents(newer), "LICENSE": b"theirs"}


def test_the_same_again_sends_nothing(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    upload(hub, folder)
    hub.repos[ID].commits[-1].files["README.md"] = b"a card that its owner edited"
    num_requests = len(hub.requests)
    assert upload(hub, folder) == f"{hub.url}/datasets/{ID}"
    again = hub.requests[num_requests:]
    assert [request.split("/")[2] for request in again] == ["datasets", "datasets"]
    assert len(hub.repos[ID].commits) == 3
    assert on_hub(hub)["README.md"] == b"a card that its owner edited"


def test_without_its_tag_a_whole_dataset_is_tagged_and_no_more(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    hub.faults = [Fault("POST .*/tag/", 503, FOR_GOOD)]
    with pytest.raises(PublishError, match="503"):
        upload(hub, folder)
    hub.faults = []
    upload(hub, folder)
    assert len(hub.repos[ID].commits) == 3
    assert hub.repos[ID].tags == {"v1": hub.repos[ID].commits[-1].oid}


def test_a_version_that_the_hub_has_otherwise_is_refused(hub: HubServer, tmp_path: Path) -> None:
    upload(hub, made(tmp_path / "one"))
    before = on_hub(hub)
    with pytest.raises(ConfigurationError, match=r"another dataset under the revision 'v1'; choose another"):
        upload(hub, made(tmp_path / "two", num_rows=25))
    assert on_hub(hub) == before


def test_anothers_data_stay(hub: HubServer, tmp_path: Path) -> None:
    upload(hub, made(tmp_path / "one"))
    theirs = {"README.md": b"# Mine", "data/train.csv": b"1", "LICENSE": b""}
    hub.repos[ID].commits[-1].files = dict(theirs)
    with pytest.raises(ConfigurationError, match=r"files of another origin \(data/train.csv; .*choose another publish"):
        upload(hub, made(tmp_path / "two", "v2"))
    assert on_hub(hub) == theirs


@pytest.mark.parametrize(
    "fault",
    [
        *(
            Fault(pattern, 500)
            for pattern in (
                *("repos/create", "GET /api/datasets/org/name$", "paths-info", "tree", "objects/batch", "PUT /store"),
                *(COMMIT, "/tag/"),
            )
        ),
        Fault(COMMIT, 429, 2, headers={"Retry-After": "0"}),
        Fault("PUT /store", None),
        Fault("repos/create", 200, is_page=True),
        *(Fault(pattern, None, is_done=True) for pattern in ("repos/create", COMMIT, "/tag/")),
        Fault(COMMIT, 502, is_done=True, skip=1),
    ],
    ids=lambda fault: (
        f"{fault.pattern.strip('/$').split('/')[-1] or 'commit'}-{fault.status}{'-done' * fault.is_done}-{fault.skip}"
    ),
)
def test_transient_errors_are_retried(hub: HubServer, tmp_path: Path, fault: Fault) -> None:
    folder = made(tmp_path / "set")
    hub.faults = [fault]
    upload(hub, folder)
    assert hub.num_faults(fault) == fault.times
    assert on_hub(hub) == on_hub(hub, "v1") == contents(folder)
    assert [commit.message for commit in hub.repos[ID].commits[1:]] == ["set v1: the files", "set v1: the manifest"]
    assert sorted(hub.sent) == sorted(sha256_of(path) for path in (folder / "data").iterdir())


def test_a_server_that_does_not_respond_is_asked_again(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.publish.hub.upload, "TIMEOUT_S", 0.5)
    folder = made(tmp_path / "set")
    hub.faults = [Fault(COMMIT, 200, hang_s=1.5, is_done=True)]
    upload(hub, folder)
    assert hub.count(COMMIT) > 2
    assert on_hub(hub) == on_hub(hub, "v1") == contents(folder)
    assert len(hub.repos[ID].commits) == 3


def test_a_commit_of_someone_else_in_between_is_noticed(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    hub.between = {"data/train-00000.parquet": b"of someone else"}
    upload(hub, folder)
    assert on_hub(hub) == contents(folder)
    assert len(hub.repos[ID].commits) == 5  # the files, theirs, the files again, the manifest
    check_never_torn(hub)


@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (
            {"data/train-00001.parquet": b"cut"},
            r"train-00001.parquet has 3 bytes \(sha256 [0-9a-f]{12}…\), not \d+ bytes",
        ),
        ({"facts.json": b"{}"}, r"facts.json has 2 bytes \(blob [0-9a-f]{12}…\), not \d+ bytes"),
        (
            {"report.html": None},
            "report.html is missing; .*See that no .gitignore there hides a file, then run the same",
        ),
    ],
)
def test_a_difference_on_the_hub_prevents_the_manifest(
    hub: HubServer, tmp_path: Path, kept: dict[str, bytes | None], text: str
) -> None:
    folder = made(tmp_path / "set")
    hub.kept = kept
    with pytest.raises(PublishError, match=text):
        upload(hub, folder)
    assert "manifest.json" not in on_hub(hub)
    assert hub.repos[ID].tags == {}
    hub.kept = {}
    upload(hub, folder)
    assert on_hub(hub) == contents(folder)


def test_a_refused_dataset_is_not_sent(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "published": False}))
    with pytest.raises(RefusedError, match="was refused by the gate"):
        upload(hub, folder)
    assert ID not in hub.repos


def test_a_damaged_dataset_is_not_sent(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    with open(folder / "data" / "train-00000.parquet", "r+b") as file:
        file.seek(8)
        file.write(b"damage")
    with pytest.raises(RefusedError, match=r"train-00000.parquet has sha256 .*manifest.json lists"):
        upload(hub, folder)
    assert (hub.sent, on_hub(hub)) == ([], {})


def test_a_folder_that_is_no_dataset_is_refused(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    (folder / "manifest.json").unlink()
    with pytest.raises(ConfigurationError, match=r"holds no manifest.json"):
        upload(hub, folder)
    with pytest.raises(SourceError):
        upload(hub, tmp_path / "nowhere")
    assert hub.requests == []


def test_private_is_private(hub: HubServer, tmp_path: Path) -> None:
    folder = made(tmp_path / "set")
    upload(hub, folder, private=False)
    assert not hub.repos[ID].private
    with pytest.raises(
        ConfigurationError, match=r"org/name is public and publish.hub_private is true; make it private"
    ):
        upload(hub, made(tmp_path / "two", "v2"))
    assert on_hub(hub) == contents(folder)


@pytest.mark.parametrize("repo_id", ["name", "org/na me", "../name", ""])
def test_an_invalid_name_is_refused(hub: HubServer, tmp_path: Path, repo_id: str) -> None:
    with pytest.raises(ConfigurationError, match=r"publish.hub.* org/name"):
        upload_dataset(made(tmp_path / "set"), repo_id, token=TOKEN, private=True, endpoint=hub.url)
    assert hub.requests == []


def test_offline_mode_is_an_error(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigurationError, match=r"publish.hub is 'org/name', but HF_HUB_OFFLINE is set; unset one"):
        upload(hub, made(tmp_path / "set"))


def test_the_environments_token_is_the_default(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "set")
    with pytest.raises(
        ConfigurationError, match=r"token is missing; set HF_TOKEN, log in .*named dual-sampling-hub-token"
    ):
        upload(hub, folder, token=None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    upload(hub, folder, token=None)
    assert on_hub(hub) == contents(folder)


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("hf_unknown0123", r"does not take the token for org/name \(.*401.*\); give a valid one, by HF_TOKEN"),
        (READ_TOKEN, r"token may not write to org/name \(.*403.*\); give one with write access to it"),
        ("hf_two\nlines0123", "token has characters that no token has; set HF_TOKEN"),
        ("hf_späth0123", "token has characters that no token has; set HF_TOKEN"),
        ("", "token is missing; set HF_TOKEN"),
    ],
)
def test_an_unsuitable_token(
    hub: HubServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, token: str, text: str
) -> None:
    folder = made(tmp_path / "set")
    upload(hub, folder)
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError, match=text) as raised:
        upload(hub, made(tmp_path / "two", "v2"), token=token)
    if token:
        check_silent(raised.value, caplog, token)
    assert on_hub(hub) == contents(folder)


@pytest.mark.parametrize(
    ("pattern", "status"),
    [
        ("repos/create", 401),
        ("repos/create", None),
        ("preupload", 503),
        ("PUT /store", 503),
        (COMMIT, 401),
        (COMMIT, 503),
    ],
)
def test_the_token_is_shown_nowhere(
    hub: HubServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    status: int | None,
) -> None:
    """Not even if a server's response contains it."""
    monkeypatch.setattr(time, "sleep", lambda _: None)  # huggingface_hub's delays: 23 s a request
    hub.faults = [Fault(pattern, status, FOR_GOOD, echoes_token=True)]
    with caplog.at_level(logging.DEBUG), pytest.raises((PublishError, ConfigurationError)) as raised:
        upload(hub, made(tmp_path / "set"))
    check_silent(raised.value, caplog, TOKEN)
    if status is not None and "PUT" not in pattern:  # which is signed, and carries no token
        assert "<token>" in str(raised.value)


def check_silent(error: BaseException, caplog: pytest.LogCaptureFixture, token: str) -> None:
    assert "org/name" in caplog.text or "token" in str(error)
    output = "".join([*traceback.format_exception(error), repr(error), repr(error.args), caplog.text])
    assert token not in output
    assert token[3:15] not in output
