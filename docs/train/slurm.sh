#!/usr/bin/env bash
# sbatch docs/train/slurm.sh stage1 --preset paper --micro-batches 16 $STAGE1 --out RUN  # README.md says what STAGE1 holds
# Goes on by itself when SLURM takes the machines back: it is signalled five minutes before, and queues itself again.
#SBATCH --job-name=triportrait
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -uo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --shutdown-timeout 110 --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-8}" \
  --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$first:29500" \
  -m triportrait train "$@" &
training=$!
stopped=0 code=0
# to the steps alone: a SIGTERM to srun itself would end them at once
trap 'stopped=1; scancel --signal=TERM "$SLURM_JOB_ID"' TERM
while kill -0 "$training" 2>/dev/null; do wait "$training"; code=$?; done
if [ "$stopped" = 1 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
