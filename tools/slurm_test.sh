#!/usr/bin/env bash
# Test on a Slurm cluster.
#
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS="..."] \
#       tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]
set -eu

if [ "$#" -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [options of tools/test.py]" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/dist_common.sh"

launch_slurm "$1" "$2" "$ROOT/tools/test.py" "$3" "$4" --launcher=slurm "${@:5}"
