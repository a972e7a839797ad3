// Pages that embed the package under conditions of their own: isolated ones, service workers, an own thread with WebGPU, scripts that moved.

import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { convert, embed, model } from './embed.js';
import { REPOSITORY } from './harness.js';

const { file } = await model();
const MODEL = `/models/${file}`;
const CAT = '/samples/chelsea.png';

/** @typedef {NonNullable<import('../../www/serve.js').Options['intercept']>} Intercept */

test('a worker that can’t be loaded is an error that tells from where and why', async (t) => {
  /** @type {Intercept} */
  const intercept = (request, response) => {
    if (request.url === '/bare/worker.js') {
      // The page has this header.
      response.removeHeader('Cross-Origin-Embedder-Policy');
      response.writeHead(200, { 'Content-Type': 'text/javascript' }).end('import \'/detrim/worker.js\';');
      return true;
    }
    if (request.url !== '/page/worker.js') return false;
    response.writeHead(200, { 'Content-Type': 'text/html' }).end('<!doctype html>');
    return true;
  };
  const { page, api, url } = await embed(t, { server: { intercept }, expected: [/worker/i, /404/, /blocked/i, /MIME/] });
  const errors = await page.evaluate(async ({ api, MODEL }) => {
    const { Detrim } = api;
    const errors = [];
    for (const workerUrl of ['/bare/worker.js', '/nowhere/worker.js', '/page/worker.js', 'https://other.example/worker.js']) {
      errors.push(await Detrim.load(MODEL, { backend: 'cpu', workerUrl }).then(() => 'none', ({ code, message }) => `${code}: ${message}`));
    }
    return errors;
  }, { api, MODEL });
  for (const [i, place] of ['bare', 'nowhere', 'page'].entries()) assert.ok(errors[i].startsWith(`network: the worker's script can't be loaded from ${url}${place}/worker.js: `), errors[i]);
  assert.match(errors[0], /without a Cross-Origin-Embedder-Policy/);
  assert.match(errors[1], /the server answered 404/);
  assert.match(errors[2], /the server sent text\/html/);
  assert.match(errors[3], /^network: the worker can't be started from https:\/\/other\.example\/worker\.js, which is another origin/);
});

test('the package’s own worker is named where it is missing', async (t) => {
  /** @type {Intercept} */
  const intercept = (request, response) => {
    if (request.url !== '/detrim/worker.js') return false;
    response.writeHead(404).end();
    return true;
  };
  const { page, api, url } = await embed(t, { server: { intercept }, expected: [/worker/i, /404/] });
  const message = await page.evaluate(async ({ api, MODEL }) => await api.Detrim.load(MODEL).then(() => 'none', (error) => error.message), { api, MODEL });
  assert.ok(message.startsWith(`the worker's script can't be loaded from ${url}detrim/worker.js: the server answered 404`), message);
});

test('a service worker, as of a browser extension, computes on its own thread', async (t) => {
  // Neither document nor Worker nor import() is there, nor await outside of functions.
  const script = (/** @type {boolean} */ local) => `
    ${local ? 'import \'/detrim/local.js\';' : ''}
    import { Detrim } from '/detrim/index.js';
    addEventListener('install', () => skipWaiting());
    addEventListener('message', (event) => event.waitUntil((async () => {
      const [port] = event.ports;
      try {
        const d = await Detrim.load('${MODEL}', { backend: 'cpu', worker: event.data.worker });
        const found = await d.detect(await (await fetch('${CAT}')).blob());
        const { worker, backend } = d.info;
        const { heads } = await d.attention('${CAT}', found[0].query);
        d.dispose();
        port.postMessage({ label: found[0].label, width: found.width, heads, worker, backend, kind: String(globalThis) });
      } catch ({ code, message }) {
        port.postMessage({ code, message });
      }
    })()));`;
  const files = { '/with/service.js': script(true), '/without/service.js': script(false) };
  const { page } = await embed(t, { files });
  /** @param {string} place @param {boolean} worker */
  const ask = (place, worker) => page.evaluate(async ({ place, worker }) => {
    const registration = await navigator.serviceWorker.register(`/${place}/service.js`, { type: 'module', scope: `/${place}/` });
    const channel = new MessageChannel();
    const answer = new Promise((resolve) => (channel.port1.onmessage = ({ data }) => resolve(data)));
    const service = /** @type {ServiceWorker} */ (registration.installing ?? registration.waiting ?? registration.active);
    service.postMessage({ worker }, [channel.port2]);
    return await answer;
  }, { place, worker });
  const { heads, ...found } = /** @type {Record<string, unknown>} */ (await ask('with', false));
  assert.deepEqual(found, { label: 'cat', width: 451, worker: false, backend: 'cpu', kind: '[object ServiceWorkerGlobalScope]' });
  assert.ok(Number(heads) > 1);
  const refused = /** @type {Record<string, string>} */ (await ask('with', true));
  assert.equal(refused.code, 'unsupported');
  assert.match(refused.message, /no workers here.*`worker: false`/);
  const alone = /** @type {Record<string, string>} */ (await ask('without', false));
  assert.equal(alone.code, 'unsupported');
  assert.match(alone.message, /import "detrim\/local\.js"/);
});

test('on the calling thread with WebGPU, `info` and further calls work during one', async (t) => {
  const tiny = await convert(path.join(REPOSITORY, 'tests', 'fixtures', 'basic'), '--resize', '64x64', '--name', 'tiny', '--threshold', '0');
  const { page, api } = await embed(t, { webgpu: true, files: { '/tiny.safetensors': tiny } });
  const result = await page.evaluate(async ({ api, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load('/tiny.safetensors', { backend: 'webgpu', worker: false });
    const blob = await (await fetch(CAT)).blob();
    const controller = new AbortController();
    let over = false;
    const calls = [d.detect(blob), d.detect(blob), d.attention(blob, 0), d.detect(blob, { signal: controller.signal }), d.detect(blob)];
    const settled = Promise.allSettled(calls).finally(() => (over = true));
    let asked = 0;
    /** @type {Set<string>} */
    const backends = new Set();
    while (!over) {
      backends.add(d.info.backend);
      asked += 1;
      if (asked === 3) controller.abort();
      await new Promise((resolve) => setTimeout(resolve));
    }
    const results = (await settled).map((one) => (one.status === 'fulfilled' ? 'fine' : String(one.reason.code)));
    // Gone in the middle of a run, and another one right after.
    const last = d.detect(blob).catch((error) => error.code);
    await new Promise((resolve) => setTimeout(resolve, 5));
    d.dispose();
    const next = await Detrim.load('/tiny.safetensors', { backend: 'webgpu', worker: false });
    const found = (await next.detect(blob)).length;
    return { results, asked, backends: [...backends], last: await last, found };
  }, { api, CAT });
  assert.deepEqual(result.results, ['fine', 'fine', 'fine', 'aborted', 'fine']);
  assert.ok(result.asked > 3, `${result.asked} times only`);
  assert.deepEqual(result.backends, ['webgpu']);
  assert.ok(result.last === 'disposed' || Array.isArray(result.last), String(result.last));
  assert.ok(result.found > 0);
});
