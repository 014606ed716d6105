#!/usr/bin/env bash
# Train with several processes, one per GPU; without a GPU, on the CPU.
#
#   tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#
# Environment:
#   NNODES, NODE_RANK, MASTER_ADDR, PORT  several machines: the same command on each, with its own
#                                         NODE_RANK and node 0's MASTER_ADDR. Default: 1 machine.
#   PYTHON                                the Python to use. Default: python.
#   OMP_NUM_THREADS                       threads of each process.
set -eu

if [ "$#" -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [options of tools/train.py]" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/dist_common.sh"

launch "$2" "$ROOT/tools/train.py" "$1" --launcher pytorch "${@:3}"
