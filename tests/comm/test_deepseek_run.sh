#!/bin/bash
# deepseek-run and ranks that are processes: values, output, exit statuses, signals, and that calls that
# cannot end end with a message that names who is to blame.
set -u
# the search for leaks at the end of a process reads memory that UCX has given back by then
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
run=$1/bin/deepseek-run
rank=$1/tests/rank_program
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

fail() { # what
    echo "FAILED: $1"
    sed 's/^/    /' "$dir/out"
    failed=1
}
try() { # STATUS ARGUMENT…: deepseek-run ends with STATUS; what it prints is in out
    local status=0 want=$1
    shift
    timeout 120 "$run" "$@" >"$dir/out" 2>&1 || status=$?
    [ "$status" = "$want" ] || fail "$*: status $status, not $want"
}
says() { # PATTERN
    grep -q -- "$1" "$dir/out" || fail "nothing says: $1"
}
free_port() { # one that nothing has now, below those that the kernel gives to connections
    local port
    while :; do
        port=$((10000 + RANDOM % 20000))
        grep -q ":$(printf %04X $port) " /proc/net/tcp /proc/net/tcp6 || break
    done
    echo $port
}

# ---- the launcher alone
try 0 --help
says 'usage: deepseek-run'
try 2
says 'no program'
try 2 --nproc many true
try 2 --nnodes 2 true
says 'several machines need --store'
try 2 --nnodes 2 --store 10.0.0.1:29500 true
says 'DS_STORE_TOKEN'
try 127 -n 2 /nonexistent/program
says '\[[01]\] cannot run /nonexistent/program'
try 0 -n 3 sh -c 'echo "$RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE, threads $OMP_NUM_THREADS"'
for i in 0 1 2; do says "^\[$i\] $i of 3, $i of 3, threads [1-9]"; done
OMP_NUM_THREADS=7 try 0 -n 2 --no-prefix sh -c 'echo "threads $OMP_NUM_THREADS"'
says '^threads 7$'
# lines stay whole, whatever pieces they are written in
try 0 -n 4 sh -c 'for i in 1 2 3 4 5 6 7 8; do printf "a$RANK"; printf "b$RANK"; printf "c$RANK\n"; done; printf end'
for i in 0 1 2 3; do
    [ "$(grep -c "^\[$i\] a${i}b${i}c$i\$" "$dir/out")" = 8 ] || fail "lines of rank $i are not whole"
    says "^\[$i\] end\$"
done
# the first failure is told and gives the status; the others end
try 5 -n 3 sh -c 'if [ $RANK = 1 ]; then exit 5; fi; sleep 60'
says 'deepseek-run: rank 1 (process [0-9]*) ended with status 5'
try 139 -n 2 sh -c 'if [ $RANK = 1 ]; then kill -SEGV $$; fi; sleep 60'
says 'rank 1 (process [0-9]*) was killed by signal 11'
# who does not end when asked is killed, with what it started
try 5 -n 2 --grace 0.5 sh -c 'if [ $RANK = 1 ]; then sleep 0.3; exit 5; fi; trap "" TERM; sleep 61 & wait; wait; sleep 61'
says 'did not end within'
pgrep -f '^sleep 61$' >/dev/null && fail "something that a rank started lives on"
# signals are passed on
"$run" -n 2 bash -c 'trap "echo told; exit 0" TERM; echo ready; while :; do sleep 0.1; done' >"$dir/out" 2>&1 &
pid=$!
for _ in $(seq 100); do [ "$(grep -c ready "$dir/out")" = 2 ] && break; sleep 0.1; done
kill -TERM $pid
wait $pid || fail "ranks that end well on SIGTERM give a status that is not 0"
[ "$(grep -c told "$dir/out")" = 2 ] || fail "SIGTERM did not reach both ranks once"

# ---- ranks
if DS_COMM_TIMEOUT_S=20 "$run" -n 2 "$rank" missing 2>&1 | grep -q 'without UCX\|by UCX, and'; then
    echo "this build or machine is without UCX: ranks that are processes are not tested"
    [ $failed = 0 ] && exit 77
    exit 1
fi
for n in 1 2 3 5; do
    try 0 -n $n "$rank" check
    says "done: $n ranks"
done
try 0 -n 4 "$rank" groups
UCX_TLS=tcp,self try 0 -n 3 "$rank" check
says 'done: 3 ranks over ucx'
NCCL_DEBUG=INFO try 0 -n 2 "$rank" groups
says 'comm, rank 1: 2 ranks, started by deepseek-run'
NCCL_SOCKET_NTHREADS=0 try 0 -n 2 "$rank" check
NCCL_SOCKET_IFNAME=nonsense9 try 1 -n 2 "$rank" groups
says 'no network interface "nonsense9"'
# two launchers of two ranks each are one run
port=$(free_port)
DS_STORE_TOKEN=secret "$run" -n 2 --nnodes 2 --node-rank 1 --store 127.0.0.1:$port "$rank" check >"$dir/second" 2>&1 &
pid=$!
DS_STORE_TOKEN=secret try 0 -n 2 --nnodes 2 --node-rank 0 --store 127.0.0.1:$port "$rank" check
says '^\[0\] done: 4 ranks'
wait $pid || { cat "$dir/second"; fail "the second machine's part"; }

# ---- without a launcher: rank 0 serves the store
others() { # VARIABLES…: two ranks by these variables, R stands for the rank
    local pids=() status=0
    for r in 0 1; do
        env "${@//R_/$r}" MASTER_ADDR=127.0.0.1 MASTER_PORT=$port "$rank" groups >>"$dir/out" 2>&1 &
        pids+=($!)
    done
    for p in "${pids[@]}"; do wait "$p" || status=1; done
    [ $status = 0 ] || fail "ranks started by $*"
}
: >"$dir/out"
port=$(free_port); others RANK=R_ WORLD_SIZE=2 LOCAL_RANK=R_
port=$(free_port); others SLURM_PROCID=R_ SLURM_NTASKS=2 SLURM_JOB_ID=77
port=$(free_port); others OMPI_COMM_WORLD_RANK=R_ OMPI_COMM_WORLD_SIZE=2
port=$(free_port); others PMI_RANK=R_ PMI_SIZE=2
port=$(free_port); others JOB_COMPLETION_INDEX=R_ WORLD_SIZE=2
# a stranger without the token is refused
port=$(free_port)
RANK=0 WORLD_SIZE=2 DS_STORE_TOKEN=right MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
    DS_COMM_TIMEOUT_S=3 "$rank" groups >"$dir/first" 2>&1 &
pid=$!
RANK=1 WORLD_SIZE=2 DS_STORE_TOKEN=wrong MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
    "$rank" groups >"$dir/out" 2>&1 && fail "a wrong token is let in"
says 'the token of the job is another one'
wait $pid && fail "a run without its rank 1 ends well"
grep -q 'rank 1 of 2 did not come within 3 s' "$dir/first" || { cat "$dir/first"; fail "who is missing at the start"; }
# variables that contradict each other
RANK=3 WORLD_SIZE=2 "$rank" groups >"$dir/out" 2>&1 && fail "rank 3 of 2"
says 'RANK=3, but WORLD_SIZE=2'

# ---- what goes wrong is named
try 3 -n 3 "$rank" fail
says '^\[1\] this rank gives up'
says '^\[0\] error: unavailable: rank 1'
says '^\[2\] error: unavailable: rank 1'
try 1 -n 3 "$rank" leave
says '^\[0\] error: unavailable: rank 1 is gone'
try 1 -n 3 "$rank" missing
says '^\[0\] error: timeout: all_reduce #2 "grad/wte" (sum of 1 f32) timed out'
says 'not arrived: rank 1 (its last call: barrier #1 "start"'
try 1 -n 3 "$rank" differ
says 'calls differ: rank [012] is in all_reduce #1 "[a-z]*" (sum of 3[23] f32), rank [012] in all_reduce #1'
exit $failed
