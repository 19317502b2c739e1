"""The flow runs that sample a run's shards, as Prefect knows them."""

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

logger = logging.getLogger(__name__)

TAG_LABEL = "dual-sampling.sampled-by"  # of a run: the tag of those that sample for it
CANCEL_S = 20.0  # a worker hears of it within seconds, and an engine's last commit is quick


def cancel_sampling(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Cancel the runs that sample for a run which was cancelled: a hook, for its process may have had no time to."""
    with get_client(sync_client=True) as client:
        tag = client.read_flow_run(flow_run.id).labels.get(TAG_LABEL)
        for run in _read(client, str(tag)) if tag is not None else ():
            _cancel(client, run)


class SamplingRuns:
    """Starts runs of a deployment for one work folder, watches them, cancels them.

    Every method raises httpx.HTTPError when the server does not answer.
    """

    def __init__(self, deployment: str, folder: RunFolder) -> None:
        """Raises ConfigurationError when the server has no such deployment, or no worker could ever run it."""
        self.deployment = deployment
        self._folder = folder
        work = hashlib.sha256(folder.address(folder.work).encode()).hexdigest()
        self._num_started = 0
        self._tag = f"dual-sampling-work:{work[:12]}"
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
            own = _own_run()
            self._holds_worker = own is not None and own.work_pool_name == self.pool
            if self._holds_worker and self._num_online(client) == 1:
                raise ConfigurationError(
                    f"this run holds the only worker of the work pool {self.pool!r}, so no shard would ever be"
                    " sampled: run it in another pool (produce-dataset/produce-on-many-gpus), or shards.run_on: here"
                )
            if own is not None:
                client.update_flow_run_labels(own.id, {TAG_LABEL: self._tag})
            # An earlier run in this work folder may have been killed, and those that it has started go on.
            earlier = _read(client, self._tag)
            self._over = {run.id for run in earlier if _is_over(run)}

    def num_workers(self) -> int:
        """How many workers of the pool are there for them."""
        with get_client(sync_client=True) as client:
            return max(0, self._num_online(client) - self._holds_worker)

    def start(self) -> None:
        """Ask for one more, which is shown below the current flow run."""
        self._num_started += 1
        folder = self._folder
        run = run_deployment(
            self.deployment,
            parameters={"work": folder.address(folder.work)},
            flow_run_name=f"{folder.name} {folder.version} #{self._num_started}",
            tags=[self._tag],
            timeout=0,
        )
        assert isinstance(run, FlowRun)  # a coroutine only where a loop runs
        logger.info("asked %s for %s", self.deployment, run.name)

    def read(self) -> list[FlowRun]:
        """Those that had not ended at the beginning, and those started since."""
        with get_client(sync_client=True) as client:
            return self._read_ours(client)

    def lose(self, run: FlowRun, why: str) -> None:
        """Say of a run that it is dead: its worker, who would say so, is dead too."""
        logger.warning("%s is lost: %s", run.name, why)
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, Crashed(message=why), force=True)

    def withdraw(self) -> list[FlowRun]:
        """Cancel those that wait for a worker; give those that are at work."""
        with get_client(sync_client=True) as client:
            return self._withdraw(client)

    def cancel(self) -> None:
        """Cancel all, and wait for their ends; after CANCEL_S without one, go without."""
        deadline = time.monotonic() + CANCEL_S
        with get_client(sync_client=True) as client:
            for run in self._read_ours(client):
                _cancel(client, run)
            while self._withdraw(client) and time.monotonic() < deadline:
                time.sleep(0.5)

    def _withdraw(self, client: SyncPrefectClient) -> list[FlowRun]:
        at_work = []
        for run in self._read_ours(client):
            if _waits(run):
                _cancel(client, run)
            elif not _is_over(run):
                at_work.append(run)
        return at_work

    def _read_ours(self, client: SyncPrefectClient) -> list[FlowRun]:
        """By the tag: the answer to a request for a run may have been lost."""
        return [run for run in _read(client, self._tag) if run.id not in self._over]

    def _num_online(self, client: SyncPrefectClient) -> int:
        return sum(worker.status == WorkerStatus.ONLINE for worker in client.read_workers_for_work_pool(self.pool))


def _own_run() -> FlowRun | None:
    context = FlowRunContext.get()
    return None if context is None else context.flow_run


def _read(client: SyncPrefectClient, tag: str) -> list[FlowRun]:
    tagged = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    found: list[FlowRun] = []
    while page := client.read_flow_runs(flow_run_filter=tagged, offset=len(found)):
        found += page
    return found


def _cancel(client: SyncPrefectClient, run: FlowRun) -> None:
    """One that has begun is ended by its worker, which then says so."""
    if not _is_over(run):
        client.set_flow_run_state(run.id, Cancelled() if _waits(run) else Cancelling())


def _waits(run: FlowRun) -> bool:
    return run.state is not None and (run.state.is_scheduled() or run.state.is_pending())


def _is_over(run: FlowRun) -> bool:
    return run.state is not None and run.state.is_final()
