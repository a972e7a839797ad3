#!/usr/bin/env bash
# The one entry point: sets up what is missing, builds the site, serves it, runs every test. `./build.sh --help` tells more.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# shellcheck source=www/setup.sh
. www/setup.sh

usage() {
  cat <<'END'
Usage: ./build.sh [COMMAND]

  (none)             build the site into www/dist; any static host can serve it, under any path
  serve [OPTIONS]    build the site and serve it, printing the address
      --https        to the local network too, with a self-signed certificate and a QR code for a phone
                     (a phone offers camera and WebGPU to secure pages only)
      --host         to the local network over plain http
      --port N       at this port (default 8080, or the next free one)
      --base /PATH/  under a path, as some hosts do
      --quick        without optimising and compressing the wasm, for working on the page
  test [rust|web]    run every test, or only those of one side
  help               this

The command-line tool is plain Cargo: `cargo run --release -- --help`.

Set-up is part of every command, and quick once done. Needed beforehand: git, Rust (https://rustup.rs), Node.js with npm.
The rest is installed where possible, else named: the wasm target, npm packages, and for the tests Chromium, Firefox and a
software Vulkan driver.

Environment:
  DETRIM_WASM=rustup|debian   which compiler makes the wasm (default: rustup's, or Debian's rustc-web where that can't be had)
  CHROMIUM=/path/to/browser   the browser for the tests
  FIREFOX=/path/to/browser    the Firefox for those that need one; without it they are left out
  DETRIM_REFERENCE=/folder    a larger model with cases and pictures of PyTorch's, for tests that are left out without it
END
}

# step NAME COMMAND...: runs it, and keeps its duration for the summary; a failure ends everything.
durations=
step() {
  local name=$1 begun=$SECONDS status=0
  shift
  printf '\n== %s\n' "$name"
  # A function inside `if` or `||` would run on after its failures, hence the subshell with its own set -e.
  set +e
  (
    set -e
    "$@"
  )
  status=$?
  set -e
  durations+=$(printf '%6d s  %s' $((SECONDS - begun)) "$name")$'\n'
  if [ "$status" != 0 ]; then
    printf '\n%s\nFAILED: %s\n' "$durations" "$name" >&2
    exit 1
  fi
}

summary() {
  printf '\n%s%6d s  in all\n' "$durations" "$SECONDS"
}

compile_wasm() {
  local options=(build --lib --profile web --target wasm32-unknown-unknown --target-dir target/web)
  export RUSTFLAGS='-C target-feature=+simd128'
  if [ "$(wasm_toolchain)" = rustup ]; then
    cargo "${options[@]}"
  else
    # Debian ships this target's standard library as source only, and building it is a nightly feature.
    PATH=/usr/bin:$PATH RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$(wasm_linker) \
      /usr/bin/cargo "${options[@]}" -Z build-std=std,panic_abort
  fi
}

# clippy sees the native side only; what is dead or doubtful in the browser's shows here.
check_wasm() {
  compile_wasm 2>&1 | tee target/wasm.log
  ! grep -q '^warning: `detrim`' target/wasm.log || die 'the wasm build must have no warnings'
}

assemble() { # [--quick]
  node www/site.js --wasm target/web/wasm32-unknown-unknown/web/detrim.wasm --bindgen target/bindgen/release/detrim-bindgen "$@"
}

build_site() { # [--quick]
  step 'set-up' setup_web
  step 'wasm' compile_wasm
  step 'wasm-bindgen' cargo build --locked --release --manifest-path www/bindgen/Cargo.toml --target-dir target/bindgen
  step 'site' assemble "$@"
}

check_format() {
  cargo fmt --check
  cargo fmt --check --manifest-path www/bindgen/Cargo.toml
  cargo fmt --check --manifest-path fuzz/Cargo.toml
}

test_rust() {
  step 'set-up for Rust' setup_native_tests
  # Everything below shares the release profile: compiling the dependencies twice would be half of the time.
  step 'lock file' cargo fetch --locked
  step 'formatting' check_format
  step 'clippy' cargo clippy --release --all-targets -- -D warnings
  step 'documentation' env RUSTDOCFLAGS='-D warnings' cargo doc --release --no-deps --lib
  # Mesa complains about a missing XDG_RUNTIME_DIR each time a GPU is asked for.
  step 'Rust tests' env XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" cargo test --release
  if [ -n "${DETRIM_REFERENCE-}" ]; then
    step 'Rust tests against the reference' env XDG_RUNTIME_DIR="${XDG_RUNTIME_DIR:-/tmp}" cargo test --release -- --ignored reference
  fi
}

test_web() {
  step 'set-up for browser tests' setup_browser
  step 'set-up for tests in Firefox' setup_firefox
  build_site
  step 'wasm without warnings' check_wasm
  step 'JavaScript types' www/node_modules/.bin/tsc -p www
  # The tests compare with the native command.
  step 'native command' cargo build --release --bin detrim
  step 'browser tests' node --test --test-concurrency=1 --test-reporter=spec tests/browser/*.test.js
}

serve() {
  local quick= options=()
  for option; do
    if [ "$option" = --quick ]; then quick=--quick; else options+=("$option"); fi
  done
  build_site ${quick:+"$quick"}
  exec node www/serve.js ${options[@]+"${options[@]}"}
}

case ${1-} in
  '')
    build_site
    summary
    echo 'The site is in www/dist.'
    ;;
  serve) serve "${@:2}" ;;
  test)
    case ${2-} in
      '')
        test_rust
        test_web
        ;;
      rust) test_rust ;;
      web) test_web ;;
      *) die "./build.sh test $2: rust or web, or nothing for both" ;;
    esac
    summary
    echo 'All tests passed.'
    ;;
  help | -h | --help) usage ;;
  *)
    usage >&2
    exit 2
    ;;
esac
