"""Checks whether two commits of molstream compute the same results, bit for bit, on this machine.

``python -m tests.support.same_bits OLD [NEW]`` runs the commands of :mod:`tests.support.road` in a worktree of each
commit and compares shards, records, weights, moments and vectors. The exit code is 1 if anything differs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.support import road
from tests.support.datasets import REPOSITORY


def walked(commit: str, folder: Path) -> np.ndarray:
    """Run the commands of a commit in ``folder``; returns the vectors."""
    tree = folder / "tree"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, commit], cwd=REPOSITORY, check=True)
    try:
        return road.walk(tree, folder)
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=REPOSITORY, check=True)


def differences(old: Path, new: Path) -> Iterator[str]:
    """Yield what differs between the results of two commits."""
    for name in ("dataset", "graphs"):
        shards = [json.loads((folder / name / "manifest.json").read_text())["shards"] for folder in (old, new)]
        if shards[0] != shards[1]:
            yield f"the shards of {name}"
    for name in road.TRAININGS:
        records = [road.records(folder / name) for folder in (old, new)]
        if records[0] != records[1]:
            yield f"the records of {name}"
        for kind in ("weights", "moments"):
            if not _same(*(_tensors(folder / name / "checkpoints", kind) for folder in (old, new))):
                yield f"the {kind} of {name}"
    if not _same(*(_tensors(folder, "model") for folder in (old / "export", new / "export"))):
        yield "the weights of the export"


def _tensors(folder: Path, kind: str) -> list[np.ndarray]:
    """Read tensors in the order of their files and of the modules, without their names, which may change."""
    files = sorted(folder.rglob(f"{kind}*.safetensors"))
    assert files, f"no {kind} in {folder}"
    return [tensor for file in files for tensor in load_file(file).values()]


def _same(old: list[np.ndarray], new: list[np.ndarray]) -> bool:
    """Whether both lists have the same tensors, in any order."""
    return sorted((t.shape, t.tobytes()) for t in old) == sorted((t.shape, t.tobytes()) for t in new)


def main(old: str, new: str = "HEAD") -> int:
    """Compare two commits; returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="molstream-") as folder:
        folders = [Path(folder) / "old", Path(folder) / "new"]
        for path in folders:
            path.mkdir()
        vectors = [walked(commit, path) for commit, path in zip((old, new), folders, strict=True)]
        found = list(differences(*folders))
        if not np.array_equal(*vectors, equal_nan=True):
            found.append("the vectors")
    print(f"{old} and {new}: " + (f"not the same: {', '.join(found)}" if found else "the same to the last bit"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
