// Pictures that don't come, don't load or may not be read: each is its caller's alone, and the next picture works.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { embed, model } from './embed.js';
import { REPOSITORY, serve } from './harness.js';

const { file } = await model();
const MODEL = `/models/${file}`;
const CAT = '/samples/chelsea.png';

/** Requests of this address are never answered. @type {NonNullable<import('../../www/serve.js').Options['intercept']>} */
const stall = (request) => request.url === '/stalled.png';

test('a picture that never comes keeps nobody waiting, and can be given up', { timeout: 60_000 }, async (t) => {
  for (const worker of [true, false]) {
    const { page, api } = await embed(t, { server: { intercept: stall } });
    const result = await page.evaluate(async ({ api, MODEL, CAT, worker }) => {
      const { Detrim } = api;
      const d = await Detrim.load(MODEL, { backend: 'cpu', worker });
      /** @param {Promise<unknown>} promise */
      const code = (promise) => promise.then(() => 'none', (error) => error.code);
      // Browsers load such a picture when it comes near the window.
      const lazy = Object.assign(new Image(), { loading: 'lazy', src: CAT });
      lazy.style.cssText = 'position: absolute; top: 100000px';
      document.body.append(lazy);
      const [one, two] = [new AbortController(), new AbortController()];
      const stuck = [code(d.detect(lazy, { signal: one.signal })), code(d.detect('/stalled.png', { signal: two.signal })), code(d.attention(lazy, 0, { signal: one.signal }))];
      const [{ label }] = await d.detect(CAT);
      const complete = lazy.complete;
      one.abort();
      two.abort();
      const codes = await Promise.all(stuck);
      const left = [code(d.detect(lazy)), code(d.attention('/stalled.png', 0))];
      await d.detect(CAT);
      d.dispose();
      return { label, complete, codes, left: await Promise.all(left) };
    }, { api, MODEL, CAT, worker });
    assert.equal(result.complete, false, 'the browser loaded it after all, so this tested nothing');
    assert.deepEqual(result, { label: 'cat', complete: false, codes: Array(3).fill('aborted'), left: Array(2).fill('disposed') });
  }
});

test('a picture that fails while others run is one rejection, at its caller', async (t) => {
  const { page, api } = await embed(t, { expected: [/404/] });
  const { results, unhandled } = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    /** @type {string[]} */
    const unhandled = [];
    addEventListener('unhandledrejection', (event) => unhandled.push(String(event.reason)));
    const broken = Object.assign(new Image(), { src: 'data:image/png;base64,AAAA' });
    const long = `/nowhere?${'A'.repeat(10_000)}`;
    const sources = [CAT, '/nowhere.jpg', broken, /** @type {any} */ (7), document.createElement('video'), long, new Blob(['no picture']), CAT];
    const settled = await Promise.allSettled([...sources.map((source) => d.detect(source)), d.attention('/nowhere.jpg', 0), d.detect('/nowhere.jpg', { signal: AbortSignal.abort() })]);
    // Whatever nobody handled is told a moment later.
    await new Promise((resolve) => setTimeout(resolve, 100));
    return { results: settled.map((one) => (one.status === 'fulfilled' ? 'fine' : `${one.reason.code}: ${one.reason.message}`)), unhandled };
  }, { api, MODEL, CAT });
  assert.deepEqual(unhandled, []);
  assert.deepEqual(results.map((result) => result.replace(/:.*/s, '')), ['fine', 'network', 'source', 'source', 'source', 'network', 'source', 'fine', 'network', 'aborted']);
  assert.match(results[1], /nowhere\.jpg: the server answered 404/);
  assert.match(results[3], /from a Number: an address, Blob, .* was expected$/);
  for (const result of results) assert.ok(result.length < 300, result);
});

test('a picture of another host that may not be read is refused with the remedy, and the next one isn’t', async (t) => {
  const cat = await readFile(path.join(REPOSITORY, 'www', 'samples', 'chelsea.png'));
  const elsewhere = await serve(t, {
    intercept: (_, response) => {
      response.removeHeader('Content-Security-Policy');
      // Any page may show it, but none may read it.
      response.setHeader('Cross-Origin-Resource-Policy', 'cross-origin');
      response.writeHead(200, { 'Content-Type': 'image/png' }).end(cat);
      return true;
    },
  });
  const open = (/** @type {import('node:http').IncomingMessage} */ _, /** @type {import('node:http').ServerResponse} */ response) => {
    response.setHeader('Content-Security-Policy', `default-src 'self' data: ${elsewhere.url}; script-src 'self' 'wasm-unsafe-eval'`);
    return false;
  };
  const { page, api } = await embed(t, { server: { intercept: open }, expected: [/asked another host/, /CORS/, /Failed to load resource/] });
  for (const worker of [true, false]) {
    const { errors, label } = await page.evaluate(async ({ api, MODEL, CAT, worker, url }) => {
      const { Detrim } = api;
      const d = await Detrim.load(MODEL, { backend: 'cpu', worker });
      const img = Object.assign(new Image(), { src: url });
      await img.decode();
      const canvas = Object.assign(document.createElement('canvas'), { width: 40, height: 30 });
      canvas.getContext('2d')?.drawImage(img, 0, 0);
      const errors = [];
      for (const source of [img, canvas, await createImageBitmap(img), url]) {
        errors.push(await d.detect(source).then(() => 'none', (error) => `${error.code}: ${error.message}`));
      }
      return { errors, label: (await d.detect(CAT))[0].label };
    }, { api, MODEL, CAT, worker, url: `${elsewhere.url}cat.png` });
    for (const error of errors.slice(0, 3)) assert.match(error, /^source: .*\(CORS\).*crossorigin="anonymous".*Access-Control-Allow-Origin/);
    assert.match(errors[3], /^network: .*cat\.png: .*CORS: Access-Control-Allow-Origin/);
    assert.equal(label, 'cat', `worker: ${worker}`);
  }
});

test('a call that is given up frees the worker, too', { timeout: 120_000 }, async (t) => {
  const { page, api, site } = await embed(t);
  /** @type {string[]} */
  const workers = [];
  page.on('worker', (worker) => {
    workers.push('started');
    worker.on('close', () => workers.push('ended'));
  });
  const result = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const controller = new AbortController();
    /** @type {string[]} */
    const changes = [];
    d.onchange = ({ reason }) => changes.push(reason);
    // Hours of work.
    const endless = d.bench({ runs: 1e6, signal: controller.signal }).catch((error) => error.code);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const next = d.detect(CAT);
    controller.abort();
    return { code: await endless, label: (await next)[0].label, again: (await d.detect(CAT))[0].label, backend: d.info.backend, changes };
  }, { api, MODEL, CAT });
  assert.deepEqual(result, { code: 'aborted', label: 'cat', again: 'cat', backend: 'cpu', changes: [] });
  // The browser tells of an end a moment later.
  while (workers.length < 3) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.deepEqual(workers.toSorted(), ['ended', 'started', 'started']);
  assert.equal(site.requests.filter((request) => request.path === MODEL).length, 1);
});

test('a picture’s file may be bytes, a response, or on its way', async (t) => {
  const { page, api } = await embed(t, { expected: [/404/] });
  const { found, errors } = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const bytes = new Uint8Array(await (await fetch(CAT)).arrayBuffer());
    /** @type {Record<string, string>} */
    const found = {};
    const sources = { address: CAT, buffer: bytes.buffer, bytes, response: await fetch(CAT), fetching: fetch(CAT), bitmap: createImageBitmap(new Blob([bytes])) };
    for (const [kind, source] of Object.entries(sources)) found[kind] = await d.detect(source).then(([{ label, score }]) => `${label} ${score.toFixed(3)}`, String);
    // The caller's frame is taken at once.
    const frame = new VideoFrame(await createImageBitmap(new Blob([bytes])), { timestamp: 0 });
    const taken = d.detect(frame);
    frame.close();
    const [{ label }] = await taken;
    const errors = [];
    for (const source of /** @type {any[]} */ ([new Uint8ClampedArray(16), new Float32Array(16), new Uint8Array(16), fetch('/nowhere.png')])) {
      errors.push(await d.detect(source).then(() => 'none', (error) => `${error.code}: ${error.message}`));
    }
    errors.push(await d.detect(Promise.reject(new Error('no luck'))).then(() => 'none', (error) => `${error.code}: ${error.message}`));
    return { found: { ...found, frame: label }, errors };
  }, { api, MODEL, CAT });
  const { frame, address, ...others } = /** @type {Record<string, string>} */ (found);
  assert.equal(frame, 'cat');
  assert.match(address, /^cat 0\./);
  for (const [kind, cat] of Object.entries(others)) assert.equal(cat, address, kind);
  assert.deepEqual(errors.map((error) => error.replace(/:.*/s, '')), ['source', 'source', 'source', 'network', 'source']);
  assert.match(errors[4], /no luck/);
});

test('labels are one, several, or any collection of them', async (t) => {
  const { page, api } = await embed(t);
  const { counts, errors } = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const d = await Detrim.load(MODEL, { backend: 'cpu' });
    const counts = [];
    for (const labels of ['cat', ['cat'], new Set(['cat']), ['cat', 'person'], undefined]) {
      const found = await d.detect(CAT, { labels, threshold: 0 });
      counts.push([...new Set(found.map(({ label }) => label))].sort().join());
    }
    const errors = [];
    for (const labels of /** @type {any[]} */ (['unicorn', ['cat', 'unicorn'], 7, {}])) errors.push(await d.detect(CAT, { labels }).catch((error) => `${error.code}: ${error.message}`));
    return { counts, errors };
  }, { api, MODEL, CAT });
  assert.deepEqual(counts.slice(0, 3), ['cat', 'cat', 'cat']);
  assert.deepEqual(counts[3], 'cat,person');
  assert.ok(counts[4].length > counts[3].length);
  assert.deepEqual(errors.slice(0, 2), Array(2).fill('argument: the model knows no \'unicorn\''));
  for (const error of errors.slice(2)) assert.match(String(error), /^argument: `labels` is/);
});
