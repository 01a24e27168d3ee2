#!/bin/sh
# Runs COMMAND while N huge pages of 2 MiB are reserved in the guest. Usage: with_huge_pages.sh N COMMAND...
set -u
pages=$1
shift
[ "${WEIR_SOFTROCE-}" = guest ] || { echo "skipped: reserving memory is for the guest"; exit 77; }
echo 1 >/proc/sys/vm/compact_memory
echo "$pages" >/proc/sys/vm/nr_hugepages
reserved=$(cat /proc/sys/vm/nr_hugepages)
if [ "$reserved" -ge "$pages" ]; then
    "$@"
    status=$?
else
    echo "the guest has room for $reserved of $pages huge pages only"
    status=1
fi
echo 0 >/proc/sys/vm/nr_hugepages
exit $status
