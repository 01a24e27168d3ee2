#!/bin/sh
# Faults on the link between two devices: atomics whose answers are lost, then some of the schedules that faults.py makes:
# each kind of fault, and seeds that once failed. A campaign is run by hand, see README.md. Usage: faults_wire.sh SOURCE BUILD
set -eu
source=$1 build=$2

if [ "${3-}" = inside ]; then
    "$build/tests/transport/verbs_atomics"
    exec python3 -B "$source/tests/faults/faults.py" --where wire --traffic "$build/tests/faults/traffic" --only 21
fi

why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --nodes 2 --time-limit 300 sh "$0" "$source" "$build" inside
