#!/usr/bin/env bash
# The wheel of this clone, installed by pip into an empty virtual environment, used beside modules named as its rooms.
# First without extras: the import, the embedder, `molstream embed`, `--help` of every command, and that an encoder of a
# hub which does not answer is an error that names the network. Then with the extra `preprocess`: `molstream
# preprocess`. Fetches about a gigabyte; tests/test_wheel.py does the same without a network, and pulls from a hub.
#
#   bash infra/try_wheel.sh [FOLDER]
#
# FOLDER, a new one, is kept if it is given.
set -euo pipefail
repository="$(cd "$(dirname "$0")/.." && pwd)"
if [ $# -gt 0 ]; then
  mkdir -p "$1" && folder="$(cd "$1" && pwd)"
else
  folder="$(mktemp -d)" && trap 'rm -rf "$folder"' EXIT
fi
unset PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1

mkdir "$folder/clone" "$folder/work"
(cd "$repository" && git ls-files -z | tar --null --files-from=- --create) | tar --extract --directory "$folder/clone"
"${PYTHON:-python3}" -m venv "$folder/environment"
bin="$folder/environment/bin"
"$bin/pip" wheel --quiet --no-deps --wheel-dir "$folder/wheels" "$folder/clone"
wheel="$(ls "$folder"/wheels/molstream-*.whl)"
# By itself, as in the Makefile: an open range would fetch gigabytes of GPU libraries.
"$bin/pip" install --quiet torch==2.13.0
"$bin/pip" install --quiet --constraint "$repository/infra/constraints.txt" "$wheel"

cd "$folder/work"
mkdir training preprocessing
touch training/__init__.py preprocessing/__init__.py pipeline.py
printf 'smiles\nCCO\nc1ccccc1O\nCC(=O)Oc1ccccc1C(=O)O\n' > molecules.csv

"$bin/python" - <<'PROGRAM'
import sys

import molstream

vectors = molstream.MoleculeEmbedder().transform(["CCO", "c1ccccc1O"])
assert vectors.shape[0] == 2
assert molstream.__file__.startswith(sys.prefix), molstream.__file__
assert not {"training", "pipeline", "preprocessing"} & sys.modules.keys()
print("the embedder gives vectors of", vectors.shape[1], "numbers")
PROGRAM
"$bin/molstream" embed input=molecules.csv output=vectors.parquet
commands="$("$bin/python" -c 'from molstream.cli.main import COMMANDS; print(*COMMANDS)')"
for command in $commands; do
  "$bin/molstream" "$command" --help > /dev/null
done
echo "help of: $commands"
# Nothing listens there. The client itself is in the base installation; what is missing is its server.
if HF_ENDPOINT=http://127.0.0.1:9 "$bin/molstream" embed export=hf://org/name input=molecules.csv output=pulled.npy \
  2> refused.txt; then
  echo "an encoder was pulled from a hub that does not answer" >&2
  exit 1
fi
grep "^error: .*hf://org/name cannot be downloaded: .*Check the network" refused.txt
if "$bin/molstream" preprocess input=molecules.csv output=dataset 2> refused.txt; then
  echo "preprocess needs an extra, but ran without" >&2
  exit 1
fi
grep "pip install 'molstream\[preprocess\]'" refused.txt

"$bin/pip" install --quiet --constraint "$repository/infra/constraints.txt" "$wheel[preprocess]"
"$bin/molstream" preprocess input=molecules.csv output=dataset ray.num_cpus=1
"$bin/pip" check
