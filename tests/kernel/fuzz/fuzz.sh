#!/bin/sh
# Fuzzes the C core, and what the worker reads, with AddressSanitizer and UndefinedBehaviorSanitizer: replays the corpus, then changes it.
#   tests/kernel/fuzz/fuzz.sh [SECONDS]     a finding ends the run
# SECONDS for each target hunt for new cases; without them the run is the same each time.
# With clang by libFuzzer, which follows coverage; elsewhere by driver.c, which changes the inputs blindly.
# A case worth keeping is one line of hexadecimal digits in corpus/TARGET.hex.
set -eu
cd "$(dirname "$0")"
seconds=${1:-}
if [ -n "$seconds" ]; then amount="-max_total_time=$seconds"; else amount="-seed=1 -runs=100000"; fi
core=$PWD/../../../mgmt/kernel/core
python=$PWD/../../../.venv/bin/python
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

compiler=${CC:-gcc} kind=address,undefined main=driver.c how=driver
if echo 'int LLVMFuzzerTestOneInput(const char *d, unsigned long n) { return d && n > 9; }' |
    clang -x c -fsanitize=fuzzer,address,undefined -o "$folder/probe" - 2>/dev/null; then
    compiler=clang kind=fuzzer,address,undefined main= how=libFuzzer
fi
flags="-g -O1 -std=gnu11 -Wall -Wextra -fno-omit-frame-pointer -fno-sanitize-recover=all -I$core"
mkdir "$folder/core"
(cd "$folder/core" && $compiler $flags -fsanitize="$(echo $kind | sed 's/fuzzer/fuzzer-no-link/')" -c "$core"/*.c)

for target in analysis compat history placement ranking table worker; do
    "$python" - "corpus/$target.hex" "$folder/$target" <<'EOF'
import pathlib, sys

folder = pathlib.Path(sys.argv[2])
folder.mkdir()
for number, line in enumerate(pathlib.Path(sys.argv[1]).read_text().split()):
    (folder / str(number)).write_bytes(bytes.fromhex(line))
EOF
    echo "== $target ($how)"
    $compiler $flags -fsanitize=$kind -o "$folder/run" $target.c $main "$folder"/core/*.o -lm
    if [ $how = libFuzzer ]; then
        "$folder/run" $amount -max_len=400 -timeout=20 -verbosity=0 -print_final_stats=1 \
            -artifact_prefix="$PWD/found-$target-" "$folder/$target" >"$folder/log" 2>&1 ||
            { cat "$folder/log"; exit 1; }
        grep number_of_executed_units "$folder/log"
    else
        "$folder/run" "${seconds:-5}" "$folder/$target"/*
    fi
done
