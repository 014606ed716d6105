#!/usr/bin/env bash
# Test with several processes, one per GPU; without a GPU, on the CPU.
#
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
#
# The environment variables are those of dist_train.sh.
set -eu

if [ "$#" -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [options of tools/test.py]" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/dist_common.sh"

launch "$3" "$ROOT/tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
