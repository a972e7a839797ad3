// Fetching with progress, as a Blob: browsers may keep one on disk, and a restarted worker gets it without a second request.

import { DetrimError } from './errors.js';
import { aborted } from './signals.js';

/**
 * @param {string | URL} url
 * @param {AbortSignal} [signal]
 * @param {(loaded: number, total: number | null) => void} [onBytes] `total` is null where the host doesn't tell
 * @returns {Promise<Blob>}
 */
export async function download(url, signal, onBytes) {
  return await receive(await get(url, signal), shortened(url), signal, onBytes);
}

/**
 * @param {string | URL} url
 * @param {AbortSignal} [signal]
 */
export async function get(url, signal) {
  try {
    return await fetch(url, { signal });
  } catch (error) {
    if (signal?.aborted) throw aborted(signal);
    throw DetrimError.from(error, 'network', isElsewhere(url)
      ? `${shortened(url)}: it can't be fetched; if it is there, its server must allow other sites to read it (CORS: Access-Control-Allow-Origin)` : shortened(url));
  }
}

/**
 * What a response holds.
 *
 * @param {Response} response
 * @param {string} name for messages
 * @param {AbortSignal} [signal]
 * @param {(loaded: number, total: number | null) => void} [onBytes]
 * @returns {Promise<Blob>}
 */
export async function receive(response, name, signal, onBytes) {
  if (!response.ok) throw new DetrimError('network', `${name}: the server answered ${response.status} ${response.statusText}`.trim());
  if (response.bodyUsed) throw new DetrimError('argument', `${name}: the response has been read already`);
  try {
    return await (onBytes ? count(response, onBytes) : response).blob();
  } catch (error) {
    if (signal?.aborted) throw aborted(signal);
    throw DetrimError.from(error, 'network', name);
  }
}

/**
 * The same response, telling how much of it has arrived.
 *
 * @param {Response} response
 * @param {(loaded: number, total: number | null, chunk?: Uint8Array) => void} onBytes
 */
export function count(response, onBytes) {
  const { body, headers, status } = response;
  if (!body) return response;
  // The length of a compressed response isn't that of what comes out.
  const total = headers.has('Content-Encoding') ? null : Number(headers.get('Content-Length')) || null;
  let loaded = 0;
  onBytes(loaded, total);
  const counter = new TransformStream({
    /** @param {Uint8Array} chunk @param {TransformStreamDefaultController<Uint8Array>} controller */
    transform(chunk, controller) {
      loaded += chunk.byteLength;
      onBytes(loaded, total, chunk);
      controller.enqueue(chunk);
    },
  });
  return new Response(body.pipeThrough(counter), { status, headers: { 'Content-Type': headers.get('Content-Type') ?? '' } });
}

/** An address for a message: a `data:` address holds a whole file. @param {string | URL} url */
export function shortened(url) {
  const text = String(url);
  return text.length > 200 ? `${text.slice(0, 80)}…` : text;
}

/** Whether an address is another origin's. @param {string | URL} url */
export function isElsewhere(url) {
  try {
    const { protocol, origin } = new URL(url, globalThis.location?.href);
    return protocol.startsWith('http') && origin !== globalThis.location?.origin;
  } catch {
    return false;
  }
}
