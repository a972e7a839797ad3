#!/usr/bin/env bash
# Fuzzes on any compiler. run.sh [TARGET [SECONDS [LIBFUZZER OPTIONS…]]]: all targets, or one, each for so long (60 s).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
all=(own safetensors config pickle image coco plan training_state)
targets=("${all[@]}")
if [ $# -gt 0 ] && [ "$1" != all ]; then targets=("$1"); fi
seconds=${2-60}

export RUSTC_WRAPPER=$PWD/rustc.sh
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
cargo build --release "${bins[@]}"

for target in "${targets[@]}"; do
  mkdir -p "corpus/$target" "artifacts/$target"
  printf '\n== %s, %s s\n' "$target" "$seconds"
  # candle's threads would spin. A file that takes ten seconds or two gigabytes is a finding.
  CANDLE_NUM_THREADS=1 "target/release/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
    -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 "${@:3}"
done
