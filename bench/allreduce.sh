#!/bin/sh
# All-reduces (f32 sum) between two ranks of this machine, 4 KiB to 256 MiB, through shared memory and
# through TCP: ours, Open MPI's, MPICH's, PyTorch's gloo's, and what the machine can do at best: copies in
# memory (both ranks at once), and as many bytes both ways over a loopback socket.
#   bench/allreduce.sh [--json] [--save FILE] [--rounds N]
# Peers are measured where they are installed (Debian: libopenmpi-dev openmpi-bin, libmpich-dev mpich; PYTHON
# names an interpreter with torch). MOST=BYTES ends earlier; SECONDS_EACH=S measures each size for longer.
. "$(dirname "$0")/script.sh"
most="${MOST:-268435456}" each="${SECONDS_EACH:-0.3}"
run="build/release/bin/deepseek-run -n 2 --no-prefix"
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

compile() { # COMPILER NAME: true if the peer is there
    command -v "$1" >/dev/null 2>&1 || { say "no peer: $1 is not installed"; return 1; }
    "$1" -O2 -o "$work/$2" bench/peers/mpi_allreduce.c
}
measure() { # COMMAND …
    "$@" >>"$lines" || say "failed: $*"
}
openmpi="" mpich="" gloo=""
compile mpicc.openmpi openmpi && openmpi=1
compile mpicc.mpich mpich && mpich=1
has_peer torch && gloo=1
for _ in $(seq "${rounds:-1}"); do
    printf '{"link": "shared memory"}\n' >>"$lines"
    say "shared memory"
    measure env UCX_TLS=posix,self $run "$programs/bench_allreduce" copy --most "$most" --seconds "$each"
    measure env UCX_TLS=posix,self $run "$programs/bench_allreduce" ours --most "$most" --seconds "$each"
    [ -z "$openmpi" ] || measure mpirun.openmpi -n 2 --oversubscribe "$work/openmpi" openmpi "$most" "$each"
    [ -z "$mpich" ] || measure mpiexec.mpich -n 2 "$work/mpich" mpich "$most" "$each"
    printf '{"link": "TCP over loopback"}\n' >>"$lines"
    say "TCP"
    measure env UCX_TLS=tcp,self $run "$programs/bench_allreduce" loopback --most "$most" --seconds "$each"
    measure env UCX_TLS=tcp,self $run "$programs/bench_allreduce" ours --most "$most" --seconds "$each"
    [ -z "$openmpi" ] || measure mpirun.openmpi -n 2 --oversubscribe --mca pml ob1 --mca btl tcp,self "$work/openmpi" openmpi "$most" "$each"
    [ -z "$mpich" ] || measure env MPIR_CVAR_NOLOCAL=1 UCX_TLS=tcp,self mpiexec.mpich -n 2 "$work/mpich" mpich "$most" "$each"
    [ -z "$gloo" ] || measure $run "$python" bench/peers/gloo_allreduce.py gloo "$most" "$each"
done
show allreduce
