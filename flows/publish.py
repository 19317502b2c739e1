"""The flow that copies a published dataset to the Hugging Face Hub."""

from __future__ import annotations

import flows.orchestration.environment  # noqa: F401  isort: skip  (before Prefect)

from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE

from flows.orchestration.artifacts import escaped
from flows.orchestration.secrets import HUB_TOKEN, stored


@flow(name="publish-dataset")
def publish_dataset(dataset: str, hub: str, private: bool = True) -> str:
    """Upload a dataset; files that the Hub has already are not sent again. Return the URL of its page.

    Args:
        dataset: A published dataset's folder.
        hub: Dataset on the Hugging Face Hub, org/name.
        private: Whether it must be private there.
    """
    return upload(Path(dataset), hub, private)


@task(name="upload-dataset", cache_policy=NO_CACHE)
def upload(dataset: Path, hub: str, private: bool) -> str:
    """Upload a dataset with the token of HF_TOKEN, else of `hf auth login`, else of the Secret block HUB_TOKEN.

    No parameter holds the token, because Prefect shows parameters. Raises ConfigurationError, PublishError,
    RefusedError for a damaged dataset.
    """
    from huggingface_hub import get_token  # takes 1 s, and few runs need it

    from tasks.publish.hub.upload import upload_dataset

    page = upload_dataset(dataset, hub, token=get_token() or stored(HUB_TOKEN), private=private)
    create_link_artifact(page, key="hub", link_text=hub, description=escaped(f"{dataset.parent.name} {dataset.name}"))
    return page
