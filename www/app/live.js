// Camera frames through the detector, one at a time: a frame is taken when the last one is done, so nothing queues up.

import { lookToo } from './compare.js';
import { detect } from './engine.js';
import { explain, isAbort } from './errors.js';
import { notify } from './notices.js';
import { state, update } from './state.js';

/** After so many failures in a row the next frame won't fare better. */
const PATIENCE = 3;

/** @type {AbortController | null} */
let session = null;
/** The frame that the boxes on show belong to. @type {HTMLCanvasElement | null} */
let shownFrame = null;

/** @param {HTMLVideoElement} video */
export function startLive(video) {
  stopLive();
  session = new AbortController();
  void loop(video, session.signal);
}

export function stopLive() {
  session?.abort();
  session = null;
  shownFrame = null;
}

/** @param {HTMLVideoElement} video @param {AbortSignal} signal */
async function loop(video, signal) {
  // Two canvases in turn: one is on show (and may be saved) while the other is being looked at.
  let [work, spare] = [document.createElement('canvas'), document.createElement('canvas')];
  /** @type {number[]} */
  const finished = [];
  let failures = 0;
  while (!signal.aborted) {
    await nextFrame(video, signal);
    if (signal.aborted) return;
    if (!grab(video, work)) continue;
    try {
      const found = await detect(work, signal);
      const rivalResult = await lookToo(work, work, signal);
      if (signal.aborted) return;
      failures = 0;
      finished.push(performance.now());
      if (finished.length > 12) finished.shift();
      shownFrame = work;
      update({ result: { ...found, width: work.width, height: work.height }, rivalResult, fps: rate(finished) });
      [work, spare] = [spare, work];
    } catch (error) {
      if (signal.aborted) return;
      failures += isAbort(error) ? PATIENCE : 1;
      if (failures < PATIENCE) continue;
      if (!isAbort(error)) notify('error', 'camera', `The camera picture can’t be looked at: ${explain(error)}`);
      return;
    }
  }
}

/**
 * Waits for a frame that hasn't been seen. None comes while the tab is hidden or the video paused.
 * @param {HTMLVideoElement} video
 * @param {AbortSignal} signal
 */
function nextFrame(video, signal) {
  return new Promise((/** @type {(value?: unknown) => void} */ resolve) => {
    signal.addEventListener('abort', resolve, { once: true });
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(resolve);
    else requestAnimationFrame(resolve);
  });
}

/**
 * The frame as it is shown, mirrored or not, so that boxes, screen and saved picture agree.
 * @param {HTMLVideoElement} video
 * @param {HTMLCanvasElement} canvas
 */
function grab(video, canvas) {
  const { videoWidth: width, videoHeight: height } = video;
  if (!width || !height || video.paused) return false;
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  const context = canvas.getContext('2d', { willReadFrequently: state.info?.backend === 'cpu' });
  if (!context) return false;
  context.setTransform(state.mirrored ? -1 : 1, 0, 0, 1, state.mirrored ? width : 0, 0);
  context.drawImage(video, 0, 0, width, height);
  context.resetTransform();
  return true;
}

/** Frames a second over the last ones. @param {number[]} finished */
function rate(finished) {
  const span = finished[finished.length - 1] - finished[0];
  return span > 0 ? ((finished.length - 1) * 1e3) / span : 0;
}

/** The frame on show, for saving with its boxes. */
export function frameOnShow() {
  return shownFrame;
}

/** The frame on show as a file. @returns {Promise<Blob | null>} */
export async function takeFrame() {
  const frame = shownFrame;
  return frame ? new Promise((resolve) => frame.toBlob(resolve, 'image/png')) : null;
}
