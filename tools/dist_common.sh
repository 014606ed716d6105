# Sourced by the launch scripts; not a command. Needs bash.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"

die() {
    echo "error: $*" >&2
    exit 2
}

# PYTHON, else that of the active environment, else that of the clone's own one.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x "$ROOT/.venv/bin/python" ]; then
        PYTHON="$ROOT/.venv/bin/python"
    fi
fi

require_count() { # NAME VALUE
    case "$2" in
    '' | *[!0-9]*) die "$1 must be a number, not '$2'" ;;
    esac
    [ "$2" -gt 0 ] || die "$1 must be at least 1"
}

# launch GPUS SCRIPT [ARGUMENT ...]: start GPUS processes on this machine.
launch() {
    local gpus=$1 rendezvous
    shift
    require_count GPUS "$gpus"
    NNODES=${NNODES:-1}
    NODE_RANK=${NODE_RANK:-0}
    require_count NNODES "$NNODES"

    if [ "$NNODES" -eq 1 ] && [ -z "${PORT:-}" ]; then
        # A free port is found, so that several runs on one machine don't collide.
        rendezvous=(--standalone --local_addr=127.0.0.1)
    else
        if [ "$NNODES" -gt 1 ] && [ -z "${MASTER_ADDR:-}" ]; then
            die "NNODES=$NNODES needs MASTER_ADDR, the address of the node with NODE_RANK=0"
        fi
        MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
        PORT=${PORT:-29500}
        if [ "$NODE_RANK" = 0 ] && (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null; then
            die "port $PORT is in use on this machine; choose another (PORT=29511), the same" \
                "on every node, or leave PORT unset on a single machine"
        fi
        rendezvous=(--nnodes="$NNODES" --node_rank="$NODE_RANK"
            --master_addr="$MASTER_ADDR" --master_port="$PORT")
    fi

    # One thread a process is torchrun's choice too; said here, it comes without a warning. On a
    # machine without GPU the tools share the cores among the processes instead.
    if [ -z "${OMP_NUM_THREADS:-}" ]; then
        export OMP_NUM_THREADS=1 SCALENET_AUTO_THREADS=1
    fi
    export MKL_NUM_THREADS="${MKL_NUM_THREADS:-$OMP_NUM_THREADS}"

    exec "$PYTHON" -m torch.distributed.run "${rendezvous[@]}" --nproc_per_node="$gpus" "$@"
}

# launch_slurm PARTITION JOB_NAME SCRIPT [ARGUMENT ...]
launch_slurm() {
    local partition=$1 job_name=$2 srun_args=()
    shift 2
    GPUS=${GPUS:-8}
    require_count GPUS "$GPUS"
    GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
    require_count GPUS_PER_NODE "$GPUS_PER_NODE"
    CPUS_PER_TASK=${CPUS_PER_TASK:-5}
    # Several options in one variable, separated by spaces, as is the custom.
    read -r -a srun_args <<<"${SRUN_ARGS:-}"

    # Two jobs that share a node must not share a port.
    export MASTER_PORT="${MASTER_PORT:-${PORT:-$((20000 + RANDOM % 20000))}}"

    exec srun -p "$partition" \
        --job-name="$job_name" \
        --gres=gpu:"$GPUS_PER_NODE" \
        --ntasks="$GPUS" \
        --ntasks-per-node="$GPUS_PER_NODE" \
        --cpus-per-task="$CPUS_PER_TASK" \
        --kill-on-bad-exit=1 \
        ${srun_args[@]+"${srun_args[@]}"} \
        "$PYTHON" -u "$@"
}
