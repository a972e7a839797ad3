// build.sh on machines that lack something: a folder of stand-ins takes the place of the real PATH.

import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { REPOSITORY } from './harness.js';

const TOOLS = ['awk', 'bash', 'cat', 'cmp', 'cut', 'dirname', 'env', 'head', 'mkdir', 'sed', 'sort', 'uname'];

/**
 * Runs a line of bash with the set-up's functions, on a machine that has only basic tools and the given programs.
 * @param {import('node:test').TestContext} t @param {Record<string, string>} programs the body of each, in sh
 */
function machine(t, programs) {
  const folder = mkdtempSync(path.join(tmpdir(), 'detrim-machine-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const found = execFileSync('bash', ['-c', 'type -P "$@"', 'bash', ...TOOLS], { encoding: 'utf8' }).trim().split('\n');
  for (const tool of found) symlinkSync(tool, path.join(folder, path.basename(tool)));
  for (const [name, body] of Object.entries({ cc: 'true', ...programs })) {
    writeFileSync(path.join(folder, name), `#!${path.join(folder, 'bash')}\necho "${name} $*" >>"$HOME/calls"\n${body}\n`);
    chmodSync(path.join(folder, name), 0o755);
  }
  const environment = { PATH: folder, HOME: folder };
  return {
    /** @param {string} line @param {Record<string, string>} [more] */
    run(line, more = {}) {
      writeFileSync(path.join(folder, 'calls'), '');
      const command = `set -euo pipefail; . www/setup.sh; setup_debian_wasm() { echo "debian's compiler"; }; ${line}`;
      const { status, stdout, stderr } = spawnSync('bash', ['-c', command], { cwd: REPOSITORY, env: { ...environment, ...more }, encoding: 'utf8' });
      return { status, stdout, stderr, calls: readFileSync(path.join(folder, 'calls'), 'utf8') };
    },
    folder,
  };
}

/** @param {string} version @param {string} [sysroot] */
const rustc = (version, sysroot = '/none') => `case $1 in --version) echo "rustc ${version} (0123 2026-01-01)";; *) echo ${sysroot};; esac`;

test('versions compare as numbers', (t) => {
  const { run } = machine(t, {});
  assert.equal(run('at_least 1.100.0 1.93').status, 0);
  assert.equal(run('at_least 1.93.0 1.93').status, 0);
  assert.equal(run('at_least 1.9.5 1.93').status, 1);
  assert.equal(run('at_least 20.2.0 20.19.0').status, 1);
  assert.equal(run('at_least 22.0.0 20.19.0').status, 0);
});

test('a missing or old Rust, Node or npm is named, with the way to get it', (t) => {
  const wanted = /rust-version = "(.*)"/.exec(readFileSync(path.join(REPOSITORY, 'Cargo.toml'), 'utf8'))?.[1] ?? assert.fail('no rust-version');
  const none = machine(t, {});
  const missing = none.run('setup_rust');
  assert.equal(missing.status, 1);
  assert.match(missing.stderr, new RegExp(`Rust ${wanted} or newer is missing: https://rustup.rs`));
  assert.match(none.run('setup_node').stderr, /Node.js 20.19.0 or newer is missing: https:\/\/nodejs.org/);

  const old = machine(t, { cargo: '', rustc: rustc('1.63.0'), node: 'echo v18.20.4' });
  const outdated = old.run('setup_rust');
  assert.equal(outdated.status, 1);
  assert.match(outdated.stderr, /this is 1\.63\.0.*rustup update stable/);
  assert.match(old.run('setup_node').stderr, /Node.js 20.19.0 or newer is needed, and this is v18.20.4/);
  assert.match(machine(t, { node: 'echo v22.1.0' }).run('setup_node').stderr, /npm is missing/);
  assert.equal(machine(t, { cargo: '', rustc: rustc('1.999.0-nightly') }).run('setup_rust').status, 0);
});

test('a package that cannot be installed is named, with the command', (t) => {
  const plain = machine(t, { id: 'echo 1000', 'apt-get': 'exit 100' }).run("need 'A thing' thing lib-thing </dev/null");
  assert.equal(plain.status, 1);
  assert.match(plain.stderr, /A thing is missing. As the administrator, run: apt-get install thing lib-thing/);
  assert.equal(plain.calls.includes('apt-get'), false);
  const failing = machine(t, { id: 'echo 0', 'apt-get': 'exit 100' }).run("need 'A thing' thing");
  assert.equal(failing.status, 1);
  assert.match(failing.stderr, /`apt-get install thing` failed/);
  const elsewhere = machine(t, {}).run("need 'A thing' thing");
  assert.match(elsewhere.stderr, /A thing is missing. Debian has it in: thing/);
  const works = machine(t, { id: 'echo 0', 'apt-get': 'exit 0' }).run("need 'A thing' thing");
  assert.equal(works.status, 0, works.stderr);
  assert.match(works.calls, /apt-get .*install -y --no-install-recommends --no-remove thing/);
});

test('Firefox is installed where it is missing, and where it cannot be had the rest goes on', (t) => {
  const there = machine(t, { firefox: '', 'apt-get': 'exit 0', id: 'echo 0' }).run('setup_firefox');
  assert.deepEqual([there.status, there.calls], [0, '']);
  const missing = machine(t, { 'apt-get': 'exit 0', id: 'echo 0' }).run('setup_firefox');
  assert.equal(missing.status, 0, missing.stderr);
  assert.match(missing.calls, /apt-get .*install .* firefox-esr/);
  const nowhere = machine(t, {}).run('setup_firefox; echo "goes on"');
  assert.match(nowhere.stdout, /goes on/, nowhere.stderr);
  assert.match(nowhere.stderr, /Firefox .* is missing\..*going on without Firefox/s);
});

test("rustup's wasm target comes first, Debian's compiler where it can't be had, and the outcome is remembered", (t) => {
  const without = machine(t, { rustc: rustc('1.95.0'), rustup: 'exit 1' });
  const first = without.run('setup_wasm; wasm_toolchain');
  assert.equal(first.status, 0, first.stderr);
  assert.match(first.stdout, /debian's compiler\ndebian\n/);
  assert.match(first.calls, /rustup target add wasm32-unknown-unknown/);
  const second = without.run('setup_wasm; wasm_toolchain');
  assert.match(second.stdout, /debian's compiler\ndebian\n/);
  assert.doesNotMatch(second.calls, /rustup/);
  const insisted = without.run('setup_wasm', { DETRIM_WASM: 'rustup' });
  assert.equal(insisted.status, 1);
  assert.match(insisted.stderr, /must work for DETRIM_WASM=rustup/);

  // The stand-in for rustup makes what the real one would.
  const target = machine(t, { rustup: 'mkdir -p "$HOME/lib/rustlib/wasm32-unknown-unknown/lib"', rustc: rustc('1.95.0', '"$HOME"') });
  assert.match(target.run('setup_wasm; wasm_toolchain').stdout, /^rustup\n/);
  const again = target.run('setup_wasm; wasm_toolchain');
  assert.match(again.stdout, /^rustup\n/);
  assert.doesNotMatch(again.calls, /rustup/);
});

test('help explains, and an unknown command is an error', () => {
  const build = (/** @type {string[]} */ ...args) => spawnSync(path.join(REPOSITORY, 'build.sh'), args, { encoding: 'utf8' });
  assert.match(build('--help').stdout, /serve \[OPTIONS\][\s\S]*test \[rust\|web\]/);
  assert.equal(build('--help').status, 0);
  assert.equal(build('sevre').status, 2);
  assert.match(build('test', 'everything').stderr, /rust or web/);
});
