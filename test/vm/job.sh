#!/bin/sh
# Runs one test binary of bin/vm-tests in a virtual machine for ARCH: job.sh KERNEL PACKAGE [FLAG…].
# Prints how it ended in one line, before it what benchmarks measured, or all if it failed.
set -u
kernel=$1 package=$2
shift 2
cd "$(dirname "$0")/../../internal/datapath/$package" || exit 1
bin=../../../bin
began=$(date +%s)
out=$("$bin/vm" --arch "$ARCH" --kernel "$kernel" "$bin/vm-tests/$package.test" -test.paniconexit0 -test.timeout=30m "$@" 2>&1)
status=$?
how=ok
if [ $status -ne 0 ]; then
	how="FAIL, exit code $status"
else
	out=$(printf '%s\n' "$out" | grep '^Benchmark')
fi
printf '%s%s\t%s on Linux %s, %s\t%s s\t%s\n' "${out:+$out
}" "$how" "$package" "$kernel" "$ARCH" $(($(date +%s) - began)) "$*"
[ $status -eq 0 ]
