#!/bin/sh
# The README's first program: alone, and with three ranks. Usage: test_first.sh WEIR FIRST
set -eu
[ "$("$2")" = "0 1 2 3" ]
[ "$("$1" run -n 3 --no-prefix -- "$2" | sort -u)" = "30 33 36 39" ]
echo PASSED
