// Serves the built site while developing, on the local network for phones, and to the browser tests.
//
// Two things a plain static server lacks: every response, the worker's included, carries the security headers (a worker takes the
// policy of its own response, not that of the page), and https, without which a phone offers neither camera nor WebGPU.

import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import path from 'node:path';
import { pipeline } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

const POLICY = {
  'default-src': "'none'",
  'script-src': "'self' 'wasm-unsafe-eval'",
  'style-src': "'self'",
  'img-src': "'self' blob: data:",
  'connect-src': "'self'",
  'worker-src': "'self'",
  'media-src': "'self' blob:",
  'manifest-src': "'self'",
  'base-uri': "'none'",
  'form-action': "'none'",
  'frame-ancestors': "'none'",
};

export const HEADERS = {
  'Content-Security-Policy': Object.entries(POLICY).map((directive) => directive.join(' ')).join('; '),
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Permissions-Policy': 'camera=(self)',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.gif': 'image/gif',
  '.html': 'text/html; charset=utf-8',
  '.ico': 'image/x-icon',
  '.jpeg': 'image/jpeg',
  '.jpg': 'image/jpeg',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json; charset=utf-8',
  '.md': 'text/markdown; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.png': 'image/png',
  '.safetensors': 'application/octet-stream',
  '.svg': 'image/svg+xml',
  '.ts': 'text/plain; charset=utf-8',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
  '.webmanifest': 'application/manifest+json; charset=utf-8',
  '.webp': 'image/webp',
};

/** What a file is sent as. @param {string} file */
export function contentType(file) {
  return TYPES[/** @type {keyof typeof TYPES} */ (path.extname(file).toLowerCase())] ?? 'application/octet-stream';
}

// Best first. The build writes these next to a file where they are smaller.
const ENCODINGS = [['br', '.br'], ['gzip', '.gz']];

/**
 * @typedef {object} Options
 * @property {string} root the folder to serve
 * @property {string} [base] the path under which it appears: `/`, or something like `/some/where/`
 * @property {number} [port] 0 takes any free one
 * @property {string} [host]
 * @property {{key: string, cert: string}} [tls] serves https
 * @property {(entry: {method: string, path: string, status: number}) => void} [onRequest] called as each response ends
 * @property {(report: string) => void} [onViolation] browsers then report violations of the policy here, in workers too
 * @property {(request: http.IncomingMessage, response: http.ServerResponse) => boolean} [intercept] true if it answers itself
 */

/**
 * @param {Options} options
 * @returns {Promise<{url: string, port: number, close: () => Promise<void>}>}
 */
export async function startServer({ root, base = '/', port = 0, host = '127.0.0.1', tls, onRequest, onViolation, intercept }) {
  const reports = `${base}policy-violation`;
  const headers = { ...HEADERS };
  if (onViolation) headers['Content-Security-Policy'] += `; report-uri ${reports}`;

  /** @type {http.RequestListener} */
  const answer = async (request, response) => {
    const { method = 'GET', url = '/' } = request;
    const requested = url.split('?', 1)[0];
    for (const [name, value] of Object.entries(headers)) response.setHeader(name, value);
    if (onViolation && method === 'POST' && requested === reports) {
      let report = '';
      for await (const chunk of request) report += chunk;
      onViolation(report);
      response.writeHead(204).end();
      return;
    }
    response.on('close', () => onRequest?.({ method, path: requested, status: response.statusCode }));
    if (intercept?.(request, response)) return;
    await sendFile(root, base, request, response);
  };
  /** @type {http.RequestListener} */
  const listener = (request, response) => {
    Promise.resolve(answer(request, response)).catch((error) => {
      if (!response.headersSent) sendText(response, 500, `The server failed: ${error.message}`);
      else response.destroy(error);
    });
  };

  const server = tls ? https.createServer(tls, listener) : http.createServer(listener);
  await /** @type {Promise<void>} */ (new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, () => resolve());
  }));
  const bound = /** @type {import('node:net').AddressInfo} */ (server.address()).port;
  const name = host === '0.0.0.0' || host === '::' ? 'localhost' : host;
  return {
    url: `${tls ? 'https' : 'http'}://${name}:${bound}${base}`,
    port: bound,
    close: () => new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    }),
  };
}

/** @param {http.ServerResponse} response @param {number} status @param {string} text */
function sendText(response, status, text) {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

/** @param {string} root @param {string} base @param {http.IncomingMessage} request @param {http.ServerResponse} response */
async function sendFile(root, base, request, response) {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    response.setHeader('Allow', 'GET, HEAD');
    return sendText(response, 405, 'Only GET and HEAD are answered here.');
  }
  const requested = (request.url ?? '/').split('?', 1)[0];
  const missing = () => sendText(response, 404, `Not found: ${requested}`);
  if (`${requested}/` === base) return redirect(response, base);
  if (!requested.startsWith(base)) return missing();
  const local = localPath(root, requested.slice(base.length));
  if (local === undefined) return missing();
  let file = local;
  let info = await stat(file).catch(() => undefined);
  if (info?.isDirectory()) {
    if (!requested.endsWith('/')) return redirect(response, `${requested}/`);
    file = path.join(file, 'index.html');
    info = await stat(file).catch(() => undefined);
  }
  if (!info?.isFile() || (requested.endsWith('/') && file === local)) return missing();

  response.setHeader('Content-Type', contentType(file));
  const chosen = await precompressed(file, info, request.headers['accept-encoding'] ?? '');
  if (chosen.vary) response.setHeader('Vary', 'Accept-Encoding');
  if (chosen.encoding) response.setHeader('Content-Encoding', chosen.encoding);
  // Files change under a developer's hands: always ask, and let the tag spare the bytes.
  const tag = `"${chosen.info.size.toString(36)}-${Math.round(chosen.info.mtimeMs).toString(36)}"`;
  response.setHeader('Cache-Control', 'no-cache');
  response.setHeader('ETag', tag);
  if (request.headers['if-none-match'] === tag) {
    response.writeHead(304).end();
    return;
  }
  response.writeHead(200, { 'Content-Length': chosen.info.size });
  if (request.method === 'HEAD') {
    response.end();
    return;
  }
  // An error here is a client that went away: there is nobody left to tell.
  pipeline(createReadStream(chosen.file), response, () => {});
}

/** @param {http.ServerResponse} response @param {string} location */
function redirect(response, location) {
  response.setHeader('Location', location);
  sendText(response, 301, `Moved to ${location}`);
}

/**
 * The file that a request path names, or undefined if it doesn't name one inside the folder.
 * @param {string} root @param {string} requested
 */
function localPath(root, requested) {
  let decoded;
  try {
    decoded = decodeURIComponent(requested);
  } catch {
    return undefined;
  }
  const parts = decoded.split('/');
  if (/[\0\\]/.test(decoded) || parts.some((part) => part.startsWith('.'))) return undefined;
  const folder = path.resolve(root);
  const file = path.join(folder, ...parts);
  return file === folder || file.startsWith(folder + path.sep) ? file : undefined;
}

/** @param {string} file @param {import('node:fs').Stats} info @param {string} accepted */
async function precompressed(file, info, accepted) {
  const accepts = accepted.split(',').map((part) => part.trim().split(';')[0]);
  let vary = false;
  for (const [encoding, suffix] of ENCODINGS) {
    const smaller = await stat(file + suffix).catch(() => undefined);
    // An older one was made from an earlier version of the file.
    if (!smaller?.isFile() || smaller.mtimeMs < info.mtimeMs) continue;
    vary = true;
    if (accepts.includes(encoding)) return { file: file + suffix, info: smaller, encoding, vary };
  }
  return { file, info, encoding: undefined, vary };
}

const USAGE = `Usage: node www/serve.js [--port N] [--host] [--https] [--base /PATH/] [FOLDER]

  --port N      the port (default 8080, or the next free one)
  --host        let other machines on the network in; a phone will show the page, but only https gives it camera and WebGPU
  --https       as --host, with a self-signed certificate, and a QR code of the address
  --base PATH   serve under a path, as some hosts do
  FOLDER        what to serve (default www/dist)`;

/** @param {string[]} argv */
async function main(argv) {
  const { values, positionals } = parseArgs({
    args: argv,
    allowPositionals: true,
    options: {
      port: { type: 'string' },
      host: { type: 'boolean', default: false },
      https: { type: 'boolean', default: false },
      base: { type: 'string', default: '/' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return console.log(USAGE);
  const first = Number(values.port ?? 8080);
  if (!Number.isInteger(first) || first < 0 || first > 65535) throw new Error(`--port ${values.port}: a port is a number from 0 to 65535`);
  const root = path.resolve(positionals[0] ?? fileURLToPath(new URL('dist', import.meta.url)));
  if (!(await stat(path.join(root, 'index.html')).catch(() => undefined))) throw new Error(`${root} holds no index.html: ./build.sh builds the site`);
  const base = `/${values.base}/`.replace(/\/+/g, '/');

  const open = values.host || values.https;
  const lan = open ? await import('./certificate.js') : undefined;
  const addresses = lan?.lanAddresses() ?? [];
  const tls = values.https ? await lan?.certificate(addresses) : undefined;
  const options = { root, base, host: open ? '0.0.0.0' : '127.0.0.1', tls };
  const server = await listen(options, first, values.port === undefined);

  console.log(`\ndetrim is served at  ${server.url.replace('127.0.0.1', 'localhost')}`);
  for (const address of addresses) console.log(`on the network at    ${tls ? 'https' : 'http'}://${address}:${server.port}${base}`);
  if (tls) {
    const { default: qr } = await import('qrcode');
    if (addresses.length) console.log(await qr.toString(`https://${addresses[0]}:${server.port}${base}`, { type: 'terminal', small: true }));
    console.log('The certificate is self-signed: the browser warns once, and "continue" is the right answer here.');
  }
  if (open && !addresses.length) console.log('This machine has no address on a network, so no other machine can reach it.');
  console.log('Ctrl-C stops it.');
  for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) {
    process.once(signal, () => server.close().then(() => process.exit(0)));
  }
}

/** @param {Options} options @param {number} first @param {boolean} orNext */
async function listen(options, first, orNext) {
  for (let port = first; ; port++) {
    try {
      return await startServer({ ...options, port });
    } catch (error) {
      const { code } = /** @type {NodeJS.ErrnoException} */ (error);
      if (code === 'EADDRINUSE' && orNext && port < first + 20) continue;
      if (code === 'EADDRINUSE') throw new Error(`port ${port} is in use: choose another with --port`);
      if (code === 'EACCES') throw new Error(`port ${port} needs the administrator's rights: choose one from 1024 on with --port`);
      throw error;
    }
  }
}

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  await main(process.argv.slice(2)).catch((error) => {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  });
}
