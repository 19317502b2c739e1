"""The files of a dataset that are uploaded to the Hub, compared with those that it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash

from sampling.errors import ConfigurationError, RefusedError
from tasks.publish.dataset import open_dataset
from tasks.publish.documents import DATA_DOCS, REPORT, REPORT_JSON
from tasks.publish.staging import QUARANTINE
from tasks.run.dataset_metadata import FACTS, TOKENIZER
from tasks.store.durable import sha256_of
from tasks.store.manifest import MANIFEST, listed_files

CARD, DATA = "README.md", "data"
DOCUMENTS = (REPORT, REPORT_JSON, FACTS, TOKENIZER, QUARANTINE)


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a dataset to upload before the manifest. Other files in its folder are never uploaded."""

    folder: Path
    title: str
    version: str
    sha256: Mapping[str, str]  # of the files that the manifest lists
    names: tuple[str, ...]  # relative to the folder: the card, the data files, the other documents

    @classmethod
    def of(cls, folder: Path) -> Contents:
        """List the files. Raises ConfigurationError without a manifest, RefusedError for a refused dataset."""
        dataset = open_dataset(folder)
        if dataset.manifest is None:
            raise ConfigurationError(f"{folder} holds no {MANIFEST}; publish a dataset that this pipeline made")
        if not dataset.manifest.get("published"):
            raise RefusedError(f"{folder} was refused by the gate, and stays here; its report.html says why")
        sha256 = {file.path: file.sha256 for file in listed_files(dataset.manifest, str(folder / MANIFEST))}
        documents = [] if "documents" in dataset.manifest else list(DOCUMENTS)  # dual-sampling 0.1 listed none
        names = [CARD, *(name for name in (*sha256, *documents) if name != CARD)]
        for name in names:
            if (dataset.path / name).resolve() != dataset.path / name:
                raise RefusedError(
                    f"{dataset.path / name} is a link, or lies behind one; only the dataset's own files go"
                )
        existing = tuple(name for name in names if (dataset.path / name).is_file())
        return cls(dataset.path, dataset.title, dataset.manifest["version"], sha256, existing)

    def left_over(self, tree: Mapping[str, RepoFile]) -> list[str]:
        """Return the tree's files of another version, without files that people added, such as a licence."""
        return [
            name
            for name in tree
            if name not in self.names and (name in (CARD, *DOCUMENTS) or name.startswith((f"{DATA}/", f"{DATA_DOCS}/")))
        ]

    def difference(self, tree: Mapping[str, RepoFile], name: str) -> str:
        """Describe how a repository's file differs from this dataset's; '' when the content is the same."""
        if (entry := tree.get(name)) is None:
            return f"{name} is missing"
        path = self.folder / name
        size, wanted = path.stat().st_size, self.sha256.get(name) or sha256_of(path)
        if entry.lfs is not None:
            found, is_same = f"sha256 {entry.lfs.sha256[:12]}…", entry.lfs.sha256 == wanted
        else:  # at most 10 MB: larger files are LFS
            found = f"blob {entry.blob_id[:12]}…"
            is_same = entry.size == size and entry.blob_id == git_hash(path.read_bytes())
        if is_same and entry.size == size:
            return ""
        return f"{name} has {entry.size} bytes ({found}), not {size} bytes (sha256 {wanted[:12]}…)"
