// Times of a report's networks in the browser, for `detrim report --browser`.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { convert } from './embed.js';
import { REPOSITORY } from './harness.js';
import { compare, takeTurns } from './turns.js';

/** The command, run to its end. @param {...string} args */
async function run(...args) {
  const command = [path.join(REPOSITORY, 'tests', 'browser', 'report.js'), ...args];
  return await promisify(execFile)(process.execPath, command).catch(({ stdout, stderr }) => ({ stdout: String(stdout), stderr: String(stderr), failed: true }));
}

/** A folder until the test ends. @param {import('node:test').TestContext} t */
async function folder(t) {
  const made = await mkdtemp(path.join(tmpdir(), 'detrim-report-'));
  t.after(() => rm(made, { recursive: true }));
  return made;
}

test('networks take turns, and are compared round by round', async () => {
  // A machine that gets slower and slower: the medians are of different rounds, the ratios aren't.
  const order = /** @type {string[]} */ ([]);
  let slower = 1;
  const times = await takeTurns(['parent', 'layers'], 3, async (name) => {
    order.push(name);
    if (name === 'parent') slower *= 2;
    return (name === 'parent' ? 10 : 5) * slower;
  }, () => {});
  assert.deepEqual(order, ['parent', 'layers', 'parent', 'layers', 'parent', 'layers', 'parent', 'layers'], 'the first round only warms up');
  assert.deepEqual(times, { parent: [40, 80, 160], layers: [20, 40, 80] });
  assert.deepEqual(compare([1, 9, 4], [2, 3, 16]), { ms: 4, ratio: 0.5 });
  assert.deepEqual(compare([1, 3], [1, 1]), { ms: 2, ratio: 2 });
});

test('a report’s networks are timed on the CPU and on WebGPU, and a GPU that is a program is called so', async (t) => {
  const out = await folder(t);
  /** @type {Record<string, string>} */
  const sha256 = {};
  for (const [name, fixture] of [['parent', 'basic'], ['my own', 'trimmed']]) {
    const file = await convert(path.join(REPOSITORY, 'tests', 'fixtures', fixture), '--resize', '64x64');
    sha256[name] = createHash('sha256').update(file).digest('hex');
    await writeFile(path.join(out, `${name}.safetensors`), file);
  }
  await writeFile(path.join(out, 'report.json'), JSON.stringify({ size: [64, 64], rows: [{ name: 'parent' }, { name: 'my own' }] }));
  const { stdout, stderr } = await run(out, '--rounds', '2');
  assert.match(stderr, /round 2 of 2: parent [\d.]+, my own [\d.]+ ms/);
  const times = JSON.parse(await readFile(path.join(out, 'times.json'), 'utf8'));
  assert.match(times.browser, /^Chromium \d+\./);
  for (const place of ['wasm', 'webgpu']) {
    const { adapter, software, rounds, networks } = times[place];
    assert.equal(rounds, 2);
    assert.equal(software, place === 'webgpu', `${place}: ${adapter}`);
    assert.match(adapter, place === 'wasm' ? /^CPU$/ : /swiftshader/i);
    assert.equal(networks.parent.ratio, 1);
    assert.deepEqual(Object.fromEntries(Object.entries(networks).map(([name, turn]) => [name, turn.sha256])), sha256);
    assert.ok(networks['my own'].ms > 0 && networks['my own'].ratio > 0);
  }
  assert.match(stdout, /a program on the processor/);
});

test('without a report, a network or WebGPU, it says so', async (t) => {
  const out = await folder(t);
  const says = async (/** @type {RegExp} */ expected, /** @type {string[]} */ ...args) => {
    const { stderr, ...rest } = await run(...args);
    assert.ok('failed' in rest, 'it has failed');
    assert.match(stderr, expected);
    assert.doesNotMatch(stderr, /\n\s+at /, 'no stack');
  };
  await says(/usage:/);
  await says(/report\.json can't be read: `detrim report/, out);
  await says(/--rounds: a whole number/, out, '--rounds', '0');
  await says(/--backend: cpu or webgpu, not gpu/, out, '--backend', 'gpu');
  await writeFile(path.join(out, 'report.json'), '{"size": [64, 64], "rows": []}');
  await says(/isn't a report/, out);
  await writeFile(path.join(out, 'report.json'), '{"size": [64, 64], "rows": [{"name": "parent"}]}');
  await says(/parent\.safetensors/, out);
  await writeFile(path.join(out, 'parent.safetensors'), 'nothing of the kind');
  await says(/^.*error: parent: .*not a model of detrim/s, out, '--backend', 'cpu');
  await writeFile(path.join(out, 'parent.safetensors'), await convert(path.join(REPOSITORY, 'tests', 'fixtures', 'basic')));
  await says(/no WebGPU: .*\n.*nothing could be measured/, out, '--backend', 'webgpu', '--chromium=--disable-gpu', '--chromium=--disable-software-rasterizer');
});
