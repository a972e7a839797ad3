// What the tests of the package share: a page that isn't ours, which embeds it, and small models.

import { execFile } from 'node:child_process';
import { access, mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { REPOSITORY, open } from './harness.js';

/** @typedef {import('node:test').TestContext} TestContext */
/** @typedef {{name: string, file: string, bytes: number, sha256: string, labels: string[], threshold: number, licence: string, metrics?: {on: string, AP: number}}} Entry */

const PAGE = '<!doctype html><html lang="en"><meta charset="utf-8"><title>An embedding page</title><link rel="icon" href="data:,"></html>';

/** @type {Record<string, string>} */
const TYPES = { '.html': 'text/html', '.js': 'text/javascript' };

/**
 * An empty page on the site's server, and whatever files it needs beside the site's; `api` is the package there.
 * @param {TestContext} t
 * @param {import('./harness.js').Opening & {files?: Record<string, string | Buffer>}} [options] files by their path
 */
export async function embed(t, { files = {}, server, ...options } = {}) {
  const all = /** @type {Record<string, string | Buffer>} */ ({ '/embed.html': PAGE, ...files });
  /** @type {import('../../www/serve.js').Options['intercept']} */
  const intercept = (request, response) => {
    if (server?.intercept?.(request, response)) return true;
    const file = all[request.url ?? ''];
    if (file === undefined) return false;
    const type = TYPES[path.extname((request.url ?? '').replace(/\?.*/, ''))] ?? 'application/octet-stream';
    response.writeHead(200, { 'Content-Type': type, 'Content-Length': Buffer.byteLength(file) }).end(file);
    return true;
  };
  const opened = await open(t, { ...options, page: 'embed.html', server: { ...server, intercept } });
  /** @type {import('../../www/node_modules/playwright-core/index.js').JSHandle<typeof import('../../www/detrim/index.js')>} */
  const api = /** @type {any} */ (await opened.page.evaluateHandle(() => import(/** @type {string} */ ('/detrim/index.js'))));
  return { ...opened, api };
}

/** Waits until the page has no worker any more. @param {import('./harness.js').Page} page */
export async function noWorker(page) {
  for (let tries = 0; page.workers().length > 0; tries += 1) {
    if (tries === 500) throw new Error(`the page still has ${page.workers().length} workers`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The embedded model that the site lists first. */
export async function model() {
  return (await models())[0];
}

/** All models of the index. @returns {Promise<Entry[]>} */
export async function models() {
  return JSON.parse(await readFile(path.join(REPOSITORY, 'models', 'index.json'), 'utf8'));
}

/**
 * A checkpoint as our own file.
 * @param {string} from the folder which holds it, as model.safetensors or model.pth
 * @param {...string} options of `detrim convert`
 */
export async function convert(from, ...options) {
  const folder = await mkdtemp(path.join(tmpdir(), 'detrim-model-'));
  try {
    const out = path.join(folder, 'model.safetensors');
    // A folder stands for a .safetensors file with its config beside it.
    const legacy = path.join(from, 'model.pth');
    const file = await access(legacy).then(() => legacy, () => from);
    await promisify(execFile)(path.join(REPOSITORY, 'target', 'release', 'detrim'), ['convert', file, '--out', out, '--dtype', 'f32', ...options]);
    return await readFile(out);
  } finally {
    await rm(folder, { recursive: true });
  }
}
