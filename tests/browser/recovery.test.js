// What the package does when something gives way under it: no WebGPU, a lost GPU, a trap in wasm. Each worker here is the package's own with
// something broken in it first; `workerUrl` is how a page names one.

import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { convert, embed, model } from './embed.js';
import { REPOSITORY } from './harness.js';

const { file, sha256 } = await model();
const MODEL = `/models/${file}`;
const CAT = '/samples/chelsea.png';

/** A model that knows nothing, but a software GPU is done with it in a moment. */
const TINY = { '/tiny.safetensors': await convert(path.join(REPOSITORY, 'tests', 'fixtures', 'basic'), '--resize', '64x64', '--name', 'tiny', '--threshold', '0') };

/** Devices are lost at the word 'lose'; after 'lose all', so is each later one as soon as it has work. The emulated GPU passes for a real one. */
const LOSING = `
Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { value: false });
const open = GPUAdapter.prototype.requestDevice;
const devices = [];
let all = false;
GPUAdapter.prototype.requestDevice = async function (...options) {
  const device = await open.apply(this, options);
  devices.push(device);
  const submit = device.queue.submit;
  device.queue.submit = function (...commands) {
    if (all) device.destroy();
    return submit.apply(this, commands);
  };
  return device;
};
addEventListener('message', (event) => {
  if (!String(event.data).startsWith('lose')) return;
  all = event.data === 'lose all';
  event.stopImmediatePropagation();
  for (const device of devices) device.destroy();
});
await import('/detrim/worker.js');
`;

/** The GPU passes for a real one, and an exception comes out of one of its methods in the middle of wasm. */
const THROWING = `
Object.defineProperty(GPUAdapterInfo.prototype, 'isFallbackAdapter', { value: false });
const spoil = () => { GPUDevice.prototype.createBuffer = () => { throw new Error('a driver without manners'); }; };
if (import.meta.url.endsWith('?later')) addEventListener('message', ({ data }) => data.name === 'detect' && spoil());
else spoil();
await import('/detrim/worker.js');
`;

/** When asked for this threshold, the code runs into an address that it doesn't have. */
const TRAPPING = `
const instantiate = WebAssembly.instantiateStreaming;
let exports;
WebAssembly.instantiateStreaming = async (...source) => {
  const result = await instantiate(...source);
  ({ exports } = result.instance);
  return result;
};
addEventListener('message', (event) => {
  if (event.data.name !== 'detect' || event.data.args.threshold !== 0.123) return;
  const [name] = Object.keys(exports).filter((name) => name.startsWith('detector_info'));
  exports[name](0xfffffff0);
});
await import('/detrim/worker.js');
`;

test('WebGPU finds what the CPU finds', async (t) => {
  const { page, api } = await embed(t, { webgpu: true, files: TINY });
  const { gpu, again, cpu, infos } = await page.evaluate(async ({ api, CAT }) => {
    const { Detrim } = api;
    const g = await Detrim.load('/tiny.safetensors', { backend: 'webgpu' });
    const c = await Detrim.load('/tiny.safetensors', { backend: 'cpu' });
    return { gpu: await g.detect(CAT), again: await g.detect(CAT), cpu: await c.detect(CAT), infos: [g.info, c.info] };
  }, { api, CAT });
  assert.equal(infos[0].backend, 'webgpu');
  assert.ok(infos[0].dispatches > 10 && infos[0].memory.gpu > 100_000 && infos[0].adapter.length > 3, JSON.stringify(infos[0]));
  assert.deepEqual([infos[1].backend, infos[1].dispatches, infos[1].memory.gpu, infos[1].adapter], ['cpu', 0, 0, 'CPU']);
  assert.deepEqual(again, gpu);
  assert.ok(cpu.length > 0);
  assert.equal(gpu.length, cpu.length);
  for (const [i, { label, score, box }] of gpu.entries()) {
    assert.equal(label, cpu[i].label);
    assert.ok(Math.abs(score - cpu[i].score) < 1e-4, `${score}, not ${cpu[i].score}`);
    for (const side of /** @type {const} */ (['xmin', 'ymin', 'xmax', 'ymax'])) {
      assert.ok(Math.abs(box[side] - cpu[i].box[side]) < 1e-3 * 300, `${side} ${box[side]}, not ${cpu[i].box[side]}`);
    }
  }
});

test('auto takes the CPU where there is no WebGPU, or only an emulated one, and says so', async (t) => {
  for (const webgpu of [false, true]) {
    const { page, api } = await embed(t, { webgpu, files: TINY });
    const { info, code } = await page.evaluate(async ({ api }) => {
      const { Detrim } = api;
      const d = await Detrim.load('/tiny.safetensors');
      const code = await Detrim.load('/tiny.safetensors', { backend: 'webgpu' }).then(() => 'none', (error) => error.code);
      return { info: d.info, code };
    }, { api });
    assert.equal(info.backend, 'cpu');
    assert.match(String(info.why), webgpu ? /emulated/ : /WebGPU/);
    assert.equal(code, webgpu ? 'none' : 'unsupported');
  }
});

/**
 * A page whose workers are within reach: the package gives no access to its own.
 * @param {import('node:test').TestContext} t
 * @param {Parameters<typeof embed>[1]} options
 */
async function exposed(t, options) {
  const opened = await embed(t, options);
  await opened.page.evaluate(() => {
    const Original = Worker;
    globalThis.Worker = class extends Original {
      /** @param {string | URL} url @param {WorkerOptions} [options] */
      constructor(url, options) {
        super(url, options);
        Object.assign(globalThis, { lastWorker: this });
      }
    };
  });
  return opened;
}

test('a GPU that is lost is replaced, and no call notices; then the CPU takes over', async (t) => {
  const { page, api, site } = await exposed(t, { webgpu: true, files: { ...TINY, '/losing.js': LOSING } });
  const result = await page.evaluate(async ({ api, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load('/tiny.safetensors', { workerUrl: '/losing.js' });
    const lose = (/** @type {string} */ word) => /** @type {any} */ (globalThis).lastWorker.postMessage(word);
    /** @type {string[]} */
    const changes = [];
    d.addEventListener('change', (event) => {
      const { reason, message, info } = /** @type {import('../../www/detrim/index.js').ChangeEvent} */ (event);
      changes.push(`${reason}: ${info.backend}: ${message}`);
    });
    const before = await d.detect(CAT);
    lose('lose');
    const after = await d.detect(CAT);
    const info = d.info;
    lose('lose all');
    const onCpu = await d.detect(CAT);
    return { changes, before, after, onCpu, infos: [info, d.info], onchange: d.onchange };
  }, { api, CAT });
  assert.deepEqual(result.after, result.before);
  assert.equal(result.infos[0].backend, 'webgpu');
  assert.ok(result.infos[0].dispatches > 10);
  assert.equal(result.onCpu.length, result.before.length);
  assert.ok(Math.abs(result.onCpu[0].score - result.before[0].score) < 1e-4);
  assert.equal(result.infos[1].backend, 'cpu');
  assert.match(String(result.infos[1].why), /GPU failed.*lost/);
  assert.equal(result.changes.length, 3, String(result.changes));
  assert.match(result.changes[0], /^gpu-lost: webgpu: .*lost/);
  assert.match(result.changes[1], /^gpu-lost: webgpu: .*lost/);
  assert.match(result.changes[2], /^gpu-lost: cpu: .*lost/);
  assert.equal(site.requests.filter(({ path }) => path === '/tiny.safetensors').length, 1);
});

test('where only WebGPU will do, a GPU that keeps failing is an error', async (t) => {
  const { page, api } = await exposed(t, { webgpu: true, files: { ...TINY, '/losing.js': LOSING } });
  const result = await page.evaluate(async ({ api, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load('/tiny.safetensors', { backend: 'webgpu', workerUrl: '/losing.js' });
    const lose = (/** @type {string} */ word) => /** @type {any} */ (globalThis).lastWorker.postMessage(word);
    lose('lose all');
    const code = await d.detect(CAT).then(() => 'none', (error) => error.code);
    lose('lose');
    // The GPU came back.
    return { code, found: (await d.detect(CAT)).length, backend: d.info.backend };
  }, { api, CAT });
  assert.deepEqual([result.code, result.backend], ['gpu-lost', 'webgpu']);
  assert.ok(result.found > 0);
});

test('a GPU that throws leaves the CPU', async (t) => {
  const files = { ...TINY, '/throwing.js?at-once': THROWING, '/throwing.js?later': THROWING };
  const { page, api, site } = await embed(t, { webgpu: true, files, expected: [/without manners/] });
  const { whileLoading, later, code } = await page.evaluate(async ({ api, CAT }) => {
    const { Detrim } = api;
    const a = await Detrim.load('/tiny.safetensors', { workerUrl: '/throwing.js?at-once' });
    const whileLoading = { found: (await a.detect(CAT)).length, info: a.info };
    const b = await Detrim.load('/tiny.safetensors', { workerUrl: '/throwing.js?later' });
    const before = b.info.backend;
    const lost = await b.detect(CAT).then(() => 'none', (error) => error.code);
    const later = { before, lost, found: (await b.detect(CAT)).length, info: b.info };
    const code = await Detrim.load('/tiny.safetensors', { backend: 'webgpu', workerUrl: '/throwing.js?at-once' }).then(() => 'none', (error) => error.code);
    return { whileLoading, later, code };
  }, { api, CAT });
  for (const { info, found } of [whileLoading, later]) {
    assert.equal(info.backend, 'cpu');
    assert.match(String(info.why), /^with WebGPU the engine broke down: .*without manners[^\n]*$/);
    assert.ok(found > 0);
  }
  assert.deepEqual([later.before, later.lost, code], ['webgpu', 'crashed', 'crashed']);
  // One for each load, none for each worker.
  assert.equal(site.requests.filter(({ path }) => path === '/tiny.safetensors').length, 3);
});

test('after a trap the worker is replaced, without another request for the model', async (t) => {
  const { page, api, site } = await embed(t, { files: { '/trapping.js': TRAPPING }, expected: [/RuntimeError/] });
  const result = await page.evaluate(async ({ api, MODEL, CAT, sha256 }) => {
    const { Detrim, DetrimError } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu', sha256, workerUrl: '/trapping.js' });
    /** @type {any[]} */
    const changes = [];
    d.onchange = ({ reason, info }) => changes.push([reason, info.backend]);
    const blob = await (await fetch(CAT)).blob();
    const calls = [d.detect(blob), d.detect(blob, { threshold: 0.123 }), d.detect(blob)];
    const results = await Promise.allSettled(calls);
    return {
      labels: results.map((result) => (result.status === 'fulfilled' ? result.value[0].label : result.reason.code)),
      typed: results[1].status === 'rejected' && results[1].reason instanceof DetrimError && results[1].reason.message, changes,
    };
  }, { api, MODEL, CAT, sha256 });
  assert.deepEqual(result.labels, ['cat', 'crashed', 'cat']);
  assert.match(String(result.typed), /broke down.*(memory|bounds)/);
  assert.deepEqual(result.changes, [['crashed', 'cpu']]);
  assert.equal(site.requests.filter(({ path }) => path === MODEL).length, 1);
  assert.equal(page.workers().length, 1);
});
