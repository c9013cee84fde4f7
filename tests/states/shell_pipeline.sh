#!/bin/bash
# A shell script with a pipeline whose middle is at work during the cut: bash, its subshells, pipes, job control.
dir=$FERMATA_STATE_DIR
tell() {  # in one step: who sees a result reads all of it
    echo "$*" > "$dir/result.part"
    mv "$dir/result.part" "$dir/result"
}
fail() {
    tell "FAIL: $*"
    exit 1
}

sum=$(
    {
        seq 1 1000
        touch "$dir/ready"
        while [ ! -e "$dir/go" ]; do sleep 0.02; done
        seq 1001 2000
    } | while read -r number; do echo $((number * 2)); done | awk '{ total += $1 } END { print total }'
) || fail "the pipeline failed"
[ "$sum" = 4002000 ] || fail "the pipeline added up to $sum"

sleep 0.05 &
wait $! || fail "a background job failed"
trap 'caught=1' USR1
kill -USR1 $$
[ "${caught-}" = 1 ] || fail "a trap did not run"
tell PASS
