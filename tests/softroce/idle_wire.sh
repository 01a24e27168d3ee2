#!/bin/sh
# Two ranks on the two ends of a link that goes away for ever while nothing happens on it: both ends notice it.
# Usage: idle_wire.sh SOURCE BUILD
set -eu
source=$1 build=$2
why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --nodes 2 --time-limit 300 python3 -B "$source/tests/faults/test_idle.py" \
    --idle "$build/tests/faults/idle" --where wire
