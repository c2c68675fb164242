#!/usr/bin/env bash
# A dataset for 2D encoders: ZINC250k, PubChem substances, natural products and ChEMBL, without what the sets of
# MoleculeNet hold. usage: infra/mini_dataset.sh MOLECULES OUTPUT [key=value ...]
# MOLECULES is a folder with pretrain_smiles/ and moleculenet/, which hold the files named here.
set -euo pipefail
molecules="$1" output="$2"
shift 2

corpus="$molecules/pretrain_smiles"
sources="{path: $corpus/zinc250k.smiles.xz, format: smi}"
sources+=", {path: $corpus/pubchem_substances_100k_standardize_sm.csv.gz, format: csv, delimiter: tab, header: false, smiles_column: '1'}"
sources+=", {path: $corpus/zinc_natural_products_znp50k.smi.gz}"
sources+=", {path: $corpus/chembl_sparse_ts_valid.csv.gz}"
sources+=", {path: $corpus/chembl_5thresh.csv.gz}"
sources+=", {path: $corpus/grover_tryout.csv.gz}"

benchmarks=()
for file in "$molecules"/moleculenet/*/*.csv.gz; do benchmarks+=("$file"); done

molstream preprocess "input=[$sources]" "output=$output" conformers=none \
  "decontaminate=[$(IFS=,; echo "${benchmarks[*]}")]" decontaminate_by=connectivity duplicates=connectivity "$@"
