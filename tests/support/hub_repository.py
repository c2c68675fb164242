"""Repositories of the model hub of ``hub_server``, and how their files are described to the client."""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

LFS_SUFFIX = ".safetensors"
"""Files of this suffix are in the large file storage."""


def git_blob(content: bytes) -> str:
    """The id that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """A repository of a model."""

    private: bool
    is_gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """The files of every commit."""
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    """Content in the large file storage, by SHA-256."""
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Parts of what is being uploaded, by SHA-256 and number."""

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        mark = json.dumps([branch, self.branches.get(branch), len(self.commits), sorted(files)])
        oid = hashlib.sha1(mark.encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid

    def found(self, revision: str) -> str | None:
        """The commit of a branch, a tag or itself."""
        known = {**self.tags, **self.branches}
        return known.get(revision, revision if revision in self.commits else None)


def sibling(path: str, content: bytes, with_sizes: bool) -> dict[str, Any]:
    """A file in what the hub says of a repository."""
    if not with_sizes:
        return {"rfilename": path}
    found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_blob(content)}
    if path.endswith(LFS_SUFFIX):
        found["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file in the tree of a commit."""
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_blob(content)}
    if path.endswith(LFS_SUFFIX):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


def mode(path: str, content: bytes | None) -> dict[str, Any]:
    """How a file is to be uploaded; ``content`` is that of the branch, None where it has no such file."""
    is_large = path.endswith(LFS_SUFFIX)
    oid = None if content is None else hashlib.sha256(content).hexdigest() if is_large else git_blob(content)
    return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}
