#!/bin/sh
# `weir doctor` where there are RDMA devices to break: boots a guest of its own, since doctor_guest.py leaves nothing whole
# when a case fails. Usage: doctor_guest.sh SOURCE BUILD
set -eu
source=$1 build=$2
why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --nodes 2 --time-limit 600 python3 -B "$source/tests/softroce/doctor_guest.py" \
    "$build/tools/weir" "$source/scripts"
