#!/bin/sh
# The first program on one host where shared memory cannot serve: its ranks are in different PID namespaces. The network
# transport is used then, over the loopback address that both have. Usage: other_namespace.sh PROGRAM PORT. Exit status 77:
# no such namespaces here.
set -eu
program=$1
export MASTER_ADDR=127.0.0.1 MASTER_PORT=$2 WORLD_SIZE=2 WEIR_TRANSPORT=ucx WEIR_TIMEOUT=20s

unshare --pid --fork --mount-proc true 2>/dev/null || { echo "skipped: no PID namespace of its own: not root, or in a chroot"; exit 77; }
RANK=1 unshare --pid --fork --mount-proc "$program" &
other=$!
status=0
RANK=0 "$program" || status=1
wait $other || status=1
exit $status
