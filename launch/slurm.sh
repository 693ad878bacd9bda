#!/usr/bin/env bash
# One training run on a Slurm cluster, one process a GPU, on any number of nodes.
#
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm.sh configs/imagenet_resnet50.py runs/resnet50
#
# Further arguments go to the training, e.g. --config.train.batch_size=1024. The workdir must be on a disk that all
# nodes see. A job that is preempted and requeued continues from its newest checkpoint; one that ran out of time saves,
# and continues when it is submitted again.
#SBATCH --job-name=resjax
#SBATCH --output=%x-%j.log
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --cpus-per-task=8
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: sbatch [options] launch/slurm.sh configs/NAME.py WORKDIR [--config.field=value ...]" >&2
  exit 2
fi
config=$1
workdir=$2
shift 2

cd "${SLURM_SUBMIT_DIR:-.}"
# jax.distributed finds coordinator, number and rank of the processes in Slurm's own variables.
# Slurm's warning reaches the tasks of srun; --signal=B:USR1@120 would reach this shell, which exec replaces by srun, and
# srun passes signals on.
exec srun --kill-on-bad-exit=1 "${RESJAX_PYTHON:-.venv/bin/python}" -m resjax.train \
  --config="$config" --workdir="$workdir" --config.parallel.distributed=True "$@"
