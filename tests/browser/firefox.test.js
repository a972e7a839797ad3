// The page in Firefox: on the CPU, and on WebGPU where it has an adapter, it finds what the command finds. Left out where there is no Firefox.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { findFirefox, launchFirefox } from './firefox.js';
import { DIST, REPOSITORY, serve } from './harness.js';

const program = findFirefox();
const skip = program === undefined && 'no Firefox found: install one, or name it in the environment variable FIREFOX';
const CAT = 'chelsea.png';

/** @typedef {{label: string, score: number, box: {xmin: number, ymin: number, xmax: number, ymax: number}}} Found */

/** What the command finds. @returns {Promise<Found[]>} */
async function native() {
  const { stdout } = await promisify(execFile)(path.join(REPOSITORY, 'target', 'release', 'detrim'), ['detect', path.join(DIST, 'samples', CAT), '--backend', 'cpu', '--json', '-']);
  return JSON.parse(stdout)[0].detections;
}

/** @param {Found[]} found @param {Found[]} expected */
function assertSame(found, expected) {
  assert.deepEqual(found.map(({ label }) => label), expected.map(({ label }) => label));
  for (const [i, { score, box }] of expected.entries()) {
    assert.ok(Math.abs(found[i].score - score) < 2e-3, `score ${found[i].score}, not ${score}`);
    for (const side of /** @type {(keyof Found['box'])[]} */ (Object.keys(box))) assert.ok(Math.abs(found[i].box[side] - box[side]) < 0.5, `${side} ${found[i].box[side]}, not ${box[side]}`);
  }
}

/** @param {import('node:test').TestContext} t @param {{webgpu: boolean}} options */
async function open(t, options) {
  const site = await serve(t);
  const firefox = await launchFirefox(/** @type {string} */ (program), options);
  t.after(firefox.close);
  return { ...firefox, url: site.url, violations: site.violations };
}

test('Firefox, CPU: a sample’s objects are listed, and are those of the command', { skip }, async (t) => {
  const { goto, evaluate, problems, violations, url } = await open(t, { webgpu: false });
  await goto(url);
  const { backend, listed } = await evaluate(async (cat) => {
    const app = /** @type {HTMLElement} */ (document.getElementById('app'));
    const until = async (/** @type {() => unknown} */ done) => {
      while (!done()) await new Promise((resolve) => setTimeout(resolve, 50));
    };
    await until(() => ['ready', 'failed'].includes(app.dataset.engine ?? '') && document.querySelector('#samples button'));
    /** @type {HTMLElement} */ (document.querySelector(`#samples button[aria-label*="${cat}"]`)).click();
    await until(() => app.dataset.shown);
    return { backend: app.dataset.backend, listed: [...document.querySelectorAll('#list li:not([hidden]) .name')].map((name) => name.textContent) };
  }, 'Chelsea');
  assert.equal(backend, 'cpu');
  const expected = await native();
  assert.deepEqual(listed, expected.map(({ label }) => label));
  assertSame(await detect(evaluate, 'cpu'), expected);
  assert.deepEqual([...problems, ...violations], [], 'the page must be silent');
});

test('Firefox, WebGPU: the same objects', { skip }, async (t) => {
  const { goto, evaluate, problems, violations, url, version } = await open(t, { webgpu: true });
  await goto(url);
  const missing = await evaluate(async () => {
    if (!navigator.gpu) return 'it has no WebGPU';
    const adapter = await navigator.gpu.requestAdapter().catch((error) => String(error));
    return typeof adapter === 'string' ? adapter : adapter ? '' : 'it finds no adapter, such as Mesa’s lavapipe is';
  }, null);
  // ESR 140 was built without it for Linux.
  if (missing) return t.skip(`Firefox ${version}: ${missing}`);
  assertSame(await detect(evaluate, 'webgpu'), await native());
  assert.deepEqual([...problems, ...violations], [], 'the page must be silent');
});

/** @param {Awaited<ReturnType<typeof launchFirefox>>['evaluate']} evaluate @param {'cpu' | 'webgpu'} backend @returns {Promise<Found[]>} */
async function detect(evaluate, backend) {
  return await evaluate(async ({ backend, CAT }) => {
    /** @type {typeof import('../../www/detrim/index.js')} */
    const { Detrim } = await import(new URL('detrim/index.js', location.href).href);
    const [model] = await (await fetch('models/index.json')).json();
    const detector = await Detrim.load(new URL(`models/${model.file}`, location.href), { backend });
    return [...await detector.detect(new URL(`samples/${CAT}`, location.href))];
  }, { backend, CAT });
}
