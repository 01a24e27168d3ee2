#!/bin/sh
# A device whose port goes down, whose addresses change, which is removed while it is in use. Usage: events.sh SOURCE BUILD
set -eu
source=$1 build=$2

if [ "${3-}" = inside ]; then
    # What the link's end has lost when it comes up again is put back, at once: soft-RoCE fails a write without a route.
    export TEST_DOWN="ip link set weirv1 down"
    export TEST_UP="ip -batch - <<TXT
link set weirv1 up
route replace $WEIR_SOFTROCE_NODE0 dev weirv1 src $WEIR_SOFTROCE_NODE1 table 7702
neigh replace $WEIR_SOFTROCE_NODE0 lladdr $(cat /sys/class/net/weirv0/address) dev weirv1 nud permanent
TXT"
    exec timeout -k 5 200 "$build/tests/transport/verbs_events" ${4+"$4"}
fi

why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --nodes 2 --time-limit 300 sh "$0" "$source" "$build" inside ${3+"$3"}
