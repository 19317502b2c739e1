"""A published dataset's way to the Hugging Face Hub.

First the card with everything else in one commit, then the manifest in another, then a tag of the version's name:
who sees the manifest sees the dataset whole. A newer version takes the older one's manifest away in the commit that
changes the files, so that no manifest ever speaks of files that are not there.
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
from tasks.publish.hub.contents import DATA, MANIFEST, Contents
from tasks.publish.hub.failures import AGAIN, MAX_TRIES, as_ours, is_transient, outcome_of, pause_s_after, said_of

logger = logging.getLogger(__name__)

TAG = "dual-sampling"  # what the card says of its origin
TIMEOUT_S = 600.0  # of one send or receive: a commit of thousands of files takes minutes to be answered
MAX_NAMED = 5  # files in a message


def upload_dataset(
    dataset: Path, repo_id: str, *, token: str | None, private: bool, endpoint: str | None = None
) -> str:
    """Bring a published dataset to `repo_id` (`org/name`), which is made when it is not there; the URL of its page.

    `token` None: huggingface_hub's own (HF_TOKEN, or its token file). `endpoint` None: HF_ENDPOINT, or the Hub. A
    version that is on the Hub, tagged, is not sent again. Raises ConfigurationError for a token, a repository or a
    folder that will not do, RefusedError for a dataset that is damaged, PublishError when the Hub does not answer
    after MAX_TRIES tries, or holds something else than was sent.
    """
    _check_reachable(repo_id)
    secret = _checked(get_token() if token is None else token)
    contents = Contents.of(dataset)
    upload = _Upload(HfApi(endpoint=endpoint, token=secret), repo_id, private, contents)
    tries = Retrying(
        stop=stop_after_attempt(MAX_TRIES),
        wait=pause_s_after,
        retry=retry_if_exception(is_transient),
        before_sleep=lambda state: logger.warning(
            "%s: %s; trying again (%d of %d)",
            repo_id,
            said_of(outcome_of(state), secret),
            state.attempt_number + 1,
            MAX_TRIES,
        ),
        reraise=True,
    )
    try:
        tries(upload.bring)
    except (OSError, RuntimeError, ValueError, httpx2.HTTPError) as error:
        # Not `from error`: what a server answered, which that would show, may hold the token.
        raise as_ours(error, repo_id, said_of(error, secret)) from None
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
    """The token, of characters that a header takes: the error about others would show it."""
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

    def bring(self) -> None:
        """Do what is left to do. Each try starts from what the Hub holds, so that an answer may be lost at any step."""
        get_session().timeout = httpx2.Timeout(TIMEOUT_S)  # huggingface_hub waits for ever
        info = self._info()
        if self.private and not info.private:
            raise ConfigurationError(
                f"{self.repo_id} is public and publish.hub_private is true; make it private in its settings, or set"
                " publish.hub_private: false"
            )
        if self._is_done():
            return
        head, there = info.sha, self._tree(info.sha)
        missing = [name for name in self.contents.names if not self.contents.is_at(there, name)]
        left_over = self.contents.left_over(there)
        if missing or left_over:
            self._check_origin(info, there)
            open_dataset(self.contents.folder).check_whole()
            # The card goes with the data, not before: it names files, and a reader of a commit sees all of it or none.
            stale = [*left_over, *([MANIFEST] if MANIFEST in there else [])]
            head = self._commit("the files", head, missing, stale)
            there = self._tree(head)
        self._verify(head, there)
        if not self.contents.is_at(there, MANIFEST):
            head = self._commit("the manifest", head, [MANIFEST], [])
        self.api.create_tag(self.repo_id, repo_type="dataset", tag=self.contents.version, revision=head, exist_ok=True)

    def _info(self) -> DatasetInfo:
        """What the repository is. It is made only where there is none: many a token may write to it and make none."""
        try:
            return self.api.dataset_info(self.repo_id)
        except RepositoryNotFoundError:
            self.api.create_repo(self.repo_id, repo_type="dataset", private=self.private, exist_ok=True)
            return self.api.dataset_info(self.repo_id)

    def _is_done(self) -> bool:
        """Whether the version's tag, the last thing that is made, names this dataset.

        A later version may lie on the branch by now, and stays there.
        """
        try:
            found = self.api.get_paths_info(
                self.repo_id, [MANIFEST], revision=self.contents.version, repo_type="dataset"
            )
        except RevisionNotFoundError:
            return False
        if self.contents.is_at({file.path: file for file in found if isinstance(file, RepoFile)}, MANIFEST):
            return True
        raise ConfigurationError(
            f"{self.repo_id} has another dataset under the revision {self.contents.version!r}; choose another"
            " publish.version or publish.hub, or delete that tag"
        )

    def _check_origin(self, info: DatasetInfo, there: Mapping[str, RepoFile]) -> None:
        """A repository with data that no card of ours speaks of is somebody's: nothing there is replaced."""
        foreign = [name for name in there if name == MANIFEST or name.startswith(f"{DATA}/")]
        if foreign and TAG not in (info.tags or []):
            raise ConfigurationError(
                f"{self.repo_id} holds files of another origin ({_listed(foreign)}; its card has no tag {TAG!r});"
                " choose another publish.hub, or empty it"
            )

    def _commit(self, what: str, head: str | None, added: list[str], deleted: list[str]) -> str:
        """The new commit's hash. Large files are streamed, and those that the Hub's store has are not sent."""
        return self.api.create_commit(
            self.repo_id,
            [
                *(CommitOperationAdd(name, self.contents.folder / name) for name in added),
                *(CommitOperationDelete(name, is_folder=False) for name in deleted),
            ],
            commit_message=f"{self.contents.title}: {what}",
            repo_type="dataset",
            parent_commit=head,  # refused when another hand committed meanwhile
        ).oid

    def _tree(self, revision: str | None) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, revision=revision, repo_type="dataset")
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _verify(self, head: str | None, there: Mapping[str, RepoFile]) -> None:
        """Raises PublishError when the Hub holds anything else than the dataset."""
        wrong = [self.contents.difference(there, name) for name in self.contents.names]
        wrong += [f"{name} is of another version" for name in self.contents.left_over(there)]
        if found := [difference for difference in wrong if difference]:
            raise PublishError(
                f"{self.repo_id} at {head} does not hold what was sent: {_listed(found)}; its manifest was left out."
                f" See that no .gitignore there hides a file, then {AGAIN}"
            )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
