// Starting the worker, and finding out why it didn't start: browsers only say that it didn't.

import { DetrimError } from './errors.js';

/**
 * @param {string | URL | undefined} url the script, if it isn't the package's own
 * @returns {Worker}
 */
export function startWorker(url) {
  if (typeof Worker === 'undefined') {
    throw new DetrimError('unsupported', 'there are no workers here (a service worker has none): `worker: false` computes on this thread');
  }
  try {
    return url === undefined ? startOwn() : new Worker(url, { type: 'module' });
  } catch (error) {
    const place = scriptUrl(url);
    throw DetrimError.from(error, 'network', `the worker can't be started from ${place}${isForeign(place) ? FOREIGN : ''}`);
  }
}

// Bundlers know a worker by exactly this expression.
const startOwn = () => new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });

const FOREIGN = ', which is another origin (`workerUrl` names a script on this one that imports it)';

/**
 * Why the worker's script didn't run, as far as asking for the script tells.
 *
 * @param {string | URL | undefined} url
 * @param {string} said what the browser told
 */
export async function whyNot(url, said) {
  const place = scriptUrl(url);
  const why = said || await ask(place);
  return new DetrimError('network', `the worker's script can't be loaded from ${place}: ${why}`);
}

/** @param {string} place */
async function ask(place) {
  if (!place.startsWith('http') && !place.startsWith('chrome-extension:')) return 'its address is unknown, because a bundler put it there';
  try {
    const response = await fetch(place);
    const type = response.headers.get('Content-Type')?.replace(/;.*/, '') ?? 'no type';
    await response.body?.cancel();
    if (!response.ok) return `the server answered ${response.status}; where a bundler moved it, \`workerUrl\` names its place`;
    if (!/(java|ecma)script/.test(type)) return `the server sent ${type} in place of JavaScript; where a bundler moved it, \`workerUrl\` names its place`;
    if (isForeign(place)) return `it is on another origin${FOREIGN}`;
    if (!response.headers.has('Cross-Origin-Embedder-Policy')) {
      return 'the script is there, but without a Cross-Origin-Embedder-Policy: if this page is sent with that header, the script must be, too; '
        + 'otherwise one of its imports or a Content-Security-Policy (worker-src) is in the way';
    }
    return 'the script is there; one of its imports or a Content-Security-Policy (worker-src) is in the way';
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/**
 * The address of the script. What a bundler made of the package's own stands in the code that starts it.
 *
 * @param {string | URL | undefined} url
 */
function scriptUrl(url) {
  const [, , own] = /new URL\(\s*(['"`])(.+?)\1/.exec(String(startOwn)) ?? [];
  const place = url ?? own;
  try {
    return new URL(/** @type {string} */ (place), url === undefined ? import.meta.url : globalThis.location?.href).href;
  } catch {
    return String(place ?? 'where the bundler put it');
  }
}

/** @param {string} place */
function isForeign(place) {
  return place.startsWith('http') && new URL(place).origin !== globalThis.location?.origin;
}
