// What the build puts into www/dist: all of the site, nothing else, and small.

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { mirror, sizes } from '../../www/site.js';
import { DIST } from './harness.js';

const MEGABYTE = 1_000_000;

test('the page stays small', async () => {
  const { wasm, page } = await sizes(DIST);
  assert.ok(wasm.raw > 100_000, 'there is no wasm to speak of');
  assert.ok(wasm.brotli < wasm.raw, 'the build has not compressed the wasm: was it made with --quick?');
  assert.ok(wasm.brotli <= MEGABYTE, `wasm: ${wasm.brotli} bytes in brotli, 1 MB at most`);
  assert.ok(wasm.brotli + page.brotli <= 1.5 * MEGABYTE, `page and wasm: ${wasm.brotli + page.brotli} bytes in brotli, 1.5 MB at most`);
});

test('the site holds no tools', async () => {
  const names = await readdir(DIST);
  assert.ok(names.includes('index.html') && names.includes('detrim'));
  for (const tool of ['node_modules', 'package.json', 'serve.js', 'site.js', 'setup.sh', 'certificate.js', 'bindgen', 'tsconfig.json']) {
    assert.equal(names.includes(tool), false, tool);
  }
});

test('a mirror holds what it should, and no more', async (t) => {
  const folder = await mkdtemp(path.join(tmpdir(), 'detrim-mirror-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const source = path.join(folder, 'source.js');
  const dist = path.join(folder, 'dist');
  await writeFile(source, 'one');
  await mkdir(path.join(dist, 'app'), { recursive: true });
  for (const stale of ['old.js', 'old.js.br', 'app/main.js', 'app/main.js.gz']) await writeFile(path.join(dist, stale), 'stale');

  const files = new Map([['app/main.js', source]]);
  await mirror(files, dist);
  assert.equal(await readFile(path.join(dist, 'app/main.js'), 'utf8'), 'one');
  // The compressed form of what was there before would be served in its place.
  await assert.rejects(stat(path.join(dist, 'app/main.js.gz')), /ENOENT/);
  assert.deepEqual(await readdir(dist), ['app']);

  await writeFile(path.join(dist, 'app/main.js.gz'), 'made from one');
  const before = await stat(path.join(dist, 'app/main.js'));
  await mirror(files, dist);
  assert.equal((await stat(path.join(dist, 'app/main.js'))).ino, before.ino, 'copied although unchanged');
  assert.equal(await readFile(path.join(dist, 'app/main.js.gz'), 'utf8'), 'made from one');

  await writeFile(source, 'three');
  await mirror(files, dist);
  assert.equal(await readFile(path.join(dist, 'app/main.js'), 'utf8'), 'three');
});
