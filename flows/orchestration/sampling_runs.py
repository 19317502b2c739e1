"""A client of Prefect for the flow runs that sample a run's shards."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun, State, WorkerStatus
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.settings import PREFECT_API_URL
from prefect.states import Cancelled, Cancelling, Crashed

from sampling.errors import ConfigurationError
from tasks.run.folder import RunFolder
from tasks.store.durable import sha256_of

logger = logging.getLogger(__name__)

TAG_LABEL = "dual-sampling.sampled-by"  # on a run: the tag of the runs that sample for it
CANCEL_S = 20.0  # a worker notices a cancellation within seconds, and an engine's last commit is quick


def cancel_sampling(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the runs that sample for a cancelled run: a hook, because the run's process may be gone."""
    with get_client(sync_client=True) as client:
        tag = client.read_flow_run(flow_run.id).labels.get(TAG_LABEL)
        for run in _read(client, str(tag)) if tag is not None else ():
            _cancel(client, run)


class SamplingRuns:
    """The runs of a deployment for one work folder: starts, reads and cancels them.

    Every method raises httpx.HTTPError when the server does not answer.
    """

    def __init__(self, deployment: str, folder: RunFolder) -> None:
        """Raises ConfigurationError when the server has no such deployment, or no worker could ever run it."""
        self.deployment = deployment
        self._folder = folder
        self._work = folder.address(folder.work)
        self._tag = f"dual-sampling-work:{hashlib.sha256(self._work.encode()).hexdigest()[:12]}"
        self._num_started = 0
        with get_client(sync_client=True) as client:
            try:
                found = client.read_deployment_by_name(deployment)
            except ObjectNotFound:
                raise ConfigurationError(
                    f"{PREFECT_API_URL.value() or 'the temporary Prefect server'} has no deployment {deployment!r}"
                    " (shards.deployment): point PREFECT_API_URL to the server, then `prefect deploy --all`"
                ) from None
            if found.work_pool_name is None:
                raise ConfigurationError(f"{deployment} has no work pool; deploy it again from this prefect.yaml")
            self.pool = found.work_pool_name
            context = FlowRunContext.get()
            current = None if context is None else context.flow_run
            self._holds_worker = current is not None and current.work_pool_name == self.pool
            if self._holds_worker and self._num_online(client) == 1:
                raise ConfigurationError(
                    f"this run holds the only worker of the work pool {self.pool!r}, so no shard would ever be"
                    " sampled: run it in another pool (produce-dataset/produce-on-many-gpus), or shards.run_on: here"
                )
            if current is not None:
                client.update_flow_run_labels(current.id, {TAG_LABEL: self._tag})
            # An earlier run in this work folder may have been killed while the runs that it started go on.
            # Those that still wait would refuse this run's run.json where it differs.
            self._ended_before = set()
            for run in _read(client, self._tag):
                if _waits(run) or _has_ended(run):
                    _cancel(client, run)
                    self._ended_before.add(run.id)

    def num_workers(self) -> int:
        """Return how many workers of the pool are online, without the one that runs the current flow run."""
        with get_client(sync_client=True) as client:
            return max(0, self._num_online(client) - self._holds_worker)

    def start(self) -> None:
        """Start one more run, which Prefect shows below the current flow run; the run's run.json must be written."""
        self._num_started += 1
        run_sha256 = sha256_of(self._folder.work / "run.json")
        run = run_deployment(
            self.deployment,
            parameters={"work": self._work, "run_sha256": run_sha256},
            flow_run_name=f"{self._folder.name} {self._folder.version} #{self._num_started}",
            tags=[self._tag],
            timeout=0,
        )
        assert isinstance(run, FlowRun)  # a coroutine only in an event loop
        logger.info("asked %s for %s: work %s, run_sha256 %s", self.deployment, run.name, self._work, run_sha256)

    def read(self) -> list[FlowRun]:
        """Return the runs that had not ended at the beginning, and those started since."""
        with get_client(sync_client=True) as client:
            return self._read_own(client)

    def lose(self, run: FlowRun, why: str) -> None:
        """Set a run's state to Crashed: its worker, which would do so, is gone, too."""
        logger.warning("%s is lost: %s", run.name, why)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Crashed(message=why), force=True)

    def withdraw(self) -> list[FlowRun]:
        """Cancel the runs that wait for a worker; return those that have begun and not ended."""
        with get_client(sync_client=True) as client:
            return self._withdraw(client)

    def cancel(self) -> None:
        """Cancel all runs, and wait for their ends, CANCEL_S at most."""
        deadline = time.monotonic() + CANCEL_S
        with get_client(sync_client=True) as client:
            for run in self._read_own(client):
                _cancel(client, run)
            while self._withdraw(client) and time.monotonic() < deadline:
                time.sleep(0.5)

    def _withdraw(self, client: SyncPrefectClient) -> list[FlowRun]:
        runs = self._read_own(client)
        for run in filter(_waits, runs):
            _cancel(client, run)
        return [run for run in runs if not _waits(run) and not _has_ended(run)]

    def _read_own(self, client: SyncPrefectClient) -> list[FlowRun]:
        """Find the runs by their tag: the answer to a request for a run may have been lost."""
        return [run for run in _read(client, self._tag) if run.id not in self._ended_before]

    def _num_online(self, client: SyncPrefectClient) -> int:
        return sum(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(self.pool))


def _read(client: SyncPrefectClient, tag: str) -> list[FlowRun]:
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=tagged, offset=len(found)):
        found += page
    return found


def _cancel(client: SyncPrefectClient, run: FlowRun) -> None:
    """Cancel a run; its worker ends one that has begun, then sets Cancelled."""
    if not _has_ended(run):
        client.set_flow_run_state(run.id, Cancelled() if _waits(run) else Cancelling())


def _waits(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_scheduled() or run.state.is_pending())


def _has_ended(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()
