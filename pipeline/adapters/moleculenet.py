from pathlib import Path


def benchmark_file(name: str, folder: Path) -> Path:
    return next(folder.rglob(f"{name}.csv*"))
