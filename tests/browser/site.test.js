// What the build puts into www/dist: all of the site, nothing else, and small.

import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { choose, format, linked, metadata } from '../../www/notices.js';
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
  for (const tool of ['node_modules', 'package.json', 'serve.js', 'site.js', 'notices.js', 'setup.sh', 'certificate.js', 'bindgen', 'tsconfig.json']) {
    assert.equal(names.includes(tool), false, tool);
  }
});

test('every crate in the wasm has its licence’s text beside it', async () => {
  const notices = await readFile(path.join(DIST, 'detrim', 'wasm', 'THIRD-PARTY-NOTICES.txt'), 'utf8');
  const crates = linked(await metadata());
  const names = new Set(crates.map(({ name }) => name));
  for (const used of ['wgpu', 'wasm-bindgen', 'safetensors', 'serde_json']) assert.ok(names.has(used), `${used} is not among the linked crates`);
  // Macros and what is for other machines aren't linked.
  for (const unused of ['serde_derive', 'syn', 'detrim', 'ureq', 'proptest', 'clap']) assert.equal(names.has(unused), false, unused);
  // A list of packages between two lines, then the text that all of them share.
  const [, ...parts] = notices.split(/^-{80}$/m);
  for (const { name, version } of crates) {
    const i = parts.findIndex((part) => part.split('\n').some((line) => line.startsWith(`${name} ${version} (`)));
    assert.ok(i >= 0, `${name} ${version} is missing`);
    assert.match(parts[i + 1], /Permission is hereby granted|Apache License|as-is|Redistribution|UNICODE LICENSE|unencumbered/i, `${name}: ${parts[i + 1].slice(0, 200)}`);
  }
});

test('of licences to choose from the simplest is taken, of those that add up all', () => {
  for (const [expression, expected] of /** @type {[string, string[]][]} */ ([
    ['MIT', ['MIT']], ['Apache-2.0 OR MIT', ['MIT']], ['Apache-2.0/MIT', ['MIT']], ['Unlicense OR Zlib', ['Zlib']],
    ['(MIT OR Apache-2.0) AND Unicode-3.0', ['MIT', 'Unicode-3.0']], ['Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT', ['MIT']],
    ['Apache-2.0 WITH LLVM-exception', ['Apache-2.0']], ['GPL-3.0 OR MIT', ['MIT']], ['MIT AND (Zlib OR GPL-3.0)', ['MIT', 'Zlib']],
  ])) assert.deepEqual(choose(expression), expected, expression);
  for (const [expression, problem] of /** @type {[string, RegExp][]} */ ([
    ['GPL-3.0', /GPL-3\.0 is none of those known/], ['MIT AND GPL-3.0', /GPL-3\.0/], ['(MIT', /can't be understood/], ['MIT MIT', /can't be understood/], ['', /can't be understood/],
  ])) assert.throws(() => choose(expression), problem, expression);
});

test('a text that several share stands in the notices once', () => {
  const notice = { version: '1.0.0', licence: 'MIT', url: 'https://example.org' };
  const text = format([{ ...notice, name: 'a', texts: ['One\n  text'] }, { ...notice, name: 'b', texts: ['One text\r\n', 'Another'] }]);
  assert.equal(text.match(/One\s+text/g)?.length, 1);
  assert.match(text, /\na 1\.0\.0 \(MIT\) .*\nb 1\.0\.0 \(MIT\)[^]*One[^]*\nb 1\.0\.0 [^]*Another/);
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
