#!/bin/bash
# COCO+LVIS training on several nodes under SLURM: sbatch training/cluster/slurm.sh [CONFIG]
# Run from the root of a clone with its environment in .venv; DATA and RUNS must be folders that all nodes share.
#SBATCH --job-name=icmformer
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
# A minute and a half before the end the run is told to save; it is then queued again and goes on.
#SBATCH --signal=B:TERM@90
#SBATCH --requeue
set -euo pipefail

config=${1:-training/configs/paper/icmformer_vit_base448_coco_lvis.yaml}
: "${DATA:?folder with coco_lvis/}" "${RUNS:?folder for runs}" "${START:?weights to begin with, MAE for one}"
gpus=${SLURM_GPUS_ON_NODE:-4}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# Samples are prepared by processes of their own: as many as there are cores beside the GPUs' own.
workers=$(((SLURM_CPUS_PER_TASK - gpus) / gpus))

srun .venv/bin/torchrun \
  --nnodes "$SLURM_NNODES" --nproc-per-node "$gpus" --max-restarts 3 \
  --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:29500" \
  -m training.train "$config" --data-root "$DATA" --out "$RUNS/$(basename "$config" .yaml)" --start "$START" \
  --device cuda --workers "$workers" &
training=$!

again() {
  echo "time is nearly up: saving, and queueing again"
  kill -TERM "$training"
  wait "$training" || true
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}
trap again TERM
wait "$training"
