"""The flow that writes the report of an existing dataset."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect, Great Expectations)

import runpy
import sys
from pathlib import Path

from prefect import flow

from flows.orchestration.secrets import storage_options
from sampling.errors import OutputError
from sampling.permissions import check_output
from tasks.publish.dataset import open_dataset
from tasks.publish.documents import as_json, read_quarantined
from tasks.publish.judge import judge_again
from validations.verdict import Verdict


@flow(name="report-dataset")
def report_dataset(dataset: str, output: str = "report.html") -> str:
    """Write report.html of a dataset; return its path.

    Args:
        dataset: A dataset's folder, or one Parquet file of this schema.
        output: The page to write.
    """
    from flows.orchestration.artifacts import show_quality

    path, verdict, title = write_page(dataset, output)
    show_quality(title, as_json(verdict), path)
    return str(path)


def write_page(dataset: str, output: str) -> tuple[Path, Verdict, str]:
    """Write the page; return its path, the verdict that it shows, the dataset's title.

    Raises SourceError, OutputError, RefusedError where the dataset is damaged.
    """
    from validations.report.page import render_report  # matplotlib takes 1 s to import

    opened = open_dataset(dataset, storage_options(dataset))
    opened.check_whole()
    verdict = judge_again(opened)
    page = render_report(opened.title, verdict, opened.manifest, read_quarantined(opened.path))
    return write_html(output, page), verdict, opened.title


def write_html(output: str, page: str) -> Path:
    """Write a page, creating its folder. Raises ForbiddenError, OutputError."""
    if "://" in output:
        raise OutputError(f"output {output!r} is a URL, and a page is written to a file; give its path with -o")
    check_output(output, "output")
    path = Path(output).expanduser()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}; give a file that can be written with -o") from error
    return path


if __name__ == "__main__":  # python flows/report.py …: the command `dual-sampling report`, which imports this file
    sys.argv.insert(1, "report")
    runpy.run_module("flows.cli", run_name="__main__")
