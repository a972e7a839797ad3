// What every browser test stands on: the built site behind the real server, and Chromium with the page's silence enforced.
//
//   test('a photo', async (t) => {
//     const { page, url, site } = await open(t, { webgpu: false });   // or webgpu: true, camera: 'photo.jpg', device: 'iPhone 15' …
//     …
//   });
//
// When the test ends, it fails if the page or a worker logged an error, threw, broke the content-security policy or asked another
// host for anything. Test files are named *.test.js and run one after another: a software GPU fills the machine.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { startServer } from '../../www/serve.js';
import { closeBrowsers, devices, launch } from './chromium.js';

/** @typedef {import('../../www/node_modules/playwright-core/index.js').Page} Page */
/** @typedef {import('../../www/node_modules/playwright-core/index.js').BrowserContext} BrowserContext */
/** @typedef {import('node:test').TestContext} TestContext */
/** @typedef {{method: string, path: string, status: number}} Request */

export const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));
export const DIST = path.join(REPOSITORY, 'www', 'dist');

after(closeBrowsers);

/**
 * Serves a folder until the test ends. `requests` is what the server has answered so far, `violations` what browsers reported.
 * @param {TestContext} t
 * @param {Partial<import('../../www/serve.js').Options>} [options] `base: '/some/path/'` hosts under a sub-path
 */
export async function serve(t, options = {}) {
  /** @type {Request[]} */
  const requests = [];
  /** @type {string[]} */
  const violations = [];
  const server = await startServer({
    root: DIST,
    onRequest: (request) => requests.push(request),
    onViolation: (report) => violations.push(report),
    ...options,
  });
  t.after(server.close);
  return { url: server.url, requests, violations };
}

/**
 * @typedef {object} Opening
 * @property {boolean} [webgpu] whether the browser has WebGPU (default: no)
 * @property {string} [camera] a JPEG that a fake camera shows, with permission given; without it there is no camera
 * @property {string} [device] one of playwright's device descriptors, such as 'iPhone 15' or 'Pixel 7'
 * @property {Record<string, unknown>} [context] further options of the browser context (viewport, colorScheme, reducedMotion …)
 * @property {string | null} [page] what to open, relative to the site (default: its front page); null opens nothing yet
 * @property {Awaited<ReturnType<typeof serve>>} [site] a server that is running already
 * @property {Partial<import('../../www/serve.js').Options>} [server] options of the server that is started otherwise
 * @property {RegExp[]} [expected] errors that this test provokes: they don't fail it
 * @property {string[]} [args] further arguments of Chromium
 */

/**
 * A page of the site in a browser context of its own.
 * @param {TestContext} t
 * @param {Opening} [options]
 */
export async function open(t, options = {}) {
  const site = options.site ?? (await serve(t, options.server));
  const browser = await launch(options);
  /** @type {BrowserContext} */
  const context = await browser.newContext({ ...(options.device ? devices[options.device] : {}), ...options.context });
  if (options.camera) await context.grantPermissions(['camera'], { origin: new URL(site.url).origin });
  const page = await context.newPage();
  const problems = watch(context, page, site);
  t.after(async () => {
    await context.close();
    const unexpected = problems().filter((problem) => !options.expected?.some((pattern) => pattern.test(problem)));
    assert.deepEqual(unexpected, [], 'the page must be silent');
  });
  if (options.page !== null) await page.goto(new URL(options.page ?? '', site.url).href);
  return { page, context, browser, site, url: site.url, problems };
}

/**
 * Everything that goes wrong in the page and its workers, collected.
 * @param {BrowserContext} context @param {Page} page @param {{url: string, violations: string[]}} site
 * @returns {() => string[]}
 */
function watch(context, page, site) {
  /** @type {string[]} */
  const seen = [];
  const { origin } = new URL(site.url);
  page.on('console', (message) => {
    if (message.type() === 'error') seen.push(`console: ${message.text()} (${message.location().url})`);
  });
  page.on('pageerror', (error) => seen.push(`uncaught: ${error.stack ?? error}`));
  page.on('crash', () => seen.push('the page crashed'));
  context.on('request', (request) => {
    const url = new URL(request.url());
    if (!['data:', 'blob:'].includes(url.protocol) && url.origin !== origin) seen.push(`asked another host: ${url}`);
  });
  return () => [...seen, ...site.violations.map((report) => `policy violation: ${report}`)];
}
