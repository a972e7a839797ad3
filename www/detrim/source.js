// From anything that shows a picture to its pixels: first to a frame that can be sent to a worker, there to RGBA.

import { DetrimError } from './errors.js';
import { download } from './download.js';
import { called } from './model.js';
import { isLying, takeOrientation, uprightTransform } from './orientation.js';

/**
 * Whatever a picture can come from. A `<video>` gives its current frame.
 *
 * @typedef {string | URL | Blob | ImageBitmap | ImageData | HTMLImageElement | HTMLCanvasElement | OffscreenCanvas | HTMLVideoElement | VideoFrame} Source
 */

/**
 * What can be sent to a worker.
 *
 * @typedef {Blob | ImageBitmap | ImageData | VideoFrame} Frame
 */

/** RGBA, and the size of the picture, whose pixels may have been more. @typedef {{pixels: ImageData, width: number, height: number}} Pixels */

/**
 * Upright as browsers show it, but with the file's own numbers: no colour profile changes them, as in the pictures that the networks are
 * trained on. Alpha isn't multiplied in before the picture is put on white, so that it is rounded once, as by the native command.
 *
 * @type {ImageBitmapOptions}
 */
const AS_STORED = { imageOrientation: 'from-image', colorSpaceConversion: 'none', premultiplyAlpha: 'none' };

/** Phones refuse larger canvases. */
const MOST_PIXELS = 4096 * 4096;
const MOST_SIDE = 16384;

/** Why pixels can't be read, and what to do. */
const CORS = 'the picture comes from another host without its permission to read the pixels (CORS): load it with `crossorigin="anonymous"`, and have that '
  + 'host send `Access-Control-Allow-Origin`';

/**
 * Waits for what isn't there yet, an `<img loading="lazy">` out of sight for one: who calls ends that when it is given up.
 *
 * @param {Source} source
 * @param {AbortSignal} [signal] ends a download
 * @returns {Promise<{frame: Frame, owned: boolean}>} `owned`: the frame is ours to give away or close
 */
export async function toFrame(source, signal) {
  // By its tag and not by instanceof, so that an element of another window is known too.
  const kind = Object.prototype.toString.call(source).slice(8, -1);
  try {
    switch (kind) {
      case 'String':
      case 'URL':
        return { frame: await download(/** @type {string | URL} */ (source), signal), owned: true };
      case 'Blob':
      case 'File':
      case 'ImageData':
        return { frame: /** @type {Blob | ImageData} */ (source), owned: false };
      case 'ImageBitmap':
        if (/** @type {ImageBitmap} */ (source).width === 0) throw new DetrimError('source', 'the ImageBitmap was closed or given away');
        return { frame: /** @type {ImageBitmap} */ (source), owned: false };
      case 'VideoFrame':
        return { frame: /** @type {VideoFrame} */ (source).clone(), owned: true };
      case 'HTMLImageElement':
        await /** @type {HTMLImageElement} */ (source).decode();
        return { frame: await bitmap(/** @type {HTMLImageElement} */ (source)), owned: true };
      case 'HTMLVideoElement':
        if (/** @type {HTMLVideoElement} */ (source).readyState < 2) throw new DetrimError('source', 'the video has no frame yet');
        return { frame: await bitmap(/** @type {HTMLVideoElement} */ (source)), owned: true };
      case 'HTMLCanvasElement':
      case 'OffscreenCanvas':
        return { frame: await bitmap(/** @type {HTMLCanvasElement} */ (source)), owned: true };
    }
  } catch (error) {
    throw DetrimError.from(error, 'source', `can't get a picture from this ${kind}`);
  }
  throw new DetrimError('source', `can't get a picture from ${called(source)}: an address, Blob, ImageBitmap, ImageData, <img>, <canvas>, <video> or VideoFrame was expected`);
}

/** @param {ImageBitmapSource} source */
async function bitmap(source) {
  try {
    return await createImageBitmap(source, AS_STORED);
  } catch (error) {
    // Older browsers know fewer options, and say so by a TypeError.
    if (!(error instanceof TypeError)) throw error;
    return await createImageBitmap(source);
  }
}

/**
 * Why a frame can't be given to a worker, as an error. Of a picture that may not be read, browsers make a frame, but one that stays here.
 *
 * @param {unknown} frame
 * @param {unknown} problem
 */
export function notSent(frame, problem) {
  if (Object.prototype.toString.call(frame) === '[object ImageBitmap]' && isTainted(/** @type {ImageBitmap} */ (frame))) {
    return new DetrimError('source', CORS, { cause: problem });
  }
  return DetrimError.from(problem, 'source', 'the picture can\'t be given to the worker');
}

/** @param {ImageBitmap} bitmap */
function isTainted(bitmap) {
  try {
    draw(bitmap, 1, 1);
    return false;
  } catch (error) {
    return error instanceof DOMException && error.name === 'SecurityError';
  }
}

/**
 * The pixels of a frame.
 *
 * @param {Frame} frame
 * @param {boolean} owned whether to close it
 * @returns {Promise<Pixels>}
 */
export async function toPixels(frame, owned) {
  /** @type {ImageBitmap | VideoFrame | undefined} */
  let picture;
  try {
    if ('data' in frame && frame.data instanceof Uint8ClampedArray && fits(frame.width, frame.height)) {
      return { pixels: frame, width: frame.width, height: frame.height };
    }
    const ready = 'close' in frame;
    const { blob, orientation } = 'arrayBuffer' in frame ? await takeOrientation(frame) : { blob: frame, orientation: 1 };
    picture = ready ? /** @type {ImageBitmap | VideoFrame} */ (frame) : await bitmap(/** @type {Blob | ImageData} */ (blob));
    owned ||= !ready;
    const [across, down] = 'displayWidth' in picture ? [picture.displayWidth, picture.displayHeight] : [picture.width, picture.height];
    const [width, height] = isLying(orientation) ? [down, across] : [across, down];
    return { pixels: draw(picture, across, down, orientation), width, height };
  } catch (error) {
    throw DetrimError.from(error, 'source', error instanceof DOMException && error.name === 'SecurityError'
      ? CORS : 'the picture can\'t be read');
  } finally {
    if (owned) picture?.close();
  }
}

/** One canvas for all frames: browsers are slow to give back a canvas's memory. @type {OffscreenCanvas | HTMLCanvasElement | undefined} */
let canvas;

/** Whether a canvas may be so large. @param {number} width @param {number} height */
function fits(width, height) {
  return width * height <= MOST_PIXELS && Math.max(width, height) <= MOST_SIDE;
}

/**
 * On white, upright, and made smaller where a canvas couldn't hold it.
 *
 * @param {ImageBitmap | VideoFrame} picture
 * @param {number} width
 * @param {number} height
 * @param {number} [orientation]
 * @returns {ImageData}
 */
function draw(picture, width, height, orientation = 1) {
  const shrink = fits(width, height) ? 1 : Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  // A picture may be as thin as a thread.
  const [w, h] = [width, height].map(side => Math.min(MOST_SIDE, Math.max(1, Math.floor(side * shrink))));
  const [across, down] = isLying(orientation) ? [h, w] : [w, h];
  canvas ??= typeof OffscreenCanvas !== 'undefined' ? new OffscreenCanvas(across, down) : document.createElement('canvas');
  canvas.width = across;
  canvas.height = down;
  const context = /** @type {OffscreenCanvasRenderingContext2D | CanvasRenderingContext2D | null} */ (
    canvas.getContext('2d', { willReadFrequently: true }));
  if (!context) throw new DetrimError('unsupported', 'the browser gave no 2D canvas');
  context.fillStyle = 'white';
  context.fillRect(0, 0, across, down);
  context.imageSmoothingQuality = 'high';
  context.setTransform(...uprightTransform(orientation, w, h));
  context.drawImage(picture, 0, 0, w, h);
  try {
    return context.getImageData(0, 0, across, down);
  } catch (error) {
    // What is drawn to it from now on could not be read either.
    canvas = undefined;
    throw error;
  }
}
