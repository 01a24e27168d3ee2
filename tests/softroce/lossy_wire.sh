#!/bin/sh
# Two ranks on the two ends of a link that drops 1 % of the packets: the data is right all the same, and packets were
# really sent again. Then one that drops 5 %: long writes get through too.
# Where they do not, the error speaks of the losses. Usage: lossy_wire.sh SOURCE BUILD
set -eu
source=$1 build=$2

if [ "${3-}" = inside ]; then
    export WEIR_TRANSPORT=verbs WEIR_INTRANODE=off
    cat >/tmp/rank <<TXT
case \$RANK in
0) export WEIR_DEVICE=rxe0 WEIR_INTERFACE=$WEIR_SOFTROCE_NODE0 ;;
1) export WEIR_DEVICE=rxe1 WEIR_INTERFACE=$WEIR_SOFTROCE_NODE1 ;;
esac
exec "\$@"
TXT
    sent_again() { cat /sys/class/infiniband/rxe*/ports/1/hw_counters/retry_*exceeded_err \
        /sys/class/infiniband/rxe*/ports/1/hw_counters/completer_retry_err 2>/dev/null | awk '{ n += $1 } END { print n + 0 }'; }
    "$build/tools/weir" run -n 2 -- sh /tmp/rank "$build/perf/weir_perf" put_bw -s 64K -n 300 -w 1
    "$build/tools/weir" run -n 2 -- sh /tmp/rank "$build/perf/weir_perf" allreduce -s 8,64K -n 20 -w 1
    tc -s qdisc show | grep dropped
    dropped=$(tc -s qdisc show | sed -n 's/.*dropped \([0-9]*\).*/\1/p' | awk '{ n += $1 } END { print n + 0 }')
    [ "$dropped" -gt 0 ] || { echo "no packet was lost: this test has shown nothing"; exit 1; }
    echo "$dropped packets lost, counted as sent again: $(sent_again)"
    for link in weirv0 weirv1; do tc qdisc replace dev $link root netem loss 5%; done
    WEIR_LOG=info WEIR_VERBS_ACK_TIMEOUT=100ms "$build/tools/weir" run -n 2 -- sh /tmp/rank "$build/perf/weir_perf" put_bw \
        -s 256K -n 64 -w 1 >/tmp/long 2>&1 || { cat /tmp/long; exit 1; }
    grep 'packets are lost on the way' /tmp/long || { cat /tmp/long; echo "nobody saw that packets were lost"; exit 1; }
    tail -n 1 /tmp/long
    # From the middle of a stream on: what stands alone, a first message, may be lost as often as it is sent, and no target tells.
    for link in weirv0 weirv1; do tc qdisc del dev $link root; done
    WEIR_VERBS_RETRY=1 "$build/tools/weir" run -n 2 -- sh /tmp/rank "$build/perf/weir_perf" put_bw -s 256K -D 60 >/tmp/ended 2>&1 &
    sleep 4
    for link in weirv0 weirv1; do tc qdisc replace dev $link root netem loss 10%; done
    ! wait $! || { cat /tmp/ended; echo "a stream has come through that must not"; exit 1; }
    grep "loses too many packets (targets told of [1-9][0-9]* gaps so far)" /tmp/ended ||
        { cat /tmp/ended; echo "no word of a lossy path"; exit 1; }
    exit 0
fi

why=$("$source/scripts/softroce" --guest --check 2>&1) || { echo "skipped: $why"; exit 77; }
exec "$source/scripts/softroce" --guest --loss 1% --time-limit 300 sh "$0" "$source" "$build" inside
