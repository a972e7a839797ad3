// Checkpoints as Hugging Face keeps them, loaded without conversion: from a folder, from the Hub, in parts, in several files, dropped on the page.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { directoryOf, shardsOf, sortFiles } from '../../www/detrim/checkpoint.js';
import { hubOrigin } from '../../www/detrim/hub.js';
import { repositoryOf } from '../../www/app/hub.js';
import { embed } from './embed.js';
import { REPOSITORY, open } from './harness.js';
import { ready } from './page.js';

const CAT = '/samples/chelsea.png';
const FOLDER = path.join(REPOSITORY, 'tests', 'fixtures', 'basic');
const config = await readFile(path.join(FOLDER, 'config.json'), 'utf8');
const weights = await readFile(path.join(FOLDER, 'model.safetensors'));
const preprocessor = JSON.stringify({ image_processor_type: 'DetrImageProcessor', size: { height: 64, width: 64 }, do_resize: true });

/**
 * A safetensors file as two, each with every other tensor, and their index.
 * @param {Buffer} file
 */
function shard(file) {
  const end = 8 + Number(file.readBigUInt64LE());
  const { __metadata__: metadata, ...tensors } = JSON.parse(file.subarray(8, end).toString());
  const names = ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'];
  /** @type {Record<string, string>} */
  const map = {};
  const files = names.map((name, i) => {
    /** @type {Record<string, unknown>} */
    const header = metadata ? { __metadata__: metadata } : {};
    const parts = [];
    let offset = 0;
    for (const [tensor, entry] of Object.entries(tensors).filter((_, j) => j % 2 === i)) {
      const [from, to] = entry.data_offsets;
      header[tensor] = { ...entry, data_offsets: [offset, offset + to - from] };
      parts.push(file.subarray(end + from, end + to));
      offset += to - from;
      map[tensor] = name;
    }
    const text = Buffer.from(JSON.stringify(header));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(text.length));
    return Buffer.concat([length, text, ...parts]);
  });
  return { names, files, index: JSON.stringify({ metadata: { total_size: file.length - end }, weight_map: map }) };
}

const shards = shard(weights);

/** @type {Record<string, string | Buffer>} */
const FILES = {
  '/whole/config.json': config, '/whole/preprocessor_config.json': preprocessor, '/whole/model.safetensors': weights,
  '/sharded/config.json': config, '/sharded/preprocessor_config.json': preprocessor, '/sharded/model.safetensors.index.json': shards.index,
  ...Object.fromEntries(shards.names.map((name, i) => [`/sharded/${name}`, shards.files[i]])),
  '/empty/config.json': config,
  '/bare/model.safetensors': weights,
  '/outside/config.json': config, '/outside/model.safetensors.index.json': JSON.stringify({ weight_map: { a: '../secret.safetensors' } }),
};

/** Answers like the Hub: small files at once, large ones from elsewhere. @type {NonNullable<import('../../www/serve.js').Options['intercept']>} */
const hub = (request, response) => {
  const [, rest] = /^\/some\/detector\/resolve\/(?:main|v1\.0)\/(.*)$/.exec(decodeURIComponent(request.url ?? '')) ?? [];
  if (request.url?.startsWith('/gated/')) {
    response.writeHead(401).end('Access to model gated is restricted.');
    return true;
  }
  if (rest === undefined) return false;
  if (rest.endsWith('.safetensors')) response.writeHead(302, { Location: `/whole/${rest}` }).end();
  else if (FILES[`/whole/${rest}`]) response.writeHead(200, { 'Content-Type': 'text/plain' }).end(FILES[`/whole/${rest}`]);
  else response.writeHead(404).end('Entry not found');
  return true;
};

test('a checkpoint loads from its folder, from the Hub, in parts and from its files, always as the same', async (t) => {
  const { page, api, site } = await embed(t, { files: FILES, server: { intercept: hub }, expected: [/404/] });
  const { found, progress } = await page.evaluate(async ({ api, CAT, names }) => {
    const { Detrim } = api;
    const get = async (/** @type {string} */ name) => await (await fetch(name)).blob();
    const file = async (/** @type {string} */ name, as = name.replace(/.*\//, '')) => new File([await get(name)], as);
    const [whole, sharded] = ['/whole/', '/sharded/'];
    const json = async (/** @type {string} */ name) => await (await fetch(name)).json();
    /** @type {[string, any, object?][]} */
    const sources = [
      ['folder', whole], ['folder as URL', new URL(whole, location.href)], ['sharded folder', sharded],
      ['hub', 'hf:some/detector', { hub: location.origin }], ['hub at a revision', 'hf:some/detector@v1.0', { hub: new URL(location.href) }],
      ['addresses', { weights: `${whole}model.safetensors`, config: `${whole}config.json`, preprocessor: `${whole}preprocessor_config.json` }],
      ['contents', { weights: new Uint8Array(await (await get(`${whole}model.safetensors`)).arrayBuffer()), config: await json(`${whole}config.json`), preprocessor: await json(`${whole}preprocessor_config.json`) }],
      ['shards', { weights: names.map((name) => `${sharded}${name}`), config: await get(`${sharded}config.json`), preprocessor: await fetch(`${whole}preprocessor_config.json`) }],
      ['files', [await file(`${whole}preprocessor_config.json`), await file(`${whole}model.safetensors`), await file(`${whole}config.json`)]],
      ['numbered files', [await file(`${whole}model.safetensors`, 'model (1).safetensors'), await file(`${whole}config.json`, 'config (2).json'), await file(`${whole}preprocessor_config.json`, 'preprocessor_config (1).json')]],
      ['sharded files', await Promise.all([...names, 'config.json', 'preprocessor_config.json', 'model.safetensors.index.json'].map((name) => file(`${sharded}${name}`)))],
    ];
    /** @type {Record<string, string>} */
    const found = {};
    /** @type {import('../../www/detrim/index.js').Progress[]} */
    const progress = [];
    for (const [kind, source, options] of sources) {
      try {
        const d = await Detrim.load(source, { backend: 'cpu', onProgress: (step) => kind === 'sharded folder' && progress.push(step), ...options });
        found[kind] = JSON.stringify((await d.detect(CAT, { threshold: 0 })).slice(0, 3).map(({ label, score, box }) => [label, score, box]));
        d.dispose();
      } catch (error) {
        found[kind] = String(error);
      }
    }
    return { found, progress };
  }, { api, CAT, names: shards.names });
  assert.equal(Object.keys(found).length, 11);
  assert.match(found.folder, /^\[\["[^"]+",0\.\d+,\{"xmin"/);
  for (const [kind, objects] of Object.entries(found)) assert.equal(objects, found.folder, kind);
  const last = progress.filter(({ phase }) => phase === 'download').at(-1);
  const bytes = shards.files.reduce((sum, { length }) => sum + length, 0);
  assert.deepEqual(last, { phase: 'download', loaded: bytes, total: bytes });
  assert.ok(site.requests.some((request) => request.path === '/some/detector/resolve/v1.0/config.json'));
});

test('what is missing or forbidden is said', async (t) => {
  const { page, api } = await embed(t, { files: FILES, server: { intercept: hub }, expected: [/404/, /401/] });
  const errors = await page.evaluate(async ({ api, names }) => {
    const { Detrim } = api;
    /** @type {[string, any, object?][]} */
    const sources = [
      ['no permission', 'hf:some/detector'], ['no repository', 'hf:../../etc', { hub: true }], ['no origin', 'hf:some/detector', { hub: 'here' }], ['no weights', '/empty/'],
      ['gated', 'hf:gated/model', { hub: location.origin }], ['outside', '/outside/'], ['no part', [new File(['x'], names[0])]],
      ['two models', [new File(['x'], 'a.safetensors'), new File(['x'], 'b.safetensors')]], ['only config', [new File(['{}'], 'config.json')]], ['nothing', []], ['bytes', [new Uint8Array(9)]],
      ['no file', { weights: [] }], ['a page as config', { weights: '/whole/model.safetensors', config: new Blob(['<!doctype html>']) }],
      ['too large', new Response(new ReadableStream({ pull: (controller) => controller.enqueue(new Uint8Array(1000)) }), { headers: { 'Content-Length': String(3e9) } })],
      ['a wrong hash', '/whole/', { sha256: '0'.repeat(64) }],
    ];
    /** @type {Record<string, string>} */
    const errors = {};
    for (const [kind, source, options] of sources) errors[kind] = await Detrim.load(source, { backend: 'cpu', ...options }).then(() => 'none', ({ code, message }) => `${code}: ${message}`);
    return errors;
  }, { api, names: shards.names });
  /** @type {Record<string, RegExp>} */
  const expected = {
    'no permission': /^argument: hf:some\/detector: .*`hub: true`.*download .* from https:\/\/huggingface\.co\/some\/detector\/tree\/main and load them together/, 'no repository': /^argument: .*hf:OWNER\/NAME/,
    'no origin': /^argument: `hub`/, 'no weights': /^network: .*\/empty\/: neither model\.safetensors nor/, gated: /^network: .*401.*log in/,
    outside: /^model: .*index\.json: "\.\.\/secret\.safetensors" is no file's name/, 'no part': /^argument: part 2 of 2 of model is missing/, 'two models': /^argument: .*several models: a\.safetensors, b\.safetensors/,
    'only config': /^argument: no weights .*config\.json/, nothing: /^argument: /, bytes: /^argument: .*not of an? Uint8Array/, 'no file': /^argument: /, 'a page as config': /^model: the model's config: this is a web page/,
    'too large': /^model: the model has 3\.0 GB; a browser can load 2\.1 GB at most/, 'a wrong hash': /^checksum: /,
  };
  for (const [kind, pattern] of Object.entries(expected)) assert.match(errors[kind], pattern, kind);
});

test('files are told apart by their names, and addresses of folders from those of files', () => {
  const files = (/** @type {string[]} */ ...names) => names.map((name) => ({ name, text: async () => '' }));
  const sorted = sortFiles(files('README.md', 'preprocessor_config.json', 'm-00002-of-00002.safetensors', 'config.json', 'm-00001-of-00002.safetensors', 'tokenizer_config.json'));
  assert.deepEqual(sorted.weights.map(({ name }) => name), ['m-00001-of-00002.safetensors', 'm-00002-of-00002.safetensors']);
  assert.deepEqual([sorted.config?.name, sorted.preprocessor?.name], ['config.json', 'preprocessor_config.json']);
  assert.throws(() => sortFiles(files('a.safetensors', 'config.json', 'config (1).json')), /two files for one purpose/);
  assert.throws(() => sortFiles(files('m-00001-of-00003.safetensors', 'm-00003-of-00003.safetensors')), /part 2 of 3/);

  assert.equal(directoryOf('https://a.example/b/', undefined)?.href, 'https://a.example/b/');
  assert.equal(directoryOf('https://a.example/b/?c=d', undefined)?.href, 'https://a.example/b/?c=d');
  for (const file of ['https://a.example/b', 'https://a.example/b.safetensors?path=/x', '', 7, new Uint8Array(1), null]) assert.equal(directoryOf(file, undefined), undefined, String(file));
  assert.equal(directoryOf('hf:a/b', 'https://hub.example')?.href, 'https://hub.example/a/b/resolve/main/');
  assert.equal(directoryOf('hf:a/b@refs/pr/1', 'https://hub.example')?.href, 'https://hub.example/a/b/resolve/refs%2Fpr%2F1/');
  for (const bad of ['hf:', 'hf:a/b/c', 'hf:a/..', 'hf:../b', 'hf:a b/c', 'hf:a/b@']) assert.throws(() => directoryOf(bad, 'https://hub.example'), /OWNER/, bad);
  assert.deepEqual([hubOrigin(true), hubOrigin(undefined), hubOrigin('https://mirror.example/x/')], ['https://huggingface.co', undefined, 'https://mirror.example']);
  assert.throws(() => shardsOf('{"weight_map": {}}', 'index'), /weight_map/);
  assert.throws(() => shardsOf('{', 'index'), /isn't JSON/);
  const meant = ['hf:a/b', 'hf:a/b@v1.0', 'https://huggingface.co/a/b/tree/main', 'https://huggingface.co/a/..', 'https://huggingface.co/a', 'https://example.org/a/b', 'a/b'].map(repositoryOf);
  const b = { name: 'a/b', revision: 'main' };
  assert.deepEqual(meant, [b, { ...b, revision: 'v1.0' }, b, undefined, undefined, undefined, undefined]);
});

test('a checkpoint’s files dropped on the page run there, and are gone with the next visit', async (t) => {
  const { page, site } = await open(t);
  await ready(page, 'cpu');
  const before = site.requests.length;
  const names = await page.locator('#models-list .name').allInnerTexts();
  await page.evaluate(([config, preprocessor, weights]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([config], 'config.json'));
    transfer.items.add(new File([preprocessor], 'preprocessor_config.json'));
    transfer.items.add(new File([Uint8Array.from(atob(weights), (letter) => letter.charCodeAt(0))], 'street.safetensors'));
    document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
  }, [config, preprocessor, weights.toString('base64')]);
  await page.locator('#model-about', { hasText: 'street' }).waitFor();
  await page.waitForFunction(() => /^street: [1-9]\d* classes, /.test(document.getElementById('model-about')?.textContent ?? ''));
  assert.deepEqual(await page.locator('#models-list .name').allInnerTexts(), [...names, 'street']);
  assert.equal(await page.locator('#models input:checked').inputValue(), 'street');
  const fetched = site.requests.slice(before).map((request) => request.path).filter((address) => !address.startsWith('/detrim/'));
  assert.deepEqual(fetched, [], 'nothing is fetched for it but the code of its worker');

  // What can't be read is told, and what ran goes on.
  await page.locator('#model-file').setInputFiles([{ name: 'broken.safetensors', mimeType: '', buffer: weights.subarray(0, 1000) }]);
  await page.locator('.notice.error', { hasText: 'street stays in use' }).waitFor();
  assert.deepEqual(await page.locator('#models-list .name').allInnerTexts(), [...names, 'street']);
  await page.reload();
  await ready(page, 'cpu');
  assert.deepEqual(await page.locator('#models-list .name').allInnerTexts(), names);
});

test('the page explains how a model of the Hub gets here', async (t) => {
  const { page } = await open(t, { page: '?model=hf:some/detector' });
  const notice = page.locator('.notice', { hasText: 'some/detector' });
  await notice.waitFor();
  assert.match(await notice.innerText(), /download .* from https:\/\/huggingface\.co\/some\/detector\/tree\/main and drop them/);
  await ready(page, 'cpu');
});
