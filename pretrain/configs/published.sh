#!/usr/bin/env bash
# The paper's model and objective: 12 layers, 2,048 tokens, three epochs over 2 million cells (tokenizer/census.py).
# usage: GPUS=8 published.sh --dataset_path TOKENIZED --output_dir DIR [more flags, which win]
# Each GPU has the paper's 24 cells of a step; the learning rate grows with the square root of the number of GPUs.
# With --dry_run it says how many hours the whole run would take on this machine.
set -euo pipefail
RATE=$(LC_ALL=C awk -v gpus="${GPUS:-1}" 'BEGIN {print 5e-5 * sqrt(gpus)}')
exec "${PYTHON:-python}" -m torch.distributed.run --standalone --nproc_per_node "${GPUS:-1}" \
    "$(dirname "$0")/../scDMC_pretrain.py" \
    --hidden_size 512 --num_hidden_layers 12 --num_attention_heads 8 --intermediate_size 1024 --max_length 2048 \
    --attention_probs_dropout_prob 0.1 --batch_size "$((24 * ${GPUS:-1}))" --learning_rate "$RATE" --epochs 3 \
    --bf16 --max_held_out_cells 2000 --evaluate_every 5000 --save_every 5000 "$@"
