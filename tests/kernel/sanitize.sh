#!/bin/sh
# The tests of the kernel and the worker with AddressSanitizer and UndefinedBehaviorSanitizer: every finding ends the run.
#   tests/kernel/sanitize.sh [PYTEST_ARGS...]     from anywhere; needs gcc with libasan and the .venv of `make venv`
set -eu
cd "$(dirname "$0")/../.."
python=$PWD/.venv/bin/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all ${CFLAGS:-}" \
LDFLAGS="-fsanitize=address,undefined" \
    "$python" -W ignore -c 'from setuptools import setup; setup()' -q \
    build_ext --force --build-lib "$folder/lib" --build-temp "$folder/temp"
runtime=$("${CC:-gcc}" -print-file-name=libasan.so)
# Python keeps what it allocates at the start: leaks are test_leaks.py's. Its own allocator would hide overruns.
LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1 \
PYTHONMALLOC=malloc MGMT_KERNEL_FILE=$(echo "$folder"/lib/mgmt/kernel/_kernel*.so) \
    "$python" -m pytest -q -p no:cacheprovider --timeout 300 tests/kernel "$@"
MGMT_WORKER_CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all" \
    "$python" -m pytest -q -p no:cacheprovider --timeout 300 tests/worker -k "not resident" "$@"
