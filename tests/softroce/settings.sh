#!/bin/sh
# What the user sets for verbs connections arrives in their queue pairs, on both sides: the library asks the device for it
# (ibv_query_qp) and tells it in the log. Usage: settings.sh BUILD, where an RDMA device is.
set -eu
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export WEIR_TRANSPORT=verbs WEIR_INTRANODE=off WEIR_LOG=debug

options= # further ones of weir_perf

# run NAME=VALUE... : the lines about the queue pairs of two ranks that exchange something
run() {
    # shellcheck disable=SC2086 # several options
    env "$@" "$build/tools/weir" run -n 2 -- "$build/perf/weir_perf" put_bw -s 8 -n 10 -w 1 $options >"$work/out" 2>&1 ||
        { cat "$work/out"; echo "the ranks failed under $*"; exit 1; }
    grep 'queue pair .*path MTU' "$work/out" >"$work/pairs" || { cat "$work/out"; echo "no queue pair was told of"; exit 1; }
}

# all TEXT: every queue pair, of initiators and of targets, has it
all() {
    for side in "connection to" "connection from"; do
        grep -q "$side rank" "$work/pairs" || { cat "$work/pairs"; echo "none is a $side"; exit 1; }
    done
    if grep -v "$1" "$work/pairs"; then
        echo "these have not '$1'"
        exit 1
    fi
    echo "ok - $1"
}

run WEIR_TC=104 WEIR_VERBS_ACK_TIMEOUT=100ms WEIR_VERBS_RETRY=3 WEIR_VERBS_RNR_RETRY=4
all "traffic class 104, service level 0, ack timeout 134 ms, retries 3, RNR retries 4"
run WEIR_VERBS_TRAFFIC_CLASS=32 WEIR_TIMEOUT=5s
all "traffic class 32, service level 0, ack timeout 134 ms, retries 6, RNR retries 7"
if grep 'not a variable' "$work/out"; then echo "the older name is not known"; exit 1; fi
run WEIR_TIMEOUT=60s
all "ack timeout 268 ms, retries 6"

run WEIR_SL=5 LD_PRELOAD="$build/tests/softroce/libwatch_qp.so"
[ "$(grep -c 'asked for service level 5' "$work/out")" = 4 ] || { cat "$work/out"; echo "not all have service level 5"; exit 1; }
echo "ok - service level 5"

# The GID is the one of the address that the ranks meet at, of the same family.
[ -n "${WEIR_SOFTROCE_NODE0-}" ] || exit 0
all "GID [0-9]* (::ffff:$WEIR_SOFTROCE_NODE0)"
all "path MTU $(ibv_devinfo -d rxe0 | awk '/active_mtu/ { print $2 }'),"
run WEIR_INTERFACE=fd77::1
all "GID [0-9]* (fd77::1)"

# perftest's -x: a GID by its index in the device's table.
index_of() {
    grep -li "$1" /sys/class/infiniband/rxe0/ports/1/gids/* | head -1 | sed 's,.*/,,'
}
options="-d rxe0:1 -x $(index_of 'fd77:0000:0000:0000:0000:0000:0000:0001')"
run
all "GID [0-9]* (fd77::1)"
options="-d rxe0 -x $(index_of '0000:0000:0000:0000:0000:ffff:')"
run WEIR_INTERFACE=fd77::1
all "GID [0-9]* (::ffff:$WEIR_SOFTROCE_NODE0)"
for wrong in "$(index_of fe80:) link-local" "5000 no such GID" "100 empty"; do
    if "$build/perf/weir_perf" put_lat -d rxe0 -x ${wrong%% *} >"$work/out" 2>&1; then echo "-x $wrong succeeds"; exit 1; fi
    grep -q -- "-x .*${wrong#* }" "$work/out" || { cat "$work/out"; echo "it does not say: $wrong"; exit 1; }
done
echo "ok - GIDs that cannot be used"
options=

# posted CALLS: by these operations are given to both ranks' queue pairs
posted() {
    [ "$(grep -c "posted to by $1" "$work/out")" = 2 ] || { cat "$work/out"; echo "not by $1"; exit 1; }
    echo "ok - posted to by $1"
}

# soft-RoCE's driver has ibv_wr_*; what older drivers are like is tried as well.
old=LD_PRELOAD=$build/tests/softroce/libold_driver.so
run WEIR_VERBS_POST=auto
posted 'ibv_wr_'
run WEIR_VERBS_POST=list
posted 'ibv_post_send()'
run WEIR_VERBS_POST=auto "$old"
posted 'ibv_post_send()'
if (run WEIR_VERBS_POST=wr "$old") >"$work/failed"; then echo "wr without ibv_wr_* succeeds"; exit 1; fi
grep -q 'WEIR_VERBS_POST=wr: .*use auto or list' "$work/failed" || { cat "$work/failed"; exit 1; }
echo "ok - wr, where there is none"
