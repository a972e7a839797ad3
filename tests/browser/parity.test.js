// Every stage of every fixture, and of the model and cases in the folder DETRIM_REFERENCE, in the browser: on WebAssembly's CPU and on WebGPU, against what
// PyTorch computed. As tests/parity.rs has it natively, and with the same tolerances.

import assert from 'node:assert/strict';
import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { convert, embed } from './embed.js';
import { REPOSITORY } from './harness.js';

/** What shapes can't tell and the original repository's files don't say. @type {Record<string, string[]>} */
const GUESSES = { 'original-zip': ['--heads', '4'], 'original-legacy': ['--heads', '3', '--dilation'],
  'family/deimv2-hybrid': ['--exact-transformers'] };
const FIXTURES = ['basic', 'bottleneck-dc5', 'lite0', 'native', 'native-basic', 'original-legacy', 'original-zip', 'trimmed',
  'family/rt_detr', 'family/rt_detr_v2', 'family/rt_detr_v2-discrete', 'family/d_fine', 'family/deimv2-hybrid', 'family/deimv2-lite-as-trained',
  'family/rt_detr-levels', 'family/rt_detr_v2-pre-norm'];

/** A folder with a larger model and cases than the repository has. */
const REFERENCE = process.env.DETRIM_REFERENCE;

/** @typedef {{shape: number[], data: Float32Array}} Tensor */

/**
 * The float32 tensors of a .safetensors file.
 * @param {Buffer} file
 */
function read(file) {
  const start = 8 + Number(file.readBigUInt64LE());
  const header = JSON.parse(file.toString('utf8', 8, start));
  /** @type {Map<string, Tensor>} */
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (dtype === 'F32') tensors.set(name, { shape, data: new Float32Array(Uint8Array.from(file.subarray(start + from, start + to)).buffer) });
  }
  return tensors;
}

/**
 * What is too far off, a line each.
 * @param {Map<string, Tensor>} found @param {Map<string, Tensor>} expected
 */
function compare(found, expected) {
  const problems = [];
  for (const [name, { shape, data }] of expected) {
    const ours = found.get(name);
    assert.deepEqual(ours?.shape, shape, name);
    const largest = data.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
    const allowed = name === 'logits' ? 5e-3 : name === 'pred_boxes' ? (expected.has('enc_topk_ind') ? 2e-4 : 1e-4) : 1e-3 * largest;
    const off = data.reduce((top, x, i) => Math.max(top, Math.abs(x - ours.data[i])), 0);
    // Written so that a NaN doesn't pass.
    if (!(off <= allowed)) problems.push(`${name}: off by ${off}, and ${allowed} is allowed`);
  }
  return problems;
}

/**
 * @param {import('node:test').TestContext} t
 * @param {string} folder
 * @param {string[]} guesses
 * @param {boolean} webgpu
 */
async function check(t, folder, guesses, webgpu) {
  const names = (await readdir(folder)).filter((name) => /^(case_.*|plain|masked|even|case)\.safetensors$/.test(name));
  assert.ok(names.length > 0, `no cases in ${folder}`);
  /** @type {Map<string, Buffer>} */
  const cases = new Map();
  for (const name of names) cases.set(`/${name}`, await readFile(path.join(folder, name)));
  const { page, api } = await embed(t, { webgpu, files: { '/model.safetensors': await convert(folder, ...guesses), ...Object.fromEntries(cases) } });
  for (const [name, file] of cases) {
    const wanted = webgpu ? 'webgpu' : 'cpu';
    const { backend, stages } = await page.evaluate(async ({ api, name, backend }) => {
      const d = await api.Detrim.load('/model.safetensors', { backend });
      const bytes = await d.forward(new Uint8Array(await (await fetch(name)).arrayBuffer()));
      const reader = new FileReader();
      const read = new Promise((resolve) => (reader.onload = resolve));
      reader.readAsDataURL(new Blob([/** @type {Uint8Array<ArrayBuffer>} */ (bytes)]));
      await read;
      const result = { backend: d.info.backend, stages: String(reader.result).replace(/^.*,/, '') };
      d.dispose();
      return result;
    }, { api, name, backend: /** @type {'webgpu' | 'cpu'} */ (wanted) });
    assert.equal(backend, wanted);
    const expected = read(file);
    expected.delete('pixel_values');
    expected.delete('pixel_mask');
    const found = read(Buffer.from(stages, 'base64'));
    assert.deepEqual([...found.keys()].sort(), [...expected.keys()].sort(), 'every stage is expected');
    assert.deepEqual(compare(found, expected), [], `${path.basename(folder)}${name} on ${backend}`);
  }
}

for (const webgpu of [false, true]) {
  const where = webgpu ? 'WebGPU' : 'the CPU';
  for (const fixture of FIXTURES) {
    test(`${fixture} on ${where}`, (t) => check(t, path.join(REPOSITORY, 'tests', 'fixtures', fixture), GUESSES[fixture] ?? [], webgpu));
  }
  test(`the reference on ${where}`, { skip: REFERENCE ? false : 'needs the folder DETRIM_REFERENCE' }, (t) => check(t, REFERENCE ?? '', [], webgpu));
}

test('what is no case is refused', async (t) => {
  const { page, api } = await embed(t, { files: { '/model.safetensors': await convert(path.join(REPOSITORY, 'tests', 'fixtures', 'basic')) } });
  const [code, message] = await page.evaluate(async ({ api }) => {
    const d = await api.Detrim.load('/model.safetensors', { backend: 'cpu' });
    return await d.forward(new Uint8Array(100)).then(() => ['none', ''], ({ code, message }) => [code, message]);
  }, { api });
  assert.equal(code, 'source');
  assert.match(message, /not a \.safetensors file/);
});
