// What a model can be loaded from, and what is said of all that isn't one.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { embed, model } from './embed.js';
import { DIST } from './harness.js';

const { file } = await model();
const MODEL = `/models/${file}`;
const CAT = '/samples/chelsea.png';

const LFS = 'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 9711504\n';
const PAGE = '\n<!DOCTYPE html>\n<html><head><title>My application</title></head><body></body></html>';

/** What else is found in the place of a model, and what has to be said of it. @type {Record<string, [string | Buffer, RegExp]>} */
const MISTAKES = {
  '/pointer.safetensors': [LFS, /Git LFS pointer.*git lfs pull/],
  '/page.safetensors': [PAGE, /a web page/],
  '/comment.safetensors': [`<!-- a comment -->${PAGE}`, /a web page/],
  '/model.pth': [Buffer.from('PK\x03\x04\x14\x00\x08\x08archive/data.pkl', 'latin1'), /zip|archive|PyTorch/],
  '/old.pth': [Buffer.from('\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19', 'latin1'), /pickle|PyTorch|\.pth/],
  '/model.onnx': [Buffer.from('\x08\x08\x12\x07pytorch', 'latin1'), /ONNX/],
  '/model.h5': [Buffer.from('\x89HDF\r\n\x1a\n', 'latin1'), /HDF5/],
  '/model.gz': [Buffer.from('\x1f\x8b\x08\x00\x00', 'latin1'), /gzip/],
  '/config.json': ['{"model_type": "detr"}', /JSON/],
  '/empty': ['', /empty/],
};

test('a model comes from an address, bytes, a file, a response, and from another window', async (t) => {
  const { page, api } = await embed(t);
  const found = await page.evaluate(async ({ api, MODEL, CAT }) => {
    const { Detrim } = api;
    const frame = document.createElement('iframe');
    document.body.append(frame);
    /** @type {typeof globalThis} */
    const other = /** @type {any} */ (frame.contentWindow);
    const bytes = new Uint8Array(await (await fetch(MODEL)).arrayBuffer());
    const shifted = new Uint8Array(bytes.length + 20);
    shifted.set(bytes, 7);
    const foreign = new other.Uint8Array(bytes);
    const shared = new Uint8Array(new SharedArrayBuffer(bytes.length));
    shared.set(bytes);
    const sources = {
      string: MODEL, URL: new URL(MODEL, location.href), otherURL: new other.URL(MODEL, location.href), buffer: bytes.buffer, view: shifted.subarray(7, 7 + bytes.length),
      dataView: new DataView(bytes.buffer), shared, blob: new Blob([bytes]), file: new File([bytes], 'model.safetensors'), otherBlob: new other.Blob([bytes]),
      otherBuffer: foreign.buffer, otherView: foreign, response: await fetch(MODEL), made: new Response(bytes), fetching: fetch(MODEL), otherResponse: await other.fetch(MODEL),
    };
    /** @type {Record<string, string>} */
    const found = {};
    for (const [kind, source] of Object.entries(sources)) {
      try {
        const d = await Detrim.load(/** @type {any} */ (source), { backend: 'cpu' });
        const [cat] = await d.detect(CAT);
        found[kind] = `${cat.label} ${cat.score}`;
        d.dispose();
      } catch (error) {
        found[kind] = String(error);
      }
    }
    return { ...found, left: String(bytes.length > 0) };
  }, { api, MODEL, CAT });
  const { left, ...loaded } = /** @type {Record<string, string>} */ (found);
  assert.equal(left, 'true', 'the bytes stay the caller’s');
  assert.equal(Object.keys(loaded).length, 16);
  assert.match(loaded.string, /^cat 0\./);
  for (const [kind, cat] of Object.entries(loaded)) assert.equal(cat, loaded.string, kind);
});

test('what is no model is refused in a sentence that says what it is', async (t) => {
  const files = Object.fromEntries(Object.entries(MISTAKES).map(([name, [content]]) => [name, content]));
  const { page, api } = await embed(t, { files, expected: [/404/] });
  const { mistakes, others } = await page.evaluate(async ({ api, names, MODEL }) => {
    const { Detrim } = api;
    /** @param {any} source */
    const refused = (source) => Detrim.load(source, { backend: 'cpu' }).then(() => 'none', (error) => `${error.code}: ${error.message}`);
    /** @type {Record<string, string>} */
    const mistakes = {};
    for (const name of names) mistakes[name] = await refused(name);
    const used = await fetch(MODEL);
    await used.arrayBuffer();
    const others = [];
    for (const source of [undefined, null, 7, {}, [1, 2], () => {}, document.body, '', ' ', used, new Uint8Array(50_000_000), `/nowhere?${'A'.repeat(10_000)}`, fetch('/nowhere')]) {
      others.push(await refused(source));
    }
    others.push(await refused(Promise.reject(new Error('no luck'))));
    return { mistakes, others };
  }, { api, names: Object.keys(MISTAKES), MODEL });
  for (const [name, [, expected]] of Object.entries(MISTAKES)) {
    assert.match(mistakes[name], expected);
    assert.ok(mistakes[name].startsWith(`model: ${name}: `), mistakes[name]);
  }
  assert.deepEqual(others.map((error) => error.replace(/:.*/s, '')), [...Array(10).fill('argument'), 'model', 'network', 'network', 'network']);
  assert.match(others[0], /from undefined: an address \(a string or URL\), Blob, /);
  assert.match(others[3], /from an Object: /);
  assert.match(others[13], /no luck/);
  for (const error of others) assert.ok(error.length < 300, error);
});

test('a page or a pointer in place of the code is said so, and `wasmUrl` names another place', async (t) => {
  const code = await readFile(path.join(DIST, 'detrim', 'wasm', 'detrim_bg.wasm'));
  for (const [content, said] of /** @type {[string, RegExp][]} */ ([[PAGE, /a web page/], [LFS, /Git LFS pointer/]])) {
    for (const worker of [true, false]) {
      const server = {
        intercept: (/** @type {import('node:http').IncomingMessage} */ request, /** @type {import('node:http').ServerResponse} */ response) => {
          if (!request.url?.startsWith('/detrim/wasm/detrim_bg.wasm')) return false;
          // As servers of single-page applications do.
          response.writeHead(200, { 'Content-Type': content === PAGE ? 'text/html' : 'application/wasm' }).end(content);
          return true;
        },
      };
      const { page, api } = await embed(t, { server, files: { '/elsewhere/code.wasm': code } });
      const { error, label } = await page.evaluate(async ({ api, MODEL, CAT, worker }) => {
        const { Detrim } = api;
        const error = await Detrim.load(MODEL, { backend: 'cpu', worker }).then(() => 'none', ({ code, message }) => `${code}: ${message}`);
        const d = await Detrim.load(MODEL, { backend: 'cpu', worker, wasmUrl: 'elsewhere/code.wasm' });
        return { error, label: (await d.detect(CAT))[0].label };
      }, { api, MODEL, CAT, worker });
      assert.match(error, /^network: .*\/detrim\/wasm\/detrim_bg\.wasm: WebAssembly was expected, and this is /);
      assert.match(error, said);
      assert.equal(label, 'cat');
    }
  }
});
