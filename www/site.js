// Assembles the site: `node www/site.js --wasm FILE --bindgen PROGRAM [--quick]`, called by build.sh.
//
//   the compiler's wasm → wasm-bindgen → wasm-opt → www/detrim/wasm/, which the package's modules import
//   the notices that the licences of the wasm's crates ask for → beside it
//   www/ and models/ → www/dist, each text and wasm file with its .br and .gz next to it
//
// What is up to date already is left alone: each step's stamp holds the hash of all that went into it.

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { copyFile, mkdir, readFile, readdir, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';
import zlib from 'node:zlib';
import { collect, format } from './notices.js';

const run = promisify(execFile);
const WWW = fileURLToPath(new URL('.', import.meta.url));
const WASM = path.join(WWW, 'detrim', 'wasm');
const NOTICES = 'THIRD-PARTY-NOTICES.txt';

// In www/ but not part of the site: the tools, and what belongs to the npm package alone.
const NOT_SITE = new Set([
  'README.md', 'bindgen', 'certificate.js', 'dist', 'node_modules', 'notices.js', 'package-lock.json', 'package.json', 'screenshot.png', 'serve.js',
  'setup.sh', 'site.js', 'tsconfig.json', 'tsconfig.types.json', 'types',
]);
const COMPRESSIBLE = new Set(['.css', '.html', '.js', '.json', '.mjs', '.svg', '.txt', '.wasm', '.webmanifest']);
const COMPRESSED = new Set(['.br', '.gz']);

// What every browser with WebAssembly SIMD has: Chrome 91, Firefox 89, Safari 16.4.
const FEATURES = ['simd', 'bulk-memory', 'bulk-memory-opt', 'nontrapping-float-to-int', 'sign-ext', 'mutable-globals', 'reference-types', 'multivalue'];
const OPTIMISE = ['-O3', '--strip-debug', '--strip-producers', '--strip-target-features', ...FEATURES.map((feature) => `--enable-${feature}`)];

/** @param {...(string | Buffer)} parts */
const hash = (...parts) => parts.reduce((sum, part) => sum.update(part).update('\0'), createHash('sha256')).digest('hex');

/** @param {string} file */
const exists = (file) => stat(file).then(() => true, () => false);

/**
 * The JavaScript and the optimised wasm, in www/detrim/wasm.
 * @param {string} wasm @param {string} bindgen @param {boolean} quick leaves out wasm-opt
 */
async function bind(wasm, bindgen, quick) {
  const stamp = path.join(WASM, '.stamp');
  const others = ['package-lock.json', 'notices.js', path.join('..', 'Cargo.lock')];
  const inputs = hash(await readFile(wasm), await readFile(bindgen), ...(await Promise.all(others.map((name) => readFile(path.join(WWW, name))))), quick ? 'quick' : OPTIMISE.join());
  if ((await readFile(stamp, 'utf8').catch(() => '')) === inputs) return;
  const fresh = `${WASM}.new`;
  await rm(fresh, { recursive: true, force: true });
  await run(bindgen, [wasm, fresh]);
  if (!quick) {
    const module = path.join(fresh, 'detrim_bg.wasm');
    await run(process.execPath, [path.join(WWW, 'node_modules', 'binaryen', 'bin', 'wasm-opt'), ...OPTIMISE, module, '-o', module], { maxBuffer: 1 << 26 });
  }
  await writeFile(path.join(fresh, NOTICES), format(await collect()));
  await writeFile(path.join(fresh, '.stamp'), inputs);
  await rm(WASM, { recursive: true, force: true });
  await rename(fresh, WASM);
}

/**
 * The files below a folder, as relative paths.
 * @param {string} folder @param {(name: string) => boolean} [wanted] of the names right below it
 * @returns {Promise<string[]>}
 */
async function filesBelow(folder, wanted = () => true) {
  const found = [];
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.name.startsWith('.') || !wanted(entry.name)) continue;
    if (entry.isDirectory()) found.push(...(await filesBelow(path.join(folder, entry.name))).map((below) => path.join(entry.name, below)));
    else found.push(entry.name);
  }
  return found;
}

/**
 * Makes `dist` hold exactly the site's files, touching only those that differ.
 * @param {Map<string, string>} files where each comes from, by its path in dist
 * @param {string} dist
 */
export async function mirror(files, dist) {
  await mkdir(dist, { recursive: true });
  for (const present of await filesBelow(dist)) {
    const original = COMPRESSED.has(path.extname(present)) ? present.slice(0, -3) : present;
    if (!files.has(present) && !files.has(original)) await rm(path.join(dist, present));
  }
  for (const [name, source] of files) {
    const target = path.join(dist, name);
    const [from, to] = await Promise.all([stat(source), stat(target).catch(() => undefined)]);
    if (to?.size === from.size && Math.abs(to.mtimeMs - from.mtimeMs) < 2) continue;
    await mkdir(path.dirname(target), { recursive: true });
    for (const suffix of COMPRESSED) await rm(target + suffix, { force: true });
    await copyFile(source, `${target}.new`);
    await utimes(`${target}.new`, from.atime, from.mtime);
    await rename(`${target}.new`, target);
  }
}

/**
 * Writes name.br and name.gz next to a file where they are smaller, dated like it; removes them where they aren't.
 * @param {string} file
 */
async function precompress(file) {
  const info = await stat(file);
  const done = await Promise.all(['.br', '.gz'].map((suffix) => stat(file + suffix).catch(() => undefined)));
  if (done.every((made) => made && Math.abs(made.mtimeMs - info.mtimeMs) < 2)) return;
  const content = await readFile(file);
  const parameters = { [zlib.constants.BROTLI_PARAM_QUALITY]: 11, [zlib.constants.BROTLI_PARAM_SIZE_HINT]: content.length };
  const smaller = [
    ['.br', await promisify(zlib.brotliCompress)(content, { params: parameters })],
    ['.gz', await promisify(zlib.gzip)(content, { level: 9 })],
  ];
  for (const [suffix, compressed] of /** @type {[string, Buffer][]} */ (smaller)) {
    if (compressed.length >= content.length) {
      await rm(file + suffix, { force: true });
      continue;
    }
    await writeFile(`${file}${suffix}.new`, compressed);
    await utimes(`${file}${suffix}.new`, info.atime, info.mtime);
    await rename(`${file}${suffix}.new`, file + suffix);
  }
}

/**
 * Bytes of what a visitor downloads, by kind; brotli where the file has one.
 * @param {string} dist
 */
export async function sizes(dist) {
  const kinds = { wasm: { raw: 0, brotli: 0 }, page: { raw: 0, brotli: 0 }, samples: { raw: 0, brotli: 0 }, models: { raw: 0, brotli: 0 } };
  for (const name of await filesBelow(dist)) {
    const [top] = name.split(path.sep);
    if (COMPRESSED.has(path.extname(name)) || name.endsWith('.d.ts') || name.endsWith('.md')) continue;
    const kind = name.endsWith('.wasm') ? 'wasm' : top === 'models' || top === 'samples' ? top : 'page';
    const raw = (await stat(path.join(dist, name))).size;
    const smaller = await stat(path.join(dist, `${name}.br`)).catch(() => undefined);
    kinds[kind].raw += raw;
    kinds[kind].brotli += smaller?.size ?? raw;
  }
  return kinds;
}

/** @param {string[]} argv */
async function main(argv) {
  const { values } = parseArgs({ args: argv, options: { wasm: { type: 'string' }, bindgen: { type: 'string' }, quick: { type: 'boolean', default: false } } });
  if (!values.wasm || !values.bindgen) throw new Error('usage: node www/site.js --wasm FILE --bindgen PROGRAM [--quick]');
  await bind(values.wasm, values.bindgen, values.quick);

  const dist = path.join(WWW, 'dist');
  const models = path.join(WWW, '..', 'models');
  const files = new Map();
  for (const name of await filesBelow(WWW, (top) => !NOT_SITE.has(top))) files.set(name, path.join(WWW, name));
  // What is to be trained or trimmed further is nothing to visit.
  const shown = (/** @type {string} */ top) => !['training', 'f16'].includes(top);
  if (await exists(models)) for (const name of await filesBelow(models, shown)) files.set(path.join('models', name), path.join(models, name));
  await mirror(files, dist);
  if (values.quick) return;
  for (const name of files.keys()) if (COMPRESSIBLE.has(path.extname(name))) await precompress(path.join(dist, name));
  const kilo = (/** @type {number} */ bytes) => `${(bytes / 1000).toFixed(0)} kB`.padStart(9);
  console.log(`${'www/dist'.padEnd(10)}${'raw'.padStart(9)}${'brotli'.padStart(9)}`);
  for (const [kind, { raw, brotli }] of Object.entries(await sizes(dist))) console.log(`  ${kind.padEnd(8)}${kilo(raw)}${kilo(brotli)}`);
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await main(process.argv.slice(2)).catch((error) => {
    console.error(`error: ${error.stderr || error.message}`);
    process.exitCode = 1;
  });
}
