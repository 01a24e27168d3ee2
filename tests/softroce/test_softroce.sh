#!/usr/bin/env bash
# Tests scripts/softroce: what reaches COMMAND, what comes back, how it ends, and that packets cross the link.
# Status 0, 1 after a failure, 77 where no guest can run. It boots a guest eight times: some 30 s on an idle machine.
set -u
softroce=$(readlink -f "$(dirname "$0")/../../scripts/softroce")
work=$(mktemp -d "${TMPDIR:-/tmp}/softroce test, XXXXXX") # QEMU's options give a comma a meaning
failures=0
trap 'rm -rf "$work"' EXIT

"$softroce" --guest --check || exit 77

ok() {
    echo "ok - $1"
}

not_ok() {
    echo "not ok - $1"
    shift
    [ $# = 0 ] || printf '  # %s\n' "$@"
    failures=$((failures + 1))
}

# is NAME GOT EXPECTED
is() {
    if [ "$2" = "$3" ]; then ok "$1"; else not_ok "$1" "got: $2" "expected: $3"; fi
}

# has NAME TEXT LINE: LINE is one of TEXT's lines.
has() {
    if grep -qxF -- "$3" <<<"$2"; then ok "$1"; else not_ok "$1" "no line '$3' in:" "$2"; fi
}

# The processes that name this test's directory; the guest's does, since TMPDIR is there.
left_behind() {
    local p
    for p in /proc/[0-9]*; do
        tr '\0' ' ' 2>/dev/null <"$p/cmdline" | grep -q "qemu.*$work" && echo "${p#/proc/}"
    done
}

nothing_left() {
    local n
    for n in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(left_behind)" ] || break
        sleep 0.2
    done
    is "$1: no qemu is left" "$(left_behind)" ""
    is "$1: no directory is left" "$(ls "$work/tmp")" ""
}

# Starts COMMAND in the guest and waits until it runs; sets pid.
start_guest() {
    rm -f "$work/out"
    TMPDIR=$work/tmp "$softroce" --guest "$@" >"$work/out" 2>"$work/err" &
    pid=$!
    local n
    for n in $(seq 1200); do
        grep -q running "$work/out" 2>/dev/null && return
        kill -0 $pid 2>/dev/null || break
        sleep 0.1
    done
    not_ok "the guest starts" "$(cat "$work/err")"
}

test_options() {
    "$softroce" --help >"$work/out" && grep -q '^usage:' "$work/out"
    is "--help" $? 0
    "$softroce" --no-such-option true 2>"$work/err"
    is "an unknown option is refused" $? 125
    "$softroce" --nodes 1 --loss 1% true 2>"$work/err"
    is "loss needs two nodes" $? 125
    "$softroce" --guest --mtu 1500 --loss 1% --check >"$work/out" 2>&1 || [ $? = 77 ]
    is "loss implies two nodes, with an MTU too" $? 0
    "$softroce" --guest 2>"$work/err"
    is "no command" $? 125
}

# Runs in the guest; $1 is a directory given with --rw.
inside() {
    pwd
    printf '[%s]' "$@" && echo
    echo "weir ${WEIR_TEST-unset} named ${NAMED-unset} other ${OTHER-unset} softroce $WEIR_SOFTROCE"
    echo "memlock $(ulimit -l)"
    echo gone >"$PWD/written" && echo kept >"$1/kept" && echo shm >/dev/shm/file && cat "$PWD/file" /dev/shm/file
    echo "to stderr" >/dev/stderr
    [ -c /dev/infiniband/rdma_cm ] && [ -c /dev/infiniband/umad0 ] && echo "device nodes"
    echo "address $WEIR_SOFTROCE_NODE0 $(ip -o addr show to "$WEIR_SOFTROCE_NODE0" | grep -c inet)"
    ibv_devinfo -d rxe0 | awk '/state|active_mtu/ { print $1, $2 }'
    "$softroce" sh -c 'echo "nested $WEIR_SOFTROCE"'
    sleep 50 & # holds the output open
    return 7
}

test_run() {
    local out name="a  b'c\"d\$e"
    mkdir -p "$work/cwd $$/sub" "$work/rw"
    cd "$work/cwd $$/sub" || exit 1
    echo "from the host" >file
    out=$(softroce=$softroce WEIR_TEST=$'x \'y\'\nz' NAMED=n OTHER=o \
        "$softroce" --guest --env NAMED --env softroce --rw "$work/rw" \
        bash -c "$(declare -f inside); inside \"\$@\"" inside "$work/rw" "$name" '' 2>"$work/err")
    is "exit status" $? 7
    has "working directory" "$out" "$PWD"
    has "arguments" "$out" "[$work/rw][$name][]"
    has "environment, first line" "$out" "weir x 'y'"
    has "environment" "$out" "z named n other unset softroce guest"
    has "memlock" "$out" "memlock unlimited"
    has "files of the host" "$out" "from the host"
    has "/dev/shm" "$out" "shm"
    has "device nodes" "$out" "device nodes"
    has "address" "$out" "address 10.77.0.1 1"
    has "port" "$out" "state: PORT_ACTIVE"
    has "MTU" "$out" "active_mtu: 4096"
    has "an RDMA device is used as it is" "$out" "nested device"
    has "standard error" "$(cat "$work/err")" "to stderr"
    is "a write is gone" "$(ls)" "file"
    is "--rw" "$(cat "$work/rw/kept")" "kept"
    cd / || exit 1
}

test_output() {
    local expected
    expected=$( (seq 200000; echo end) | md5sum)
    is "large output is complete" "$("$softroce" --guest sh -c 'seq 200000 | tee /dev/stderr; echo end; echo end >&2' \
        2> >(md5sum >"$work/sum") | md5sum)" "$expected"
    sleep 0.2
    is "large standard error is complete" "$(cat "$work/sum")" "$expected"
}

test_time_limit() {
    start_guest --time-limit 2 sh -c 'echo running; sleep 100'
    wait $pid
    is "time limit: status" $? 124
    grep -q 'time limit of 2 s' "$work/err"
    is "time limit: message" $? 0
    nothing_left "time limit"
}

# A background job ignores SIGINT, so it is sent to one that does not.
test_signals() {
    set -m
    start_guest sh -c 'echo running; sleep 100'
    kill -INT $pid
    wait $pid
    is "Ctrl-C: status" $? 130
    nothing_left "Ctrl-C"
    start_guest sh -c 'echo running; sleep 100'
    set +m
    kill -KILL $pid
    wait $pid 2>/dev/null
    rm -rf "$work"/tmp/*
    nothing_left "SIGKILL"
}

test_crash() {
    "$softroce" --guest sh -c 'echo before; echo c >/proc/sysrq-trigger; sleep 20' >"$work/out" 2>"$work/err"
    is "a crash of the guest: status" $? 125
    is "a crash of the guest: output until then" "$(cat "$work/out")" "before"
    grep -q 'guest: .*Kernel panic' "$work/err"
    is "a crash of the guest: the kernel's message" $? 0
}

# Waits until $1 listens: an ss filter.
listening() {
    local n
    for n in $(seq 60); do
        [ -n "$(ss -Htln "$1")" ] && return
        sleep 0.1
    done
}

# rdma_cm looks up the route of a request by other keys than a socket does. rping's server cannot be seen by ss: the
# client tries again until it is there.
cm_reaches() {
    local n
    rping -s -a "$2" -C 10 >/dev/null 2>&1 &
    for n in $(seq 20); do
        rping -c -a "$2" -I "$1" -C 10 >/dev/null 2>&1 && echo "rdma_cm: $1 to $2" && return
        sleep 0.3
    done
}

# On a busy machine either side may be late: both are bounded, and tried again.
pingpong_crosses() {
    local n
    for n in 1 2 3; do
        timeout 40 ibv_rc_pingpong -d rxe0 -g 1 -n 500 >/dev/null &
        listening 'sport = 18515'
        timeout 30 ibv_rc_pingpong -d rxe1 -g 1 -n 500 "$WEIR_SOFTROCE_NODE0" >/dev/null && echo "pingpong crosses" && break
    done
    wait
}

inside_pair() {
    pingpong_crosses
    cm_reaches "$WEIR_SOFTROCE_NODE0" "$WEIR_SOFTROCE_NODE1"
    cm_reaches "$WEIR_SOFTROCE_NODE1" "$WEIR_SOFTROCE_NODE0"
    cm_reaches fd77::1 fd77::2
    echo "route $(ip route get "$WEIR_SOFTROCE_NODE1" | grep -c "dev weirv0 .*src $WEIR_SOFTROCE_NODE0")"
    [ "$(cat /sys/class/net/weirv1/statistics/rx_packets)" -gt 1000 ] && echo "the link is used"
    tc -s qdisc show | grep -q 'netem.*loss 5%' && tc -s qdisc show | grep -q 'dropped [1-9]' && echo "packets are lost"
    cat /sys/class/infiniband/rxe*/ports/1/hw_counters/completer_retry_err | grep -q '[1-9]' && echo "and sent again"
}

test_pair() {
    local out
    out=$("$softroce" --guest --loss 5% bash -c "$(declare -f listening cm_reaches pingpong_crosses inside_pair); inside_pair" 2>&1)
    is "pair: status" $? 0
    for line in "pingpong crosses" "rdma_cm: 10.77.0.1 to 10.77.0.2" "rdma_cm: 10.77.0.2 to 10.77.0.1" \
        "rdma_cm: fd77::1 to fd77::2" "route 1" "the link is used" "packets are lost" "and sent again"; do
        has "pair: $line" "$out" "$line"
    done
}

# The path for hosts that may load rdma_rxe, tried in a guest that has no device yet.
inside_native() {
    "$softroce" --check
    "$softroce" sh -c 'echo "run $WEIR_SOFTROCE $WEIR_SOFTROCE_NODE0"; ls /sys/class/infiniband; exit 3'
    echo "status $?"
    "$softroce" --native --loss 1% sh -c 'echo "pair $WEIR_SOFTROCE_NODE1"'
    "$softroce" --native --time-limit 1 sleep 20
    echo "limit $?"
    timeout --foreground 1 "$softroce" --native sh -c 'sleep 20; echo "not reached"'
    echo "ended $?"
    echo "left $(ls /sys/class/infiniband /sys/class/net | grep -c -e rxe -e weirv)"
    ip rule show | head -n 1
}

test_native() {
    local out
    out=$(export softroce && "$softroce" --guest --nodes 0 --env softroce \
        bash -c "$(declare -f inside_native); inside_native" 2>&1)
    has "native: chosen" "$out" "a soft-RoCE device of this host's kernel"
    has "native: run" "$out" "run native 10.77.0.1"
    has "native: device" "$out" "rxe0"
    has "native: status" "$out" "status 3"
    has "native: pair" "$out" "pair 10.77.0.2"
    has "native: time limit" "$out" "limit 124"
    has "native: a signal ends it at once" "$out" "ended 124"
    has "native: devices are removed" "$out" "left 0"
    has "native: rules are restored" "$out" "0:	from all lookup local"
}

mkdir "$work/tmp"
test_options
test_run
test_output
test_time_limit
test_signals
test_crash
test_pair
test_native
[ $failures = 0 ] && echo "all passed" && exit 0
echo "$failures failed"
exit 1
