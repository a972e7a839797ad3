// Which way up a photo is, where browsers differ: all of them heed the EXIF data of a JPEG, but those of WebP and PNG only some do.

/** A tag of EXIF data, of one 16-bit number. */
const ORIENTATION = 0x112;
const SHORT = 3;

/**
 * A WebP or PNG file without what its EXIF data say of its orientation, which is told instead, from 1 (upright) to 8; any other file as it is.
 *
 * @param {Blob} blob
 * @returns {Promise<{blob: Blob, orientation: number}>}
 */
export async function takeOrientation(blob) {
  const upright = { blob, orientation: 1 };
  const start = new DataView(await blob.slice(0, 16).arrayBuffer());
  const webp = text(start, 0) === 'RIFF' && text(start, 8) === 'WEBP' && text(start, 12) === 'VP8X';
  if (!webp && text(start, 1) !== 'PNG\r') return upright;
  const file = new DataView(await blob.arrayBuffer());
  const chunk = webp ? webpChunk(file) : pngChunk(file);
  const found = chunk && findOrientation(file, chunk.data, chunk.data + chunk.length);
  if (!found || found.orientation === 1) return upright;
  // WebP tells the file's length: the number is overwritten there, and in PNG the chunk is left out.
  const [from, to, instead] = webp
    ? [found.at, found.at + 2, [Uint8Array.of(...(found.little ? [1, 0] : [0, 1]))]]
    : [chunk.start, chunk.data + chunk.length + 4, []];
  return { blob: new Blob([blob.slice(0, from), ...instead, blob.slice(to)], { type: blob.type }), orientation: found.orientation };
}

/**
 * The transformation that turns a picture of `width` × `height` pixels, as it is stored, upright.
 *
 * @param {number} orientation
 * @param {number} width
 * @param {number} height
 * @returns {[number, number, number, number, number, number]} for a canvas's `setTransform`
 */
export function uprightTransform(orientation, width, height) {
  switch (orientation) {
    case 2: return [-1, 0, 0, 1, width, 0];
    case 3: return [-1, 0, 0, -1, width, height];
    case 4: return [1, 0, 0, -1, 0, height];
    case 5: return [0, 1, 1, 0, 0, 0];
    case 6: return [0, 1, -1, 0, height, 0];
    case 7: return [0, -1, -1, 0, height, width];
    case 8: return [0, -1, 1, 0, 0, width];
    default: return [1, 0, 0, 1, 0, 0];
  }
}

/** Whether an orientation's picture is stored lying. @param {number} orientation */
export const isLying = (orientation) => orientation > 4;

/** @typedef {{start: number, data: number, length: number}} Chunk */

/** @param {DataView} file @returns {Chunk | undefined} */
function webpChunk(file) {
  for (let start = 12; start + 8 <= file.byteLength;) {
    const length = file.getUint32(start + 4, true);
    if (text(file, start) === 'EXIF') return { start, data: start + 8, length };
    start += 8 + length + (length % 2);
  }
  return undefined;
}

/** @param {DataView} file @returns {Chunk | undefined} */
function pngChunk(file) {
  for (let start = 8; start + 8 <= file.byteLength;) {
    const length = file.getUint32(start);
    if (text(file, start + 4) === 'eXIf') return { start, data: start + 8, length };
    start += 12 + length;
  }
  return undefined;
}

/**
 * @param {DataView} file
 * @param {number} start of the EXIF data
 * @param {number} end
 * @returns {{orientation: number, at: number, little: boolean} | undefined} nothing where they are broken or say nothing
 */
function findOrientation(file, start, end) {
  if (end > file.byteLength) return undefined;
  // In WebP some programs leave what EXIF data begin with in JPEG.
  const data = text(file, start) === 'Exif' ? start + 6 : start;
  const order = text(file, data);
  const little = order === 'II*\0';
  if (!little && order !== 'MM\0*') return undefined;
  const exif = new DataView(file.buffer, data, end - data);
  try {
    const directory = exif.getUint32(4, little);
    for (let i = 0, count = exif.getUint16(directory, little); i < count; i += 1) {
      const entry = directory + 2 + 12 * i;
      if (exif.getUint16(entry, little) !== ORIENTATION || exif.getUint16(entry + 2, little) !== SHORT || exif.getUint32(entry + 4, little) !== 1) continue;
      const orientation = exif.getUint16(entry + 8, little);
      return orientation >= 1 && orientation <= 8 ? { orientation, at: data + entry + 8, little } : undefined;
    }
  } catch (error) {
    // It leads out of the data.
    if (!(error instanceof RangeError)) throw error;
  }
  return undefined;
}

/** Four bytes as letters; fewer at the end. @param {DataView} view @param {number} at */
function text(view, at) {
  let letters = '';
  for (let i = at; i < Math.min(at + 4, view.byteLength); i += 1) letters += String.fromCharCode(view.getUint8(i));
  return letters;
}
