// The soak's arithmetic, and that the command runs. Whether memory stays flat takes longer: docs/soak.md.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { REPOSITORY } from './harness.js';
import { growth, leaks } from './soak.js';

test('what still grows in the second half is a leak, and warming up isn’t', () => {
  const samples = (/** @type {(i: number) => number} */ wasm, processes = (/** @type {number} */ _) => /** @type {number | null} */ (500)) => Array.from({ length: 16 }, (_, i) => (
    { frames: i + 1, seconds: i, wasm: wasm(i), heap: 1e6, processes: processes(i) }));
  assert.deepEqual(leaks(samples(() => 100)), []);
  assert.deepEqual(leaks(samples((i) => Math.min(i, 6))), [], 'it stays after six');
  assert.deepEqual(leaks(samples((i) => 100 + i)), ['wasm grew by 3.6%']);
  assert.deepEqual(leaks(samples(() => 100, (i) => 100 + i)), [], 'processes fluctuate by some percent');
  assert.deepEqual(leaks(samples(() => 100, (i) => 100 + 2 * i)), ['processes grew by 6.7%']);
  assert.deepEqual(growth(samples(() => 100, () => null)), { wasm: 0, heap: 0 }, 'where the system doesn’t tell');
});

test('the soak measures as often as it is told, and writes what it measured', async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'detrim-soak-'));
  t.after(() => rm(folder, { recursive: true }));
  const out = path.join(folder, 'soak.json');
  const command = (/** @type {string[]} */ ...options) => promisify(execFile)(process.execPath, [path.join(REPOSITORY, 'tests', 'browser', 'soak.js'), ...options])
    .catch((error) => /** @type {{stdout: string, stderr: string}} */ (error));
  // So few say nothing of growth, and may fail for it.
  const { stdout, stderr } = await command('--frames', '16', '--samples', '8', '--out', out);
  assert.equal(stdout.match(/frames .* s {3}wasm +[1-9][\d.]* {3}heap/g)?.length, 8, stdout + stderr);
  assert.match(stderr, /^(error: [a-z]+ grew by .*%\n)?$/);
  const { samples, backend, detections } = JSON.parse(await readFile(out, 'utf8'));
  assert.deepEqual(samples.map((/** @type {{frames: number}} */ { frames }) => frames), [2, 4, 6, 8, 10, 12, 14, 16]);
  assert.ok(backend === 'cpu' && detections > 0 && samples[7].wasm > 1e6 && samples[7].heap > 1e5);
  assert.match((await command('--frames', '4')).stderr, /usage: /);
});
