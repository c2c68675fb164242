"""Prints figures of the code base: modules, imports, function lengths, docstrings, and the time to start.

    python benchmarks/house.py [CHECKOUT]

Prints ``figure NAME VALUE`` lines for a checkout, by default the one of this file. Older checkouts have no package
``molstream``, but packages at the top; there the timed commands are ``python -m training.cli -h`` and
``import training.embed``. The script needs only the standard library; the timed commands run with the same Python,
which must have the dependencies of the checkout.
"""

import argparse
import ast
import os
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("molstream", "training", "pipeline", "preprocessing")
"""Folders of shipped code in a checkout; the package molstream has links to the others."""
RUNS = 5
"""Number of runs of each timed command, of which the median counts."""
MIN_WORDS = 5
"""Smallest number of words of a docstring that counts."""
RECORDS = {"dataclass", "configuration", "NamedTuple"}
"""Decorators and bases of classes whose annotated names are fields."""

Graph = Mapping[str, set[str]]
"""Modules by name, with the modules that they import."""


@dataclass(frozen=True)
class Module:
    """A shipped module of a checkout."""

    folder: str
    """Folder of the file, relative to the checkout."""
    tree: ast.Module
    """Syntax tree of the file."""


def read_modules(checkout: Path) -> dict[str, Module]:
    """Read the shipped modules of a checkout, by dotted name; a package has the name of its folder."""
    prefix = ["molstream"] if (checkout / "molstream").is_dir() else []
    found: dict[str, Module] = {}
    for package in PACKAGES:
        # os.walk does not follow the links in the package molstream.
        for folder, _, names in os.walk(checkout / package):
            place = Path(folder).relative_to(checkout)
            for name in sorted(name for name in names if name.endswith(".py")):
                parts = [*(prefix if package != "molstream" else []), *place.parts, name.removesuffix(".py")]
                tree = ast.parse((Path(folder) / name).read_text())
                found[".".join(parts).removesuffix(".__init__")] = Module(str(place), tree)
    return found


def imports(modules: Mapping[str, Module], *, deferred: bool) -> Graph:
    """Find which modules each module imports, without imports for type checkers and of scripts.

    Args:
        modules: all modules of the checkout.
        deferred: whether imports inside functions count.
    """
    graph: dict[str, set[str]] = {}
    for name, module in modules.items():
        targets: set[str] = set()
        for node in _imports(module.tree, deferred):
            if isinstance(node, ast.Import):
                targets |= {alias.name for alias in node.names}
            elif node.module and not node.level:
                members = {f"{node.module}.{alias.name}" for alias in node.names}
                targets |= (members & modules.keys()) or {node.module}
        graph[name] = (targets & modules.keys()) - {name}
    return graph


def _imports(node: ast.AST, deferred: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.If) and any(
            word in ast.unparse(child.test) for word in ("TYPE_CHECKING", "__main__")
        ):
            for other in child.orelse:
                yield from _imports(other, deferred)
        elif deferred or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(child, deferred)


def components(graph: Graph) -> list[list[str]]:
    """Compute strongly connected components, imported ones first (Tarjan 1972); those of two or more are cycles."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in order:
                visit(target)
            if target in stack:
                low[name] = min(low[name], low[target])
        if low[name] == order[name]:
            place = stack.index(name)
            found.append(stack[place:])
            del stack[place:]

    for name in graph:
        if name not in order:
            visit(name)
    return found


def import_levels(graph: Graph) -> int:
    """Count the modules on the longest chain of imports; a cycle counts as one module."""
    level: dict[str, int] = {}
    for members in components(graph):
        below = {target for name in members for target in graph[name]} - set(members)
        level |= dict.fromkeys(members, 1 + max((level[target] for target in below), default=0))
    return max(level.values())


def function_lengths(modules: Mapping[str, Module]) -> list[int]:
    """List the lengths of all functions and methods in lines, nested ones included."""
    return [
        (node.end_lineno or node.lineno) - node.lineno + 1
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def documented(modules: Mapping[str, Module]) -> float:
    """Share of the public names whose docstring has at least :data:`MIN_WORDS` words."""
    texts = [text for module in modules.values() for text in (ast.get_docstring(module.tree), *_docs(module.tree.body))]
    return sum(len((text or "").split()) >= MIN_WORDS for text in texts) / len(texts)


def _docs(body: Sequence[ast.stmt], fields: bool = False) -> Iterator[str | None]:
    """Docstrings of the public classes, functions and fields of a module or class; None for those without one."""
    for number, node in enumerate(body):
        following = body[number + 1] if number + 1 < len(body) else None
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                marks = [mark.func if isinstance(mark, ast.Call) else mark for mark in node.decorator_list]
                names = {ast.unparse(mark).rpartition(".")[2] for mark in [*marks, *node.bases]}
                yield from _docs(node.body, fields=bool(names & RECORDS))
        elif fields and isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            value = following.value if isinstance(following, ast.Expr) else None
            yield value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None


def seconds(checkout: Path, arguments: Sequence[str]) -> float:
    """Median wall time of ``python *arguments`` in a checkout; it ends with an error message if the command fails."""
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": str(checkout)},
            capture_output=True,
            text=True,
        )
        times.append(time.perf_counter() - start)
        if result.returncode:
            sys.exit(f"python {' '.join(arguments)} failed:\n{result.stderr}")
    return statistics.median(times)


def main() -> None:
    """Print the figures of a checkout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    checkout = parser.parse_args().checkout.resolve()
    modules = read_modules(checkout)
    for folder, count in sorted(Counter(module.folder for module in modules.values()).items()):
        print(f"figure modules_{folder} {count}")
    lengths = function_lengths(modules)
    print(f"figure import_levels {import_levels(imports(modules, deferred=False))}")
    cycles = [members for members in components(imports(modules, deferred=True)) if len(members) > 1]
    print(f"figure import_cycles {len(cycles)}")
    print(f"figure longest_function_lines {max(lengths)}")
    print(f"figure median_function_lines {statistics.median(lengths):g}")
    print(f"figure documented_share {documented(modules):.4f}")
    print(f"figure readme_lines {len((checkout / 'README.md').read_text().splitlines())}")
    packaged = "molstream" in modules
    commands = {
        "help_s": ["-m", "molstream.cli.main", "-h"] if packaged else ["-m", "training.cli", "-h"],
        "import_s": ["-c", "import molstream"] if packaged else ["-c", "import training.embed"],
    }
    for name, arguments in commands.items():
        print(f"figure {name} {seconds(checkout, arguments):.3f}", flush=True)


if __name__ == "__main__":
    main()
