#!/bin/bash
# Ranks in two network namespaces that are joined by a pair of virtual interfaces, as two machines are by
# a cable: the same sums, also over a slow link, and errors on both sides when the cable is cut.
set -u
# the search for leaks at the end of a process reads memory that UCX has given back by then
export ASAN_OPTIONS="detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
run=$1/bin/deepseek-run
rank=$1/tests/rank_program
dir=$(mktemp -d)
a=dscomm$$a b=dscomm$$b
failed=0
export DS_STORE_TOKEN=between-namespaces UCX_TLS=tcp,self

clean() {
    ip netns del $a 2>/dev/null
    ip netns del $b 2>/dev/null
    rm -rf "$dir"
}
trap clean EXIT
if ! { ip netns add $a && ip netns add $b && ip link add dsa$$ type veth peer name dsb$$ &&
    ip link set dsa$$ netns $a && ip link set dsb$$ netns $b; } 2>"$dir/why"; then
    echo "network namespaces cannot be made here ($(tr '\n' ' ' <"$dir/why")): not tested"
    ip link del dsa$$ 2>/dev/null
    exit 77
fi
ip -n $a addr add 10.77.0.1/24 dev dsa$$
ip -n $b addr add 10.77.0.2/24 dev dsb$$
for n in "$a dsa$$" "$b dsb$$"; do
    set -- $n
    ip -n "$1" link set lo up
    ip -n "$1" link set "$2" up
done

both() { # ARGUMENT…: one run of two ranks each; what they print is in out.0 and out.1, statuses in s0, s1
    ip netns exec $a "$run" -n 2 --nnodes 2 --node-rank 0 --store 10.77.0.1:29500 "$rank" "$@" >"$dir/out.0" 2>&1 &
    p0=$!
    ip netns exec $b "$run" -n 2 --nnodes 2 --node-rank 1 --store 10.77.0.1:29500 "$rank" "$@" >"$dir/out.1" 2>&1 &
    p1=$!
}
end() {
    s0=0 s1=0
    wait $p0 || s0=$?
    wait $p1 || s1=$?
}
fail() {
    echo "FAILED: $1"
    sed 's/^/    /' "$dir/out.0" "$dir/out.1"
    failed=1
}

if DS_COMM_TIMEOUT_S=5 ip netns exec $a "$run" -n 2 "$rank" groups 2>&1 | grep -q 'without UCX\|by UCX, and'; then
    echo "this build or machine is without UCX: not tested"
    exit 77
fi
both check
end
[ $s0$s1 = 00 ] && grep -q '^\[0\] done: 4 ranks over ucx' "$dir/out.0" || fail "sums over the link"
NCCL_DEBUG=INFO both groups
end
grep -q "interface dsb$$" "$dir/out.1" || fail "the interface of the store's address"
if ip netns exec $b tc qdisc add dev dsb$$ root netem delay 5ms rate 400mbit 2>/dev/null; then
    both groups
    end
    [ $s0$s1 = 00 ] || fail "sums over a slow link"
    ip netns exec $b tc qdisc del dev dsb$$ root
else
    echo "no netem here: the slow link is not tested"
fi
# the cable is cut
both loop 120
for _ in $(seq 300); do
    grep -q looping "$dir/out.0" && break
    sleep 0.1
done
sleep 0.7
ip -n $b link set dsb$$ down
for _ in $(seq 300); do
    kill -0 $p0 2>/dev/null || kill -0 $p1 2>/dev/null || break
    sleep 0.1
done
for p in $p0 $p1; do
    kill -0 $p 2>/dev/null && fail "a side hangs" && kill $p
done
end
[ $s0 != 0 ] && [ $s1 != 0 ] || fail "a cut link ends well ($s0, $s1)"
for r in 0 1; do
    grep -q "^\[$r\] error: unavailable: rank [23] was not heard of" "$dir/out.0" ||
        fail "rank $r does not name whom it lost"
    grep -q "^\[$((r + 2))\] error: unavailable: the store at 10.77.0.1:29500 was not heard of.*waiting for rank" "$dir/out.1" ||
        fail "rank $((r + 2)) does not say that it is cut off, and from whom"
done
exit $failed
