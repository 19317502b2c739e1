"""What the environment of a process permits a configuration to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampling.config import ModelConfig
from sampling.errors import ForbiddenError, ServerError
from sampling.permissions import CODE, OUTPUT, SERVERS, check_code, check_output
from sampling.served.config import HttpConfig
from sampling.served.connect import connect


@pytest.mark.parametrize(("value", "allowed"), [(None, True), ("1", True), (" 1 ", True), ("0", False)])
def test_code_runs_unless_the_environment_says_no(
    value: str | None, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CODE, raising=False)
    if value is not None:
        monkeypatch.setenv(CODE, value)
    if allowed:
        check_code("source.adapter 'a:B'")
        return
    with pytest.raises(
        ForbiddenError, match=r"^source.adapter 'a:B' runs code .* DUAL_SAMPLING_ALLOW_CODE is 0 .* to 1"
    ):
        check_code("source.adapter 'a:B'")


@pytest.mark.parametrize("value", ["", "true", "yes", "2", "off"])
def test_a_word_that_is_neither_0_nor_1_forbids(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CODE, value)
    with pytest.raises(ForbiddenError, match="set it to 0 or 1"):
        check_code("it")


@pytest.mark.parametrize(
    ("root", "address", "allowed"),
    [
        ("out", "out", True),
        ("out", "out/deep/er", True),
        ("out/", "./out/../out/x", True),
        ("out", "inside/x", True),  # a link into it
        ("out", "out/leaving/x", False),  # a link out of it
        ("out", "out/leaving", False),
        ("out", "out/../other", False),
        ("out", "output", False),  # the same beginning
        ("out", ".", False),
        ("out", "/etc", False),
        ("out", "~/x", False),
        ("out", "~nobody-of-that-name/x", False),
        ("out", "out/circle/x", False),
        ("out", "out/\0", False),
        ("out", "s3://bucket/out", False),
        ("out", "file:///tmp/out", False),
        ("s3://bucket", "s3://bucket/x", True),
        ("s3://bucket/p/", "s3://bucket/p", True),
        ("s3://bucket/p", "s3a://bucket/p/x/", True),
        ("s3://bucket/p", "S3://bucket/p/x", True),
        ("s3://bucket/p", "s3://bucket/prefix", False),
        ("s3://bucket/p", "s3://bucket/p/../x", False),
        ("s3://bucket/p", "s3://bucket/p//x", False),
        ("s3://bucket/p", "s3://bucket2/p/x", False),
        ("s3://bucket/p", "gs://bucket/p/x", False),
        ("s3://bucket/p", "bucket/p/x", False),
        ("", "/etc", True),
    ],
)
def test_output_lies_below_the_root(
    root: str, address: str, allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("out", "other"):
        Path(name).mkdir()
    Path("inside").symlink_to("out")
    Path("out/leaving").symlink_to("../other")
    Path("out/circle").symlink_to("circle")
    monkeypatch.setenv(OUTPUT, root)
    if allowed:
        check_output(address, "publish.root")
        return
    with pytest.raises(
        ForbiddenError, match=r"^publish.root '.*' lies outside of '.*', which DUAL_SAMPLING_OUTPUT_ROOT"
    ):
        check_output(address, "publish.root")


@pytest.mark.parametrize(
    ("servers", "url", "allowed"),
    [
        ("", "http://127.0.0.1:9", True),
        (" http://127.0.0.1:9/v1 , https://b:1", "HTTP://127.0.0.1:9", True),
        ("http://127.0.0.1:90", "http://127.0.0.1:9", False),
        ("https://127.0.0.1:9", "http://127.0.0.1:9", False),  # the key would be read on its way
        ("http://127.0.0.1:9", "http://127.0.0.1:9.evil.invalid", False),
        ("http://127.0.0.1:9", "http://evil.invalid/http://127.0.0.1:9", False),
    ],
)
def test_a_server_that_the_environment_does_not_name_is_not_asked(
    servers: str, url: str, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SERVERS, servers)
    model = ModelConfig(model="a", url=url)
    with pytest.raises((ForbiddenError, ServerError)) as caught:  # no such server answers
        connect(model, model, HttpConfig(retries=0, request_timeout_s=0.5))
    assert (caught.type is ServerError) == allowed
    if not allowed:
        assert str(caught.value).startswith(f"the server {url!r} of a model is none of those that {SERVERS} ")
