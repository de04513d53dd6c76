#!/usr/bin/env bash
# How models/scDMC-small was trained: two layers on one CPU thread.
# usage: scDMC-small.sh --dataset_path TOKENIZED --output_dir DIR [more flags, which win over those below]
set -euo pipefail
exec "${PYTHON:-python}" -u \
    "$(dirname "$0")/../scDMC_pretrain.py" \
    --hidden_size 64 --num_hidden_layers 2 --num_attention_heads 4 --intermediate_size 128 --initializer_range 0.06 \
    --max_length 512 --gene_start coexpression --expression_input value \
    --view_dropout 0.5 --expression_order random --momentum 0.99 \
    --batch_size 16 --learning_rate 1e-3 --bf16 --schedule_minutes 75 \
    --held_out_fraction 0.03 --max_held_out_cells 256 --evaluate_every 300 --save_every 300 "$@"
