#!/usr/bin/env bash
# One training run on a TPU VM: a single host, or every host of a pod slice.
#
# On the VM itself (single host), in a checkout:
#   launch/tpu_vm.sh configs/imagenet_resnet50.py WORKDIR
# From a workstation with gcloud, on every host of a slice (the checkout must be at ~/resjax on each):
#   TPU_NAME=my-slice TPU_ZONE=us-central2-b launch/tpu_vm.sh configs/imagenet_resnet50.py WORKDIR
#
# Further arguments go to the training. The workdir must be on a disk that all hosts see (NFS, or a mounted bucket).
set -euo pipefail

if [[ $# -lt 2 ]]; then
  echo "usage: [TPU_NAME=... TPU_ZONE=...] launch/tpu_vm.sh configs/NAME.py WORKDIR [--config.field=value ...]" >&2
  exit 2
fi

if [[ -n "${TPU_NAME:-}" ]]; then
  quoted=$(printf '%q ' "$@")
  exec gcloud compute tpus tpu-vm ssh "$TPU_NAME" --zone="${TPU_ZONE:?name the zone of the slice}" --worker=all \
    --command="cd ~/resjax && RESJAX_POD=1 launch/tpu_vm.sh $quoted"
fi

config=$1
workdir=$2
shift 2

cd "$(dirname "$0")/.."
if [[ ! -x .venv/bin/python ]]; then
  python3 -m venv .venv
  .venv/bin/pip install --quiet -r requirements/pinned.txt
  # The pinned jaxlib with the TPU plugin that belongs to it.
  .venv/bin/pip install --quiet "jax[tpu]==$(.venv/bin/python -c 'import jax; print(jax.__version__)')"
  .venv/bin/pip install --quiet --no-deps -e .
fi
.venv/bin/python -c 'import jax, sys
kind = jax.devices()[0]
print(f"{jax.local_device_count()} x {kind.device_kind} on this host")
sys.exit(0 if kind.platform == "tpu" else "no TPU is visible to jax: is another process using it?")'
exec .venv/bin/python -m resjax.train --config="$config" --workdir="$workdir" \
  --config.parallel.distributed="$([[ -n "${RESJAX_POD:-}" ]] && echo True || echo False)" "$@"
