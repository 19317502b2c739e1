"""Fixtures of the commands and flows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli import main as cli
from tasks.store.durable import sha256_of
from tests.flows.commands import Run
from tests.tasks.runs import make_config
from tests.validations.tables import made_rows, to_table, write_known, written


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run_main(*argv: str | Path) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = cli.main([str(arg) for arg in argv])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return code, *capfd.readouterr()

    return run_main


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder as the pipeline publishes it: 24 rows, of which nothing is wrong."""
    return write_dataset(tmp_path / "set", "v1")


def write_dataset(folder: Path, version: str, num_rows: int = 24) -> Path:
    """Data, facts, manifest; the report is left out."""
    (folder / "data").mkdir(parents=True)
    (path,) = written(folder / "data", to_table(made_rows(num_rows)))
    write_known(folder)
    config = make_config(folder, validation={"eos_rate_min": 0.5}).model_dump(mode="json")
    files = [{"path": f"data/{path.name}", "sha256": sha256_of(path)}]
    manifest = {
        "published": True,
        "name": "set",
        "version": version,
        "config": config,
        "files": files,
        "figures": {},
        "quarantine": {},
        "source": {"num_rows": num_rows},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
