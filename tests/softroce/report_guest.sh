#!/bin/sh
# The outcome of one suite that run_guest.sh has run. Usage: report_guest.sh RESULTS NAME
set -eu
[ ! -f "$1/skipped" ] || { echo "skipped: $(cat "$1/skipped")"; exit 77; }
cat "$1/$2.log"
[ -f "$1/$2.status" ] || { echo "it did not run to its end"; exit 1; }
exit "$(cat "$1/$2.status")"
