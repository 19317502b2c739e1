"""The files of a dataset that go to the Hub."""

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

CARD, MANIFEST, DATA = "README.md", "manifest.json", "data"
DOCUMENTS = (REPORT, REPORT_JSON, FACTS, TOKENIZER, QUARANTINE)


@dataclass(frozen=True, slots=True)
class Contents:
    """The files of a dataset that go to the Hub, but the manifest. Nothing else in its folder leaves the machine."""

    folder: Path
    title: str
    version: str
    sha256: Mapping[str, str]  # of the data files, as the manifest lists them
    names: tuple[str, ...]  # within the folder: the card, the data files, the other documents

    @classmethod
    def of(cls, folder: Path) -> Contents:
        """Raises ConfigurationError where there is no manifest, RefusedError where it is of a refused dataset."""
        dataset = open_dataset(folder)
        if dataset.manifest is None:
            raise ConfigurationError(f"{folder} holds no {MANIFEST}; publish a dataset that this pipeline made")
        if not dataset.manifest.get("published"):
            raise RefusedError(f"{folder} was refused by the gate, and stays here; its report.html says why")
        sha256 = {file["path"]: file["sha256"] for file in dataset.manifest["files"]}
        pages = sorted(path for path in (dataset.path / DATA_DOCS).rglob("*") if path.is_file())
        documents = [*DOCUMENTS, *(str(path.relative_to(dataset.path)) for path in pages)]
        names = [CARD, *sha256, *documents]
        there = tuple(name for name in names if (dataset.path / name).is_file())
        return cls(dataset.path, dataset.title, dataset.manifest["version"], sha256, there)

    def is_at(self, there: Mapping[str, RepoFile], name: str) -> bool:
        """Whether the Hub holds this file of the dataset as it is here."""
        entry, path = there.get(name), self.folder / name
        if entry is None or entry.size != path.stat().st_size:
            return False
        if entry.lfs is not None:
            return entry.lfs.sha256 == (self.sha256.get(name) or sha256_of(path))
        return entry.blob_id == git_hash(path.read_bytes())  # no file of more than 10 MB is outside LFS

    def left_over(self, there: Mapping[str, RepoFile]) -> list[str]:
        """Files of another version. What people put beside, a licence say, is theirs and stays."""
        ours = (CARD, *DOCUMENTS)
        return [
            name
            for name in there
            if name not in self.names and (name in ours or name.startswith((f"{DATA}/", f"{DATA_DOCS}/")))
        ]

    def difference(self, there: Mapping[str, RepoFile], name: str) -> str:
        """What the Hub holds in place of a file; '' where it is the same."""
        if self.is_at(there, name):
            return ""
        if name not in there:
            return f"{name} is missing"
        entry, size = there[name], (self.folder / name).stat().st_size
        found = f"sha256 {entry.lfs.sha256[:12]}…" if entry.lfs else f"blob {entry.blob_id[:12]}…"
        wanted = self.sha256.get(name) or sha256_of(self.folder / name)
        return f"{name} has {entry.size} bytes ({found}), not {size} bytes (sha256 {wanted[:12]}…)"
