#!/bin/sh
# The training program: bad input is told, the ways to exchange agree with one process alone, a dead rank ends the job.
# Usage: test_train.sh WEIR TRAIN
set -eu
weir=$1 train=$2
data=/usr/share/datasets/fashion-mnist
if [ ! -f $data/train-images-idx3-ubyte.gz ]; then
    echo "skipped: no $data; install dataset-fashion-mnist"
    exit 77
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
export WEIR_TIMEOUT=60s

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# expect STATUS PATTERN COMMAND...: the command ends with this status and says something that matches
expect() {
    want=$1 pattern=$2 got=0
    shift 2
    "$@" >out.txt 2>&1 || got=$?
    [ "$got" = "$want" ] || { cat out.txt >&2; fail "status $got instead of $want: $*"; }
    grep -q -- "$pattern" out.txt || { cat out.txt >&2; fail "nothing like '$pattern': $*"; }
}

echo "- command line"
expect 0 'Usage: ' "$train" --help
expect 2 'use one of allreduce ps-bsp ps-async' "$train" --mode gossip
expect 2 'use a number from 1' "$train" --epochs 0
expect 2 'use a number from 1' "$train" --batch 12x
expect 2 'positive number' "$train" --lr -1
expect 2 'not an option' "$train" fast
expect 2 'needs parameter servers' "$train" --mode ps-bsp
expect 2 'no use for parameter servers' "$weir" run -n 1 --servers 1 -- "$train"

echo "- damaged and missing files"
expect 1 'No such file.*dataset-fashion-mnist' "$train" --data "$dir/nowhere"
mkdir damaged
cp $data/*.gz damaged/
head -c 100000 $data/train-images-idx3-ubyte.gz >damaged/train-images-idx3-ubyte.gz
expect 1 'ends too early' "$train" --data damaged
cp $data/train-labels-idx1-ubyte.gz damaged/train-images-idx3-ubyte.gz
expect 1 'not an IDX file' "$train" --data damaged
cp $data/train-images-idx3-ubyte.gz damaged/
{ head -c 3000 $data/train-labels-idx1-ubyte.gz; head -c 4000 /dev/zero; } >damaged/train-labels-idx1-ubyte.gz
expect 1 'damaged\|ends too early\|0 to 9' "$train" --data damaged
printf 'no gzip at all' >damaged/t10k-images-idx3-ubyte.gz
cp $data/train-labels-idx1-ubyte.gz damaged/
expect 1 't10k-images.*\(ends too early\|not an IDX\)' "$train" --data damaged

# same A B TOLERANCE: two loss files agree at every step
same() {
    [ "$(wc -l <"$1")" = "$(wc -l <"$2")" ] || fail "$1 and $2 have different numbers of steps"
    paste "$1" "$2" | awk -v tolerance="$3" '{ d = ($1 > $2 ? $1 - $2 : $2 - $1) / $1; if (d > worst) worst = d }
        END { print "  worst relative difference " worst; exit !(NR > 0 && worst <= tolerance) }' || fail "$1 and $2 differ"
}

run="--limit 12800 --epochs 1 --quiet --svg none.svg"
echo "- the same loss at every step as one process"
"$train" $run --loss-file single.loss --json single.json
grep -q '"workers": 1' single.json || fail "single.json"
for n in 2 4; do
    "$weir" run -n $n -- "$train" $run --loss-file ring$n.loss
    same single.loss ring$n.loss 1e-4
done
"$weir" run -n 3 --servers 2 -- "$train" $run --mode ps-bsp --batch 129 --loss-file bsp3.loss
"$train" $run --batch 129 --loss-file single129.loss
same single129.loss bsp3.loss 0.05 # tables are f32: the last bits differ and grow

# A small rate, so that the order in which asynchronous workers' gradients come hardly matters at the end.
echo "- all modes learn"
for mode in allreduce ps-bsp ps-async; do
    servers=1
    [ $mode = allreduce ] && servers=0
    "$weir" run -n 2 --servers $servers -- "$train" --model softmax --limit 12800 --epochs 4 --lr 0.01 --quiet \
        --svg $mode.svg --mode $mode --json $mode.json
    awk -F'"accuracy": ' '{ split($2, a, ","); exit !(a[1] > 0.75) }' $mode.json || fail "$mode does not learn"
    grep -q '<polyline' $mode.svg || fail "$mode.svg has no curve"
done
"$train" plot all.svg one=single.loss two=ring2.loss
[ "$(grep -c '<polyline' all.svg)" = 2 ] || fail "all.svg has not two curves"


echo "- a rank that cannot go on ends the job for all, soon"
start=$(date +%s)
expect 1 'nowhere' "$weir" run -n 3 -- sh -c '
    folder=$3
    [ "$RANK" = 1 ] && folder=nowhere
    exec "$1" $2 --data "$folder"' sh "$train" "$run" $data
[ $(($(date +%s) - start)) -lt 30 ] || fail "it took too long"
echo PASSED
