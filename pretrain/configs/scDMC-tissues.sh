#!/usr/bin/env bash
# How models/scDMC-tissues was trained, with OMP_NUM_THREADS=1.
# usage: scDMC-tissues.sh --dataset_path TOKENIZED --output_dir DIR [more flags, which win over the same ones below;
# --schedule_minutes wins over --max_steps and --epochs]
set -euo pipefail
exec "${PYTHON:-python}" -u "$(dirname "$0")/../scDMC_pretrain.py" \
    --hidden_size 64 --num_hidden_layers 2 --num_attention_heads 4 --intermediate_size 128 --initializer_range 0.06 \
    --max_length 512 --gene_start coexpression --expression_input value \
    --view_dropout 0.5 --expression_order random --momentum 0.99 --alpha 0.1 \
    --batch_size 32 --learning_rate 7e-4 --schedule_minutes 66 \
    --held_out_fraction 0.03 --max_held_out_cells 256 --evaluate_every 400 --save_every 400 "$@"
