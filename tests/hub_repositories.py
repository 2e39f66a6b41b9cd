"""What a hub for tests keeps: repositories with their branches and commits, and the objects uploaded for them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

REGULAR_BYTES = 10_000
"""Larger files are kept as large objects (LFS), and so is every file named in `LARGE`."""
LARGE = (".safetensors", ".pth", ".pt", ".bin")
FIRST_FILES = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


class RefusalError(Exception):
    """The hub says no: an HTTP status, and the code by which the client tells one from another."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def is_large(path: str, size_bytes: int) -> bool:
    """Whether the hub keeps a file of this name and size as a large object."""
    return size_bytes > REGULAR_BYTES or path.endswith(LARGE)


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit."""

    data: bytes
    large: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git itself keeps of a large file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    @cached_property
    def git_hash(self) -> str:
        kept = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(kept) + kept, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.git_hash


@dataclass
class Repository:
    """A model repository; each commit is the whole of its files, so old ones stay readable."""

    name: str
    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, StoredFile]] = field(default_factory=dict)

    def commit(
        self, changed: Mapping[str, StoredFile], gone: frozenset[str] = frozenset(), branch: str = "main"
    ) -> str:
        """Make a commit on top of a branch (a new one begins at main) and answer its hash, 40 hexadecimal digits."""
        parent = self.branches.get(branch, self.branches.get("main", ""))
        files = {path: file for path, file in self.commits.get(parent, {}).items() if path not in gone} | dict(changed)
        content = (
            f"{self.name} {parent} {len(self.commits)} {sorted((path, file.etag) for path, file in files.items())}"
        )
        commit = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def resolve(self, revision: str) -> str:
        """Find the commit of a branch or a commit's hash.

        Raises:
            RefusalError: there is none.
        """
        commit = self.branches.get(revision, revision)
        if commit not in self.commits:
            raise RefusalError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit


@dataclass
class Shelf:
    """All repositories and uploaded objects of a hub."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)

    def create(self, name: str, *, private: bool = False) -> Repository:
        """Make a new repository, with the first commit that the Hub makes by itself."""
        repository = Repository(name, private)
        repository.commit({path: StoredFile(data, large=False) for path, data in FIRST_FILES.items()})
        self.repositories[name] = repository
        return repository

    def store(self, path: str, data: bytes, *, large: bool | None = None) -> StoredFile:
        """Keep a file's bytes, as a large object where the hub does so."""
        file = StoredFile(data, is_large(path, len(data)) if large is None else large)
        if file.large:
            self.objects[file.sha256] = data
        return file

    def find(self, name: str) -> Repository:
        """Find a repository.

        Raises:
            RefusalError: there is none.
        """
        if name not in self.repositories:
            raise RefusalError(404, "RepoNotFound", "Repository not found")
        return self.repositories[name]
