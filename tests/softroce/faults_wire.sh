#!/bin/sh
# Faults on the link between two devices: atomics and keys whose answers are lost, then some of the schedules that faults.py makes,
# short ones of each kind of fault. A campaign is run by hand, see README.md. Usage: faults_wire.sh SOURCE BUILD
set -eu
source=$1 build=$2

if [ "${3-}" = inside ]; then
    "$build/tests/transport/verbs_losses"
    exec python3 -B "$source/tests/faults/faults.py" --where wire --traffic "$build/tests/faults/traffic" \
        --only 105 105 187 366 397 551 621 641 985
fi

why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --nodes 2 --time-limit 350 sh "$0" "$source" "$build" inside
