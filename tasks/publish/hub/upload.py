"""The upload of a published dataset to the Hugging Face Hub.

One commit adds the card and all other files, a second the manifest, then a tag names the version: a revision with a
manifest is complete. The first commit of a newer version deletes the older manifest, so that no manifest ever lists
files that are not there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_session,
    get_token,
    is_offline_mode,
)
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import DatasetInfo, RepoFile
from huggingface_hub.utils import validate_repo_id
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from sampling.errors import ConfigurationError, PublishError
from tasks.publish.dataset import open_dataset
from tasks.publish.hub.contents import DATA, Contents
from tasks.publish.hub.failures import (
    AGAIN,
    MAX_TRIES,
    UNREADABLE,
    delay_s_after,
    is_transient,
    outcome_of,
    text_of,
    upload_error,
)
from tasks.store.manifest import MANIFEST

logger = logging.getLogger(__name__)

TAG = "dual-sampling"  # of the cards of this pipeline
TIMEOUT_S = 600.0  # of one send or receive: the response to a commit of thousands of files takes minutes
MAX_NAMED = 5  # files in a message


def upload_dataset(
    dataset: Path, repo_id: str, *, token: str | None, private: bool, endpoint: str | None = None
) -> str:
    """Upload a published dataset to `repo_id` (`org/name`), created if missing; return the URL of its page.

    `token` None: huggingface_hub's own (HF_TOKEN, or its token file). `endpoint` None: HF_ENDPOINT, or the Hub. A
    version that is tagged on the Hub is not sent again. Raises ConfigurationError for an unsuitable token, repository
    or folder, RefusedError for a damaged dataset, PublishError when the Hub does not respond after MAX_TRIES tries, or
    holds something else than was sent.
    """
    _check_reachable(repo_id)
    secret = _checked(get_token() if token is None else token)
    contents = Contents.of(dataset)
    upload = _Upload(HfApi(endpoint=endpoint, token=secret), repo_id, private, contents)
    tries = Retrying(
        stop=stop_after_attempt(MAX_TRIES),
        wait=delay_s_after,
        retry=retry_if_exception(is_transient),
        before_sleep=lambda state: logger.warning(
            "%s: %s; trying again (%d of %d)",
            repo_id,
            text_of(outcome_of(state), secret),
            state.attempt_number + 1,
            MAX_TRIES,
        ),
        reraise=True,
    )
    try:
        tries(upload.run)
    except (OSError, RuntimeError, ValueError, *UNREADABLE, httpx2.HTTPError) as error:
        # Not `from error`, whose traceback may show a response that contains the token.
        raise upload_error(error, repo_id, text_of(error, secret)) from None
    return f"{upload.api.endpoint}/datasets/{repo_id}"


def _check_reachable(repo_id: str) -> None:
    if is_offline_mode():
        raise ConfigurationError(f"publish.hub is {repo_id!r}, but HF_HUB_OFFLINE is set; unset one of them")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ConfigurationError(f"publish.hub: {error} Write it as org/name") from error
    if "/" not in repo_id:
        raise ConfigurationError(f"publish.hub {repo_id!r} names no owner; write it as org/name")


def _checked(token: str | None) -> str:
    """Return the token if it fits in a header: HTTP clients show an invalid header in their error."""
    token = (token or "").strip()
    if not re.fullmatch("[!-~]+", token):
        what = "has characters that no token has" if token else "is missing"
        raise ConfigurationError(
            f"the Hub's token {what}; set HF_TOKEN, log in with `hf auth login`, or make a Prefect Secret block"
            " named dual-sampling-hub-token"
        )
    return token


@dataclass(frozen=True, slots=True)
class _Upload:
    api: HfApi
    repo_id: str
    private: bool
    contents: Contents

    def run(self) -> None:
        """Do the missing steps, judged by what the Hub holds, so that a response may be lost at any step."""
        get_session().timeout = httpx2.Timeout(TIMEOUT_S)  # huggingface_hub has none
        info = self._info()
        if self.private and not info.private:
            raise ConfigurationError(
                f"{self.repo_id} is public and publish.hub_private is true; make it private in its settings, or set"
                " publish.hub_private: false"
            )
        if self._is_done():
            return
        head, tree = info.sha, self._tree(info.sha)
        missing = [name for name in self.contents.names if self.contents.difference(tree, name)]
        left_over = self.contents.left_over(tree)
        if missing or left_over:
            self._check_origin(info, tree)
            open_dataset(self.contents.folder).check_whole()
            # The card is in the commit of the data files, which it names: a commit is atomic.
            stale = [*left_over, *([MANIFEST] if MANIFEST in tree else [])]
            head = self._commit("the files", head, missing, stale)
            tree = self._tree(head)
        self._verify(head, tree)
        if self.contents.difference(tree, MANIFEST):
            head = self._commit("the manifest", head, [MANIFEST], [])
        self.api.create_tag(self.repo_id, repo_type="dataset", tag=self.contents.version, revision=head, exist_ok=True)

    def _info(self) -> DatasetInfo:
        """Return the repository, created only if missing: many tokens may write to it but not create one."""
        try:
            return self.api.dataset_info(self.repo_id)
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo_id, repo_type="dataset", private=self.private, exist_ok=True)
            return self.api.dataset_info(self.repo_id)

    def _is_done(self) -> bool:
        """Return whether the version's tag, which is created last, names this dataset.

        The branch may have a later version by now, which stays. Raises ConfigurationError for another dataset's tag.
        """
        try:
            found = self.api.get_paths_info(
                self.repo_id, [MANIFEST], revision=self.contents.version, repo_type="dataset"
            )
        except RevisionNotFoundError:
            return False
        if not self.contents.difference({file.path: file for file in found if isinstance(file, RepoFile)}, MANIFEST):
            return True
        raise ConfigurationError(
            f"{self.repo_id} has another dataset under the revision {self.contents.version!r}; choose another"
            " publish.version or publish.hub, or delete that tag"
        )

    def _check_origin(self, info: DatasetInfo, tree: Mapping[str, RepoFile]) -> None:
        """Raise ConfigurationError when the repository has data, but no card of this pipeline."""
        foreign = [name for name in tree if name == MANIFEST or name.startswith(f"{DATA}/")]
        if foreign and TAG not in (info.tags or []):
            raise ConfigurationError(
                f"{self.repo_id} holds files of another origin ({_listed(foreign)}; its card has no tag {TAG!r});"
                " choose another publish.hub, or empty it"
            )

    def _commit(self, what: str, head: str | None, added: list[str], deleted: list[str]) -> str:
        """Commit; return the commit's hash. Large files are streamed, and not sent if the Hub's LFS has them."""
        return self.api.create_commit(
            self.repo_id,
            [
                *(CommitOperationAdd(name, self.contents.folder / name) for name in added),
                *(CommitOperationDelete(name, is_folder=False) for name in deleted),
            ],
            commit_message=f"{self.contents.title}: {what}",
            repo_type="dataset",
            parent_commit=head,  # refused when someone else committed meanwhile
        ).oid

    def _tree(self, revision: str | None) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type="dataset")
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _verify(self, head: str | None, tree: Mapping[str, RepoFile]) -> None:
        """Raise PublishError when the Hub holds anything else than the dataset."""
        differences = [self.contents.difference(tree, name) for name in self.contents.names]
        differences += [f"{name} is of another version" for name in self.contents.left_over(tree)]
        if found := [difference for difference in differences if difference]:
            raise PublishError(
                f"{self.repo_id} at {head} does not hold what was sent: {_listed(found)}; its manifest was left out."
                f" See that no .gitignore there hides a file, then {AGAIN}"
            )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
