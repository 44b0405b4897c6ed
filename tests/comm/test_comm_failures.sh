#!/bin/bash
# Ranks that die (kill -9) and ranks that freeze (kill -STOP) at random moments: no survivor hangs, none
# is left behind, nobody computes a wrong sum, and the message names the rank.
# FAILURE_ROUNDS: how often (default 20).
set -u
# the search for leaks at the end of a process reads memory that UCX has given back by then
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
run=$1/bin/deepseek-run
rank=$1/tests/rank_program
rounds=${FAILURE_ROUNDS:-20}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0

if "$run" -n 2 "$rank" groups 2>&1 | grep -q 'without UCX\|by UCX, and'; then
    echo "this build or machine is without UCX: not tested"
    exit 77
fi

child_of() { # LAUNCHER RANK: its process
    local p
    for p in $(pgrep -P "$1"); do
        tr '\0' '\n' <"/proc/$p/environ" 2>/dev/null | grep -qx "RANK=$2" && echo "$p"
    done
}

one_round() { # NUMBER
    local signal=KILL tls=posix,self,tcp victim=$((RANDOM % 3)) problem="" status=0
    [ $(($1 % 2)) = 0 ] || signal=STOP
    [ $(($1 % 4)) -lt 2 ] || tls=tcp,self
    UCX_TLS=$tls "$run" -n 3 --grace 3 "$rank" loop 120 >"$dir/out" 2>&1 &
    local launcher=$! processes
    for _ in $(seq 300); do
        grep -q looping "$dir/out" && break
        sleep 0.1
    done
    processes=$(pgrep -P "$launcher")
    sleep "0.$((RANDOM % 9))$((RANDOM % 9))"
    kill -$signal "$(child_of "$launcher" $victim)"
    for _ in $(seq 300); do # 30 s: a wait that does not end is the failure that is looked for
        kill -0 "$launcher" 2>/dev/null || break
        sleep 0.1
    done
    if kill -0 "$launcher" 2>/dev/null; then
        problem="the run hangs"
        kill -KILL "$launcher"
    fi
    wait "$launcher" || status=$?
    [ $status != 0 ] || problem="the run ends well"
    for r in 0 1 2; do
        [ $r = $victim ] || grep -q "^\[$r\] error: unavailable: .*rank $victim" "$dir/out" ||
            problem="$problem; rank $r does not name rank $victim"
    done
    ! grep -q WRONG "$dir/out" || problem="$problem; a wrong sum"
    for p in $processes; do
        ! kill -0 "$p" 2>/dev/null || problem="$problem; process $p lives on"
    done
    [ -z "$problem" ] && return
    echo "FAILED: round $1, $signal of rank $victim, $tls: $problem"
    sed 's/^/    /' "$dir/out"
    failed=1
}

for round in $(seq "$rounds"); do one_round "$round"; done
echo "$rounds rounds"
exit $failed
