"""A run on the pages of Prefect: how far it is; its dataset's checks, figures, cost, place."""

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

# An update takes 9 ms, 2 of them this process's, and leaves an event in the server's database: 17,000 a day for two.
UPDATE_EVERY_S = 10.0
TIMEOUT_S = 30.0  # of one call; nobody waits for it
CLOSE_S = 5.0  # what the last updates are waited for; a server that is gone must not hold a finished run


def show_quality(title: str, report: Mapping[str, Any], page: str | Path | None) -> None:
    """Make the artifacts of the current run; `report` is what `tasks.publish.documents.as_json` gives of a verdict."""
    key = key_of(title)
    create_markdown_artifact(_markdown(title, report), key=f"{key}-verdict", description=f"Verdict on {title}")
    create_table_artifact(
        [{"figure": name, "value": value} for name, value in report["figures"].items()],
        key=f"{key}-figures",
        description=f"Figures of {title}",
    )
    create_table_artifact(
        [
            {name: _cell(check[name]) for name in ("suite", "name", "outcome", "limit", "value", "meaning", "why")}
            for check in report["checks"]
        ],
        key=f"{key}-checks",
        description=f"Checks of {title}",
    )
    if page is not None:
        create_link_artifact(uri_of(page), key=f"{key}-report", link_text="report.html")


def show_cost(title: str, manifest: Mapping[str, Any], dataset: str | Path) -> None:
    """Make the artifacts of what a dataset cost, over all attempts and resumed runs, of what it lacks, of where it is.

    `manifest` is its manifest.json; `dataset` the folder, or the URL, that it lies at.
    """
    key, cost, reasons = key_of(title), cost_of(manifest), manifest["quarantine"]
    quarantine = [{"reason": reason, "num": num} for reason, num in sorted(reasons.items(), key=lambda item: -item[1])]
    create_table_artifact(
        [{"what": what, "value": _cell(value)} for what, value in cost.items()],
        key=f"{key}-cost",
        description=f"Cost of {title}, over all attempts",
    )
    if quarantine:
        create_table_artifact(quarantine, key=f"{key}-quarantine", description=f"Left out of {title}, by reason")
    lines = [
        f"# {_escaped(title)}: what it cost",
        _table(("what", "value"), cost.items()),
        "## Left out",
        _table(("reason", "rows"), reasons.items()) if reasons else "Nothing.",
        "## Where it is",
        f"- dataset: [{_escaped(str(dataset))}]({uri_of(dataset)})",
        f"- report: [{_escaped(REPORT)}]({uri_of(dataset)}/{REPORT})",
    ]
    create_markdown_artifact("\n\n".join(lines), key=f"{key}-run", description=f"Cost and place of {title}")
    create_link_artifact(uri_of(dataset), key=f"{key}-dataset", link_text=str(dataset).rpartition("/")[2])


class ProgressArtifacts:
    """Progress artifacts of the current flow run, sent by a thread of their own.

    Prefect's server, slow or gone, neither delays nor fails the run.
    """

    def __init__(self) -> None:
        context = FlowRunContext.get()
        assert context is not None, "shown on the pages of a flow run"
        assert context.flow_run is not None
        self._flow_run_id = context.flow_run.id
        self._waiting: dict[str, ArtifactCreate] = {}  # the latest of each key
        self._ids: dict[str, UUID] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=copy_context().run, args=(self._send_regularly,), daemon=True)
        self._thread.start()

    def put(self, key: str, percent: float, text: str, task_run_id: UUID | None = None) -> None:
        """Take what an artifact is to show; what it was to show before is dropped."""
        page = ArtifactCreate(
            key=key,
            type="progress",
            data=percent,
            description=text,
            flow_run_id=self._flow_run_id,
            task_run_id=task_run_id,
        )
        with self._lock:
            self._waiting[key] = page

    def close(self) -> None:
        """Send what waits, or give it up after CLOSE_S."""
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
                except Exception as error:  # whatever is the matter with Prefect, the run goes on
                    if not warned:
                        logger.warning("Prefect takes no progress: %s", error)
                    warned = True
                    with self._lock:
                        self._waiting = waiting | self._waiting

    def _send(self, client: SyncPrefectClient, key: str, page: ArtifactCreate) -> None:
        # Taken out, and back where it goes well: an artifact that somebody has deleted is made again.
        artifact = self._ids.pop(key, None)
        if artifact is None:
            artifact = client.create_artifact(page).id
        else:
            client.update_artifact(artifact, ArtifactUpdate(data=page.data, description=page.description))
        self._ids[key] = artifact


def cost_of(manifest: Mapping[str, Any]) -> dict[str, int | float | None]:
    """Tokens, seconds of the engine (its loading is not among them), speeds, attempts; None where nothing was timed."""
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


def uri_of(place: str | Path) -> str:
    """A folder's or a file's link; a URL is one."""
    return place if isinstance(place, str) and "://" in place else Path(place).resolve().as_uri()


def key_of(title: str) -> str:
    """A title as Prefect takes it for an artifact's key."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "dataset"


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *([_escaped(str(_cell(value))) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _markdown(title: str, report: Mapping[str, Any]) -> str:
    lines = [f"# {_escaped(title)}: {'passed' if report['passed'] else 'refused'}"]
    for heading, found in (("Refused for", report["refusals"]), ("Warnings", report["warnings"])):
        if found:
            lines += [f"## {heading}", *(f"- {_escaped(line)}" for line in found)]
    return "\n\n".join(lines)


def _escaped(text: str) -> str:
    """Text that Markdown does not take for its own; a value in it may come from the dataset."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", " ".join(text.split()))


def _cell(value: Any) -> str | int | float | bool:
    return "" if value is None else value
