// The server itself, and that the harness notices what it must: a check that can't fail would pass every page.

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, utimes, writeFile } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { open, serve } from './harness.js';

/** A small site in a folder of its own. @param {import('node:test').TestContext} t @param {Record<string, string | Buffer>} files */
async function site(t, files) {
  const root = await mkdtemp(path.join(tmpdir(), 'detrim-site-'));
  t.after(() => rm(root, { recursive: true, force: true }));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(root, name)), { recursive: true });
    await writeFile(path.join(root, name), content);
  }
  return root;
}

/** A request whose path no client has tidied up. @param {string} url @param {string} requested @param {http.RequestOptions} [options] @returns {Promise<http.IncomingMessage & {body: string}>} */
function get(url, requested, options = {}) {
  return new Promise((resolve, reject) => {
    http.request(url, { path: requested, ...options }, async (response) => {
      let body = '';
      for await (const chunk of response) body += chunk.toString('latin1');
      resolve(Object.assign(response, { body }));
    }).on('error', reject).end();
  });
}

test('every response carries the policy, and files their type', async (t) => {
  const root = await site(t, { 'index.html': '<p>page', 'a/worker.js': '1', 'm.mjs': '1', 'x.wasm': '\0asm', 'm.safetensors': 'x', 'site.webmanifest': '{}' });
  const { url, requests } = await serve(t, { root });
  const types = {
    '/': 'text/html; charset=utf-8', '/a/worker.js': 'text/javascript; charset=utf-8', '/m.mjs': 'text/javascript; charset=utf-8',
    '/x.wasm': 'application/wasm', '/m.safetensors': 'application/octet-stream', '/site.webmanifest': 'application/manifest+json; charset=utf-8',
    '/missing': 'text/plain; charset=utf-8',
  };
  for (const [requested, type] of Object.entries(types)) {
    const response = await get(url, requested);
    assert.equal(response.headers['content-type'], type, requested);
    assert.match(String(response.headers['content-security-policy']), /^default-src 'none'; script-src 'self' 'wasm-unsafe-eval';/);
    assert.equal(response.headers['cross-origin-embedder-policy'], 'require-corp');
    assert.equal(response.headers['x-content-type-options'], 'nosniff');
    assert.equal(response.statusCode, requested === '/missing' ? 404 : 200);
  }
  assert.deepEqual(requests.map((request) => request.path), Object.keys(types));
});

test('nothing outside the folder is served', async (t) => {
  const outer = await site(t, { 'secret.txt': 'secret', 'site/index.html': 'page', 'site/.hidden': 'secret', 'site-two/index.html': 'secret' });
  const { url } = await serve(t, { root: path.join(outer, 'site') });
  for (const requested of ['/../secret.txt', '/%2e%2e/secret.txt', '/..%2fsecret.txt', '/..\\secret.txt', '/.hidden', '/../site-two/', '/%00', '/%', '//secret.txt']) {
    const response = await get(url, requested);
    assert.equal(response.statusCode, 404, requested);
    assert.doesNotMatch(response.body, /^secret/, requested);
  }
  assert.equal((await get(url, '/', { method: 'POST' })).statusCode, 405);
});

test('a site under a path answers there only', async (t) => {
  const root = await site(t, { 'index.html': 'page', 'app/main.js': '1' });
  const { url } = await serve(t, { root, base: '/some/where/' });
  assert.ok(url.endsWith('/some/where/'));
  assert.equal((await get(url, '/some/where/')).body, 'page');
  assert.equal((await get(url, '/some/where/app/main.js')).body, '1');
  assert.equal((await get(url, '/some/where')).headers.location, '/some/where/');
  assert.equal((await get(url, '/some/where/app')).headers.location, '/some/where/app/');
  assert.equal((await get(url, '/')).statusCode, 404);
});

test('compressed files and unchanged ones spare bytes, stale ones do not lie', async (t) => {
  const root = await site(t, { 'index.html': 'page', 'big.js': 'original', 'big.js.gz': gzipSync('original') });
  const { url } = await serve(t, { root });
  const plain = await get(url, '/big.js');
  assert.equal(plain.body, 'original');
  assert.equal(plain.headers.vary, 'Accept-Encoding');
  const packed = await get(url, '/big.js', { headers: { 'accept-encoding': 'gzip, br' } });
  assert.equal(packed.headers['content-encoding'], 'gzip');
  assert.equal(packed.headers['content-type'], 'text/javascript; charset=utf-8');
  assert.notEqual(packed.headers.etag, plain.headers.etag);
  assert.equal((await get(url, '/big.js', { headers: { 'if-none-match': String(plain.headers.etag) } })).statusCode, 304);
  const later = new Date(Date.now() + 5000);
  await writeFile(path.join(root, 'big.js'), 'changed!');
  await utimes(path.join(root, 'big.js'), later, later);
  const changed = await get(url, '/big.js', { headers: { 'accept-encoding': 'gzip', 'if-none-match': String(plain.headers.etag) } });
  assert.equal(changed.statusCode, 200);
  assert.equal(changed.body, 'changed!');
});

const PAGE = '<!doctype html><link rel="icon" href="data:,"><script type="module" src="main.js"></script>';

/** What the harness holds against a page, after some time for it to happen. @param {import('node:test').TestContext} t @param {Record<string, string>} files @param {RegExp} expected */
async function complains(t, files, expected) {
  const root = await site(t, { 'index.html': PAGE, 'main.js': '', ...files });
  const { problems, page } = await open(t, { server: { root }, expected: [/./] });
  for (let tries = 0; tries < 50 && !problems().some((problem) => expected.test(problem)); tries++) await page.waitForTimeout(100);
  assert.ok(problems().some((problem) => expected.test(problem)), `expected ${expected} among ${JSON.stringify(problems())}`);
}

test('the harness notices what a page must not do', async (t) => {
  const worker = "new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })";
  const cases = /** @type {[string, Record<string, string>, RegExp][]} */ ([
    ['an error in the console', { 'main.js': "console.error('oh')" }, /^console: oh/],
    ['an uncaught error', { 'main.js': "throw new Error('oh')" }, /^uncaught: Error: oh/],
    ['a missing file', { 'main.js': "fetch('missing')" }, /^console: Failed to load/],
    ['an inline script', { 'index.html': `${PAGE}<script>1</script>` }, /^policy violation: .*script-src/],
    ['a request to another host', { 'main.js': "fetch('https://example.org/')" }, /^policy violation: .*connect-src/],
    ['an error in a worker', { 'main.js': worker, 'worker.js': "console.error('oh')" }, /^console: oh/],
    ['an uncaught error in a worker', { 'main.js': worker, 'worker.js': "throw new Error('oh')" }, /^(uncaught|console): .*oh/],
    ['a request of a worker to another host', { 'main.js': worker, 'worker.js': "fetch('https://example.org/').catch(() => {})" }, /^policy violation: .*connect-src/],
    ['eval in a worker', { 'main.js': worker, 'worker.js': "try { eval('1') } catch {}" }, /^policy violation: .*script-src/],
  ]);
  for (const [name, files, expected] of cases) await t.test(name, (t) => complains(t, files, expected));
});

test('a silent page passes, and has or lacks WebGPU as asked', async (t) => {
  const root = await site(t, { 'index.html': PAGE, 'main.js': '' });
  const adapter = "navigator.gpu ? navigator.gpu.requestAdapter().then((adapter) => adapter !== null) : false";
  for (const webgpu of [true, false]) {
    const { page } = await open(t, { server: { root }, webgpu });
    assert.equal(await page.evaluate(adapter), webgpu);
  }
});

test('the camera shows the photo', async (t) => {
  const root = await site(t, { 'index.html': PAGE, 'main.js': '' });
  // 16 × 16 in the colour (200, 120, 40).
  const jpeg = '/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAA0JCgsKCA0LCgsODg0PEyAVExISEyccHhcgLikxMC4pLSwzOko+MzZGNywtQFdBRkxOUlNSMj5aYVpQYEpRUk//2wBDAQ4ODhMREyYVFSZPNS01T09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT09PT0//wAARCAAQABADASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAP/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFAEBAAAAAAAAAAAAAAAAAAAABf/EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AKAATb//2Q==';
  const photo = path.join(root, 'photo.jpg');
  await writeFile(photo, Buffer.from(jpeg, 'base64'));
  const { page } = await open(t, { server: { root }, camera: photo });
  const pixel = await page.evaluate(async () => {
    const video = document.createElement('video');
    video.muted = true;
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: true });
    await video.play();
    const context = new OffscreenCanvas(1, 1).getContext('2d');
    context?.drawImage(video, 0, 0, 1, 1);
    return Array.from(context?.getImageData(0, 0, 1, 1).data ?? []);
  });
  [200, 120, 40].forEach((channel, i) => assert.ok(Math.abs(channel - pixel[i]) < 24, `(200, 120, 40), not ${pixel}`));
});
