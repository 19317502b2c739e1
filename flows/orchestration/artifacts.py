"""The Prefect artifacts of a run: its progress; its dataset's verdict, checks, metrics, cost and address."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextvars import copy_context
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext

from tasks.publish.documents import REPORT

logger = logging.getLogger(__name__)

# An update takes 9 ms, 2 of them in this process, and adds an event to the server's database: 17,000 a day for two.
UPDATE_EVERY_S = 10.0
TIMEOUT_S = 30.0  # of one request, which only the sending thread waits for
CLOSE_S = 5.0  # for the last updates: a server that is gone must not hold a finished run


def show_quality(title: str, report: Mapping[str, Any], page: str | Path | None) -> None:
    """Create a verdict's artifacts; `report` is `tasks.publish.documents.as_json` of it, `page` its report.html."""
    key = key_of(title)
    create_markdown_artifact(_verdict(title, report), key=f"{key}-verdict", description=f"Verdict on {escaped(title)}")
    create_table_artifact(
        [{"figure": _cell(name), "value": value} for name, value in report["figures"].items()],
        key=f"{key}-figures",
        description=f"Figures of {escaped(title)}",
    )
    create_table_artifact(
        [
            {name: _cell(check[name]) for name in ("suite", "name", "outcome", "limit", "value", "meaning", "why")}
            for check in report["checks"]
        ],
        key=f"{key}-checks",
        description=f"Checks of {escaped(title)}",
    )
    if page is not None:
        create_link_artifact(uri_of(page), key=f"{key}-report", link_text="report.html")


def show_cost(title: str, manifest: Mapping[str, Any], dataset: str | Path) -> None:
    """Create the artifacts of a dataset's cost over all attempts and resumed runs, its quarantine, its address.

    `manifest` is its manifest.json; `dataset` its folder or URL.
    """
    key, cost, reasons = key_of(title), _cost(manifest), manifest["quarantine"]
    quarantine = [
        {"reason": _cell(reason), "num": num} for reason, num in sorted(reasons.items(), key=lambda item: -item[1])
    ]
    create_table_artifact(
        [{"what": what, "value": _cell(value)} for what, value in cost.items()],
        key=f"{key}-cost",
        description=f"Cost of {escaped(title)}, over all attempts",
    )
    if quarantine:
        create_table_artifact(
            quarantine, key=f"{key}-quarantine", description=f"Left out of {escaped(title)}, by reason"
        )
    lines = [
        f"# {escaped(title)}: what it cost",
        _table(("what", "value"), cost.items()),
        "## Left out",
        _table(("reason", "rows"), reasons.items()) if reasons else "Nothing.",
        "## Where it is",
        f"- dataset: [{escaped(str(dataset))}]({uri_of(dataset)})",
        f"- report: [{escaped(REPORT)}]({uri_of(dataset)}/{REPORT})",
    ]
    create_markdown_artifact("\n\n".join(lines), key=f"{key}-run", description=f"Cost and place of {escaped(title)}")
    create_link_artifact(uri_of(dataset), key=f"{key}-dataset", link_text=escaped(str(dataset).rpartition("/")[2]))


class ProgressArtifacts:
    """A thread that sends the progress artifacts of the current flow run.

    Prefect's own functions for them block, and raise, where its server is slow or gone; this neither delays nor fails
    the run.
    """

    def __init__(self) -> None:
        context = FlowRunContext.get()
        assert context is not None, "called within a flow run"
        assert context.flow_run is not None
        self._flow_run_id = context.flow_run.id
        self._waiting: dict[str, ArtifactCreate] = {}  # the latest of each key
        self._ids: dict[str, UUID] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._send_regularly,), daemon=True)
        self._thread.start()

    def put(self, key: str, percent: float, text: str, task_run_id: UUID | None = None) -> None:
        """Queue an artifact's next content, in place of what is queued for the key."""
        artifact = ArtifactCreate(
            key=key,
            type="progress",
            data=percent,
            description=text,
            flow_run_id=self._flow_run_id,
            task_run_id=task_run_id,
        )
        with self._lock:
            self._waiting[key] = artifact

    def close(self) -> None:
        """Send what is queued, or drop it after CLOSE_S."""
        self._closed.set()
        self._thread.join(CLOSE_S)

    def _send_regularly(self) -> None:
        # Settings of its own make it a client of its own: the flow's is used by the flow's thread.
        with get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True) as client:
            closed = warned = False
            while not closed:
                closed = self._closed.wait(UPDATE_EVERY_S)
                with self._lock:
                    waiting, self._waiting = self._waiting, {}
                try:
                    for key in list(waiting):
                        self._send(client, key, waiting[key])
                        del waiting[key]
                except Exception as error:  # a failure of Prefect's never ends the run
                    if not warned:
                        logger.warning("Prefect takes no progress: %s", error)
                    warned = True
                    with self._lock:
                        self._waiting = waiting | self._waiting

    def _send(self, client: SyncPrefectClient, key: str, artifact: ArtifactCreate) -> None:
        # Removed first, and put back on success: an artifact that somebody has deleted is created again.
        id_ = self._ids.pop(key, None)
        if id_ is None:
            id_ = client.create_artifact(artifact).id
        else:
            client.update_artifact(id_, ArtifactUpdate(data=artifact.data, description=artifact.description))
        self._ids[key] = id_


def _cost(manifest: Mapping[str, Any]) -> dict[str, int | float | None]:
    """Return tokens, engine seconds without loading, speeds, attempts; None where nothing was timed."""
    engine = manifest["engine"]
    total_s = engine.get("total_s")
    return {
        "rows": manifest["num_rows"],
        "rows quarantined": sum(manifest["quarantine"].values()),
        "tokens drawn": engine.get("num_tokens"),
        "tokens drawn from the teacher as fallback": engine.get("num_fallback"),
        "engine, s": _rounded(total_s),
        "theta, s": _rounded(engine.get("theta_s")),
        "teacher, s": _rounded(engine.get("teacher_s")),
        "mixing, s": _rounded(engine.get("mixing_s")),
        "tokens/s": _rounded(engine["num_tokens"] / total_s) if total_s else None,
        "rows/s": _rounded(manifest["num_rows"] / total_s) if total_s else None,
        "attempts at shards": manifest["num_attempts"],
        "damaged parts, sampled again": manifest["num_damaged_parts"],
    }


def uri_of(address: str | Path) -> str:
    """Return a path as a file:// link, a URL as it is."""
    return address if isinstance(address, str) and "://" in address else Path(address).resolve().as_uri()


def key_of(title: str) -> str:
    """Return a title as an artifact's key: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "dataset"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [
        head,
        ["---"] * len(head),
        *([escaped("" if value is None else str(value)) for value in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _verdict(title: str, report: Mapping[str, Any]) -> str:
    lines = [f"# {escaped(title)}: {'passed' if report['passed'] else 'refused'}"]
    for heading, items in (("Refused for", report["refusals"]), ("Warnings", report["warnings"])):
        if items:
            lines += [f"## {heading}", *(f"- {escaped(item)}" for item in items)]
    return "\n\n".join(lines)


def escaped(text: str) -> str:
    """Return text on one line with Markdown's characters escaped; a value in it may come from the dataset."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", " ".join(text.split()))


def _cell(value: Any) -> str | int | float | bool:
    """Return a value of a table's cell, which Prefect's pages show as Markdown and HTML."""
    if isinstance(value, str):
        return re.sub(r"([\\`<>\[\]!&])", r"\\\1", value)
    return "" if value is None else value
