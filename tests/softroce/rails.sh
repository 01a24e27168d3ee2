#!/bin/sh
# Two devices a process: long transfers are striped over both, signals come after all data, and what is wrong with one of
# the devices is said by name. Usage: rails.sh SOURCE BUILD
set -eu
source=$1 build=$2

if [ "${3-}" = inside ]; then
    export WEIR_TRANSPORT=verbs WEIR_INTRANODE=off WEIR_DEVICE=rxe0:1,rxe1:1
    "$build/tests/transport/verbs_rails"
    # Over the wire, the second rail's data late: a signal over the first one must wait for it.
    tc qdisc add dev weirv1 root netem delay 20ms
    TEST_CROSSED=rxe1:1,rxe0:1 "$build/tests/transport/verbs_rails" test_order
    tc qdisc del dev weirv1 root
    WEIR_VERBS_STRIPE=16K CONFORMANCE_SCALE=0.02 timeout -k 5 120 "$build/tests/transport/conformance"
    CONFORMANCE_SCALE=0.02 timeout -k 5 120 "$build/tests/transport/reconnect"
    # Connected through the store: an offer for each device.
    WEIR_VERBS_CONNECT=store "$build/tests/transport/verbs_rails"
    WEIR_VERBS_CONNECT=store CONFORMANCE_SCALE=0.02 timeout -k 5 120 "$build/tests/transport/reconnect" test_broken
    for wrong in rxe0:x rxe0:4294967297 rxe0,rxe0 rxe0,rxe7; do
        if WEIR_DEVICE=$wrong "$build/tools/weir" run -n 2 -- "$build/perf/weir_perf" put_lat -s 8 -n 10 >/tmp/out 2>&1; then
            echo "WEIR_DEVICE=$wrong is taken"
            exit 1
        fi
        grep -q "WEIR_DEVICE.*$(echo "$wrong" | sed 's/.*,//')" /tmp/out || { cat /tmp/out; exit 1; }
    done
    echo "wrong devices are refused by name"
    ip link set weirv1 down # takes the port of rxe0 down too: a veth has two ends
    if "$build/tools/weir" run -n 2 -- "$build/perf/weir_perf" put_lat -s 8 -n 10 >/tmp/out 2>&1; then
        echo "a port that is down is taken"
        exit 1
    fi
    grep -q 'no port of .* is active' /tmp/out || { cat /tmp/out; exit 1; }
    ip link set weirv1 up
    echo "ports that are down are told"
    sleep 1
    TEST_LOSE=1 "$build/tests/transport/verbs_rails" test_lost
    exit 0
fi

why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --nodes 2 --time-limit 300 sh "$0" "$source" "$build" inside
