#!/usr/bin/env bash
# rustc.sh RUSTC ARGUMENTS…: compiles with counters for libFuzzer's coverage what reads files; all else as it is. For cargo's RUSTC_WRAPPER.
# These options are stable, so that any compiler does; `cargo fuzz` needs a nightly one.
set -eu
crate=
previous=
for argument in "$@"; do
  if [ "$previous" = --crate-name ]; then crate=$argument; fi
  previous=$argument
done
case $crate in
  detrim | detrim_fuzz | safetensors | zip | image | image_webp | png | zune_jpeg | serde_json | toml | toml_parser)
    exec "$@" --cfg fuzzing -C passes=sancov-module \
      -C llvm-args=-sanitizer-coverage-level=4 \
      -C llvm-args=-sanitizer-coverage-inline-8bit-counters \
      -C llvm-args=-sanitizer-coverage-pc-table \
      -C llvm-args=-sanitizer-coverage-trace-compares
    ;;
  *) exec "$@" ;;
esac
