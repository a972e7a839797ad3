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
import { DIST, REPOSITORY } from './harness.js';
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
  const [model, recipe] = [path.join(out, 'model.safetensors'), path.join(await folder(t), 'my own.toml')];
  await writeFile(model, await convert(path.join(REPOSITORY, 'tests', 'fixtures', 'basic'), '--resize', '64x64'));
  await writeFile(recipe, '[keep]\n"*.ffn" = 0.5\n');
  const report = async (/** @type {string[]} */ ...more) => await promisify(execFile)(path.join(REPOSITORY, 'target', 'release', 'detrim'), [
    'report', model, '--images', path.join(DIST, 'samples'), '--pictures', '2', '--recipe', recipe, '--no-curves', '--runs', '1', '--out', out, ...more,
  ]);
  await report();
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
    assert.deepEqual(Object.keys(networks), ['parent', 'my own']);
    for (const [name, turn] of Object.entries(networks)) {
      assert.equal(turn.sha256, createHash('sha256').update(await readFile(path.join(out, `${name}.safetensors`))).digest('hex'));
    }
    assert.ok(networks['my own'].ms > 0 && networks['my own'].ratio > 0);
  }
  assert.match(stdout, /a program on the processor/);
  await report('--browser', path.join(out, 'times.json'));
  const { rows } = JSON.parse(await readFile(path.join(out, 'report.json'), 'utf8'));
  assert.deepEqual(rows.map((/** @type {any} */ { browser }) => browser.wasm.ms > 0 && browser.webgpu.ms > 0), [true, true]);
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
  await writeFile(path.join(out, 'report.json'), '{"rows": []}');
  await says(/isn't a report/, out);
  await writeFile(path.join(out, 'report.json'), '{"rows": [{"name": "parent", "costs": {"size": [64, 64]}}]}');
  await says(/parent\.safetensors/, out);
  await writeFile(path.join(out, 'parent.safetensors'), 'nothing of the kind');
  await says(/^.*error: parent: .*not a checkpoint that detrim knows/s, out, '--backend', 'cpu');
  await writeFile(path.join(out, 'parent.safetensors'), await convert(path.join(REPOSITORY, 'tests', 'fixtures', 'basic')));
  await says(/no WebGPU: .*\n.*nothing could be measured/, out, '--backend', 'webgpu', '--chromium=--disable-gpu', '--chromium=--disable-software-rasterizer');
});
