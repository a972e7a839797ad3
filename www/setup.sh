# What the build and the tests need on this machine: checked, installed where that is possible, named where it isn't.
# Sourced by build.sh. Written for bash 3.2, which is what macOS has.

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

note() {
  printf '%s\n' "$*" >&2
}

# What is true of the machine and not of this checkout: which wasm compiler works here, the certificate for phones.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/detrim

# at_least FOUND WANTED, as version numbers.
at_least() {
  [ "$(printf '%s\n%s\n' "$2" "$1" | sort -t. -k1,1n -k2,2n -k3,3n | head -n 1)" = "$2" ]
}

# within SECONDS COMMAND...: a limit, where the system can set one.
within() {
  if command -v timeout >/dev/null; then timeout "$@"; else "${@:2}"; fi
}

# need WHAT PACKAGE...: installs Debian packages, or says how to get WHAT.
need() {
  local what=$1 as_root=
  shift
  command -v apt-get >/dev/null || die "$what is missing. Debian has it in: $*. Install what your system calls them, and run this again."
  if [ "$(id -u)" != 0 ]; then
    # sudo must not wait for a password where nobody can type one.
    if command -v sudo >/dev/null && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
      as_root=sudo
    else
      die "$what is missing. As the administrator, run: apt-get install $*"
    fi
  fi
  note "$what is missing: installing $*"
  local install="$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"
  # --no-remove: never at the price of something that is there already.
  $install install -y --no-install-recommends --no-remove "$@" >/dev/null 2>&1 ||
    { $install update && $install install -y --no-install-recommends --no-remove "$@" >/dev/null; } ||
    die "$what is missing, and \`apt-get install $*\` failed; the lines above say why."
}

setup_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  command -v cargo >/dev/null || die "Rust $wanted or newer is missing: https://rustup.rs installs it."
  found=$(rustc --version | awk '{ print $2 }')
  at_least "${found%%-*}" "$wanted" ||
    die "Rust $wanted or newer is needed, and this is $found. With rustup: \`rustup update stable\`. With Debian's Rust: https://rustup.rs, or \`apt-get install rustc-web cargo-web\`."
  if ! command -v cc >/dev/null; then
    [ "$(uname)" != Darwin ] || die 'a C compiler is missing: run `xcode-select --install`.'
    need 'A C compiler and linker' gcc libc6-dev
  fi
}

setup_node() {
  local wanted=20.19.0 found
  local how="https://nodejs.org has it, and so has Debian from version 13 on (nodejs, npm)."
  command -v node >/dev/null || die "Node.js $wanted or newer is missing: $how"
  found=$(node --version)
  at_least "${found#v}" "$wanted" || die "Node.js $wanted or newer is needed, and this is $found: $how"
  command -v npm >/dev/null || die "npm is missing; it comes with Node.js, or as Debian's package npm."
  cmp -s www/package-lock.json www/node_modules/.installed-from && return
  (cd www && npm ci --no-audit --no-fund) || die '`npm ci` failed in www; the lines above say why.'
  cp www/package-lock.json www/node_modules/.installed-from
}

has_wasm_std() {
  [ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown/lib" ]
}

setup_rustup_wasm() {
  has_wasm_std && return
  command -v rustup >/dev/null || return
  note 'adding the wasm target: rustup target add wasm32-unknown-unknown'
  within 120 rustup target add wasm32-unknown-unknown >&2 && has_wasm_std
}

setup_debian_wasm() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  if ! [ -x /usr/bin/cargo ] || ! [ -f /usr/lib/rustlib/src/rust/library/Cargo.toml ]; then
    need 'A Rust compiler for wasm (https://rustup.rs and `rustup target add wasm32-unknown-unknown` is the other way)' rustc-web cargo-web rust-web-src
  fi
  found=$(/usr/bin/rustc --version | awk '{ print $2 }')
  at_least "$found" "$wanted" || die "Rust $wanted or newer is needed for wasm, and Debian's is $found: https://rustup.rs and \`rustup target add wasm32-unknown-unknown\`."
  if [ -z "$(wasm_linker)" ]; then
    need "LLVM's linker" "lld-$(/usr/bin/rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')"
  fi
}

# The linker for Debian's compiler: that of rustup's toolchain if there is one, else LLVM's.
wasm_linker() {
  local candidate
  for candidate in "$(rustc --print sysroot)"/lib/rustlib/*/bin/rust-lld /usr/lib/llvm-*/bin/wasm-ld; do
    if [ -x "$candidate" ]; then
      echo "$candidate"
      return
    fi
  done
  command -v wasm-ld || true
}

# Which compiler makes the wasm: `rustup` or `debian`. setup_wasm has decided it.
wasm_toolchain() {
  if [ -n "${DETRIM_WASM-}" ]; then echo "$DETRIM_WASM"; else cut -d ' ' -f 1 "$cache/wasm-toolchain"; fi
}

setup_wasm() {
  local rust
  rust=$(rustc --version)
  case ${DETRIM_WASM-} in
    rustup) setup_rustup_wasm || die 'the wasm target is missing: `rustup target add wasm32-unknown-unknown` must work for DETRIM_WASM=rustup.' ;;
    debian) setup_debian_wasm ;;
    '')
      # What failed once (no rustup, or no way to its server) is not tried again with the same compiler.
      if [ "$(cat "$cache/wasm-toolchain" 2>/dev/null)" = "debian $rust" ]; then
        setup_debian_wasm
      else
        local choice=rustup
        setup_rustup_wasm || { choice=debian && note 'that cannot be had here; building the target with the compiler of Debian instead' && setup_debian_wasm; }
        mkdir -p "$cache"
        echo "$choice $rust" >"$cache/wasm-toolchain"
      fi
      ;;
    *) die "DETRIM_WASM=$DETRIM_WASM: rustup or debian" ;;
  esac
  note "wasm compiler: $(wasm_toolchain)"
}

setup_web() {
  setup_rust
  setup_node
  setup_wasm
}

find_chromium() {
  local candidate
  for candidate in "${CHROMIUM-}" chromium chromium-browser google-chrome google-chrome-stable \
    '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome' /Applications/Chromium.app/Contents/MacOS/Chromium; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null; then return; fi
  done
  return 1
}

setup_browser() {
  find_chromium || need 'Chromium (another one can be named in the environment variable CHROMIUM)' chromium
}

# Its tests are left out where it can't be had. With it a Vulkan driver, on which its WebGPU runs.
setup_firefox() {
  local candidate
  for candidate in "${FIREFOX-}" firefox-esr firefox /Applications/Firefox.app/Contents/MacOS/firefox; do
    if [ -n "$candidate" ] && command -v "$candidate" >/dev/null; then return; fi
  done
  (need 'Firefox (another one can be named in the environment variable FIREFOX)' firefox-esr mesa-vulkan-drivers) || note 'going on without Firefox: its tests are left out'
}

setup_native_tests() {
  setup_rust
  local tool
  for tool in fmt clippy; do
    cargo $tool --version >/dev/null 2>&1 || within 120 rustup component add "${tool/fmt/rustfmt}" >&2 ||
      die "cargo $tool is missing: with rustup \`rustup component add rustfmt clippy\`, else Debian's packages rustfmt and rust-clippy."
  done
  # The GPU kernels are tested on a software adapter, so that the outcome depends on no machine's hardware.
  if [ "$(uname)" = Linux ] && ! compgen -G '/usr/share/vulkan/icd.d/lvp_icd*.json' >/dev/null; then
    need "A software Vulkan driver (Mesa's lavapipe)" mesa-vulkan-drivers
  fi
}
