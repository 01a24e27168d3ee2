#!/bin/sh
# Runs all suites of guest_suites in one boot of the guest (or on this host's RDMA device). The outcome of each goes to
# RESULTS/NAME.log and RESULTS/NAME.status; report_guest.sh turns them into tests. Usage: run_guest.sh SOURCE BUILD RESULTS
set -eu
source=$1 build=$2 results=$3

# Inside: every suite, each with a bound of its own. The host's folders are read only here, so the results go to
# standard output between marks, and the outside takes them apart.
if [ "${4-}" = inside ]; then
    cd /tmp
    sed 's/#.*//; /^ *$/d' "$source/tests/softroce/guest_suites" | while read -r name command; do
        echo "@@ begin $name"
        start=$(date +%s) status=0
        # shellcheck disable=SC2086 # a command line
        CONFORMANCE_SCALE=0.02 timeout -k 5 240 $(echo "$command" | sed "s|%B|$build|g; s|%S|$source|g") </dev/null 2>&1 || status=$?
        echo
        echo "@@ end $name $status $(($(date +%s) - start))"
    done
    exit 0
fi

rm -rf "$results"
mkdir -p "$results"
if ! why=$("$source/scripts/softroce" --check 2>&1); then
    echo "$why" >"$results/skipped"
    echo "skipped: $why"
    exit 0
fi
echo "$why"
status=0
"$source/scripts/softroce" --time-limit 1200 --numa 2 sh "$0" "$source" "$build" "$results" inside >"$results/all.log" 2>&1 || status=$?
awk -v dir="$results" '
    $1 == "@@" && $2 == "begin" { name = $3; next }
    $1 == "@@" && $2 == "end" { print $4 > (dir "/" $3 ".status"); print $3 ": status " $4 ", " $5 " s"; name = ""; next }
    name { print > (dir "/" name ".log") }' "$results/all.log"
[ $status = 0 ] || { tail -n 40 "$results/all.log"; echo "the guest ended with status $status"; exit 1; }
