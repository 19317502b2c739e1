"""A deployment's parameters neither run code nor write files where the worker's environment forbids it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.report import write_html
from flows.run import open_run
from flows.sample_shards import _sample_shards
from sampling.errors import ForbiddenError, OutputError
from sampling.permissions import CODE, OUTPUT
from tasks.config import PipelineConfig
from tests.flows.small_run import config_of

MARKER = "ran"
CODE_OF = f"""
from pathlib import Path
Path({MARKER!r}).touch()
from transformers import Qwen3Config
from tasks.source.example import Example
class Config(Qwen3Config): ...  # of its own: transformers marks the class that it loads
class Adapter:
    reference_columns = ("answer",)
    def example(self, row):
        return Example(str(row["question"]), row["answer"])
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module that notes that it was imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(CODE, raising=False)
    monkeypatch.setattr("os.environ", os.environ.copy())  # what a run sets in it ends with the test
    Path("named_by_the_row.py").write_text(CODE_OF)
    return tmp_path


def with_adapter(config: PipelineConfig) -> dict[str, Any]:
    return {"source": config.source.model_copy(update={"adapter": "named_by_the_row:Adapter"})}


def with_remote_code(config: PipelineConfig) -> dict[str, Any]:
    """Theta, whose folder brings its configuration's class."""
    own = Path.cwd() / f"theta_{Path.cwd().name}"  # transformers imports a folder's module once a name
    shutil.copytree(config.models.theta.model, own)
    (own / "own.py").write_text(CODE_OF)
    values = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**values, "auto_map": {"AutoConfig": "own.Config"}}))
    theta = config.models.theta.model_copy(update={"model": str(own), "trust_remote_code": True})
    return {"models": config.models.model_copy(update={"theta": theta})}


@pytest.mark.parametrize("change", [with_adapter, with_remote_code])
@pytest.mark.parametrize(
    ("is_deployment", "value", "runs"),
    [(True, None, False), (True, "0", False), (True, "1", True), (False, None, True), (False, "0", False)],
)
def test_code_that_a_configuration_names(
    change: Any,
    is_deployment: bool,
    value: str | None,
    runs: bool,
    folder: Path,
    tiny_pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(folder, tiny_pair)
    config = config.model_copy(update=change(config))
    monkeypatch.setenv("HF_MODULES_CACHE", str(folder / "modules"))
    monkeypatch.delitem(sys.modules, "named_by_the_row", raising=False)
    if is_deployment:
        monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "5")  # as prefect.runtime's documentation has it
    if value is not None:
        monkeypatch.setenv(CODE, value)
    if runs:
        open_run(config)
    else:
        with pytest.raises(ForbiddenError, match=rf"(named_by_the_row:Adapter'|trust_remote_code) .*{CODE} is 0"):
            open_run(config)
        assert os.environ[CODE] == "0"  # and the engine's process inherits it
    assert Path(MARKER).exists() == runs


def test_places_that_a_configuration_names(
    folder: Path, tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OUTPUT, str(folder / "out"))
    config = config_of(folder, tiny_pair)
    Path("out").mkdir()
    open_run(config)  # publish.root is out
    for root in (str(folder / "elsewhere"), "out/../elsewhere", "s3://bucket/out"):
        with pytest.raises(ForbiddenError, match=r"publish\.root"):
            open_run(config.model_copy(update={"publish": config.publish.model_copy(update={"root": root})}))
    Path("out/shells").symlink_to(folder / "elsewhere")
    with pytest.raises(ForbiddenError, match=r"publish.root '.*/out/shells/\.work/"):
        open_run(config)
    with pytest.raises(ForbiddenError, match="work '/elsewhere"):
        _sample_shards("/elsewhere/a/.work/b")
    with pytest.raises(ForbiddenError, match=r"output '\.\./report\.html'"):
        write_html("../report.html", "page")
    for root in ("s3://bucket/out", ""):
        monkeypatch.setenv(OUTPUT, root)
        for output in (
            "s3://bucket/out/x.html",
            "S3://bucket/out/x",
            "s3a://bucket/out/a/b.html",
            "file:///tmp/x.html",
        ):
            with pytest.raises(OutputError, match="is a URL, and a page is written to a file"):
                write_html(output, "page")
    assert {path.name for path in folder.iterdir()} == {"out", "named_by_the_row.py", "rows.jsonl"}
