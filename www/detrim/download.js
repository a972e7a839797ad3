// Fetching with progress, as a Blob: browsers may keep one on disk, and a restarted worker gets it without a second request.

import { DetrimError, aborted } from './errors.js';

/**
 * @param {string | URL} url
 * @param {AbortSignal} [signal]
 * @param {(loaded: number, total: number | null) => void} [onBytes] `total` is null where the host doesn't tell
 * @returns {Promise<Blob>}
 */
export async function download(url, signal, onBytes) {
  try {
    const response = await fetch(url, { signal });
    if (!response.ok) throw new DetrimError('network', `${url}: the server answered ${response.status} ${response.statusText}`.trim());
    if (!onBytes) return await response.blob();
    const counted = count(response, onBytes);
    return await counted.blob();
  } catch (error) {
    if (signal?.aborted) throw aborted(signal);
    throw DetrimError.from(error, 'network', String(url));
  }
}

/**
 * The same response, telling how much of it has arrived.
 *
 * @param {Response} response
 * @param {(loaded: number, total: number | null) => void} onBytes
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
      onBytes(loaded, total);
      controller.enqueue(chunk);
    },
  });
  return new Response(body.pipeThrough(counter), { status, headers: { 'Content-Type': headers.get('Content-Type') ?? '' } });
}
