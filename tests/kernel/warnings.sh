#!/bin/sh
# The kernel without a warning: all of it strictly, the core under gcc's static analyzer too.
#   tests/kernel/warnings.sh     from anywhere; needs gcc 12 or newer and the .venv of `make venv`
set -eu
cd "$(dirname "$0")/../../mgmt/kernel"
python=../../.venv/bin/python
compiler=${CC:-gcc}
strict="-std=c11 -O2 -Wall -Wextra -Wconversion -Wshadow -Werror"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
for source in *.c core/*.c; do
    $compiler $strict -isystem "$headers" -fsyntax-only "$source"
done
if ! echo 'int main(void) { return 0; }' | $compiler -fanalyzer -x c -fsyntax-only - 2>/dev/null; then
    echo "no static analysis: $compiler knows no -fanalyzer"
    exit
fi
for source in core/*.c; do
    $compiler $strict -fanalyzer -c -o /dev/null "$source"
done
