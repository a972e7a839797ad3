// A page to measure in: the package of the built site, beside files from anywhere on the disk.

import { createReadStream } from 'node:fs';
import { access, stat } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { contentType, startServer } from '../../www/serve.js';
import { closeBrowsers, launch } from './chromium.js';

/** @typedef {import('../../www/node_modules/playwright-core/index.js').Page} Page */

const DIST = fileURLToPath(new URL('../../www/dist', import.meta.url));

/**
 * Opens it; `close` ends the browser too.
 * @param {Record<string, string>} files by the address that the page is to find them at, as '/bench.safetensors'
 * @param {import('./chromium.js').Launch} options
 */
export async function openBench(files, options) {
  await access(path.join(DIST, 'detrim', 'wasm')).catch(() => {
    throw new Error('the site isn\'t built: run ./build.sh first');
  });
  /** @type {Record<string, number>} */
  const bytes = {};
  for (const [address, file] of Object.entries(files)) bytes[address] = (await stat(file)).size;
  const server = await startServer({
    root: DIST,
    intercept({ url = '' }, response) {
      if (url === '/bench.html') response.writeHead(200, { 'Content-Type': 'text/html' }).end('<title>Bench</title>');
      else if (files[url]) createReadStream(files[url]).pipe(response.writeHead(200, { 'Content-Type': contentType(files[url]), 'Content-Length': bytes[url] }));
      else return false;
      return true;
    },
  });
  const close = async () => {
    await closeBrowsers();
    await server.close();
  };
  try {
    const browser = await launch(options);
    const page = await browser.newPage();
    await page.goto(`${server.url}bench.html`);
    return { page, browser: `Chromium ${browser.version()}`, close };
  } catch (error) {
    await close();
    throw error;
  }
}
