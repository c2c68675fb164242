"""Measures drawings of molecules per second, and how long training steps wait for them.

    python benchmarks/render.py DATASET [FILE.smi[.gz|.bz2|.xz]] [--sizes 224 112] [--molecules 1000] [--workers 2]
        [--turns 3] [--steps 10] [--keys KEY=VALUE ...]

on a dataset of `molstream preprocess` and an idle machine.

**drawing**: one process draws standardized molecules of FILE, by default of ZINC250k, each in a random view. The rate
is per second of CPU time, so that what else runs matters less, and sides take turns. ``plain`` is RDKit alone: the same
molecules laid out, drawn and encoded as a PNG, which MolDraw2DCairo cannot do without.

**waiting**: runs the command `training/pretrain.py` with an image encoder and so many child processes that draw, on a
GPU where there is one. The share of a step is that of the records, after the first steps.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from engine import run_ranks
from preprocess import ZINC, read_smiles
from rdkit import Chem
from rdkit.Chem import rdDepictor
from rdkit.Chem.Draw import rdMolDraw2D

from molstream.preprocessing.config import ConformerConfig, FeaturizeConfig
from molstream.preprocessing.drawing import image_of, random_view
from molstream.preprocessing.featurize import featurize
from molstream.preprocessing.fields import MoleculeSample
from molstream.training.metrics.records import read_metrics

KEYS = ("model=mini", "model/encoder_image=resnet", "objective=descriptors", "data.lanes=2", "data.micro_batch=16")
WARM_UP = 4
"""Steps of a run that are left out: children start, and batches that were prepared ahead are used up."""


def main() -> None:
    """Measure both parts and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("file", nargs="?", type=Path, default=ZINC, help="default: ZINC250k next to the repository")
    parser.add_argument("--sizes", nargs="+", type=int, default=[224, 112])
    parser.add_argument("--molecules", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3, help="of drawing")
    parser.add_argument("--steps", type=int, default=10, help="of a run")
    parser.add_argument("--keys", nargs="*", default=[], metavar="KEY=VALUE", help="further keys of the runs")
    arguments = parser.parse_args()
    drawing(arguments)
    for size in arguments.sizes:
        waiting(size, arguments)


def drawing(arguments: argparse.Namespace) -> None:
    """Measure drawings per second of CPU time by size, ours and RDKit's alone, in turns."""
    smiles = standardized(arguments.file, arguments.molecules)
    views = [random_view(text, 0, step) for step, text in enumerate(smiles)]
    rates: dict[tuple[int, str], list[float]] = {}
    for _ in range(arguments.turns):
        for size in arguments.sizes:
            sides: dict[str, Callable[[], object]] = {
                "ours": lambda size=size: [image_of(text, size, view) for text, view in zip(smiles, views)],
                "plain": lambda size=size: [plain(text, size) for text in smiles],
            }
            for name, side in sides.items():
                rates.setdefault((size, name), []).append(len(smiles) / cpu_seconds(side))
    for size in arguments.sizes:
        ours, rdkit = (statistics.median(rates[size, name]) for name in ("ours", "plain"))
        print(f"{size} pixels: {ours:.0f} images/s and core, RDKit alone {rdkit:.0f} ({len(smiles)} molecules)")
        print(f"figure images_per_s_{size} {ours:.1f}")
        print(f"figure vs_plain_rdkit_{size} {ours / rdkit:.3f}", flush=True)


def standardized(file: Path, count: int) -> list[str]:
    """SMILES of the records of the first molecules of a file."""
    config = FeaturizeConfig(conformers=ConformerConfig(num_conformers=0), descriptors="none")
    results = (featurize(raw, config, with_key=False) for raw in read_smiles(file, count))
    return [result.smiles for result in results if isinstance(result, MoleculeSample)]


def plain(smiles: str, size: int) -> bytes:
    """RDKit's drawing with its defaults, as a PNG."""
    mol = Chem.MolFromSmiles(smiles)
    rdDepictor.Compute2DCoords(mol)
    drawer = rdMolDraw2D.MolDraw2DCairo(size, size)
    drawer.DrawMolecule(mol)
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of this process for some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def waiting(size: int, arguments: argparse.Namespace) -> None:
    """Measure the share of steps that waits for images, and their rate, in a run of the command."""
    records = trained(size, arguments)
    share, rate = (
        statistics.median(record[f"throughput/{name}"] for record in records)
        for name in ("data_wait", "molecules_per_s")
    )
    print(f"{size} pixels, {arguments.workers} children: {rate:.1f} molecules/s, {100 * share:.2f} % of a step waits")
    print(f"figure image_wait_share_{size} {share:.4f}")
    print(f"figure image_molecules_per_s_{size} {rate:.1f}", flush=True)


def trained(size: int, arguments: argparse.Namespace) -> Sequence[dict[str, float]]:
    """The records of a run with an image encoder."""
    with tempfile.TemporaryDirectory() as folder:
        keys = [f"data.path={arguments.dataset}", f"run_dir={folder}/run", f"steps={WARM_UP + arguments.steps}"]
        own = [f"model.resnet.image_size={size}", f"data.image_workers={arguments.workers}"]
        run_ranks(1, ["training/pretrain.py", *keys, *KEYS, *own, *arguments.keys], Path(folder) / "log")
        return read_metrics(Path(folder) / "run")[WARM_UP:]


if __name__ == "__main__":
    main()
