/**
 * The one kind of error that the package throws.
 *
 * - `network`: the model or a picture couldn't be fetched, or the worker's script couldn't be loaded
 * - `model`: the file isn't a detector
 * - `checksum`: the file isn't the one whose sha256 was given
 * - `source`: this is no picture, or its pixels may not be read
 * - `argument`: an option that means nothing
 * - `aborted`: the signal said so (the error's name is `AbortError`, its cause the signal's reason)
 * - `gpu-lost`: the GPU went away, and `backend: 'webgpu'` forbids the CPU
 * - `unsupported`: this browser lacks what was asked for
 * - `disposed`: the detector had been disposed of
 * - `crashed`: the engine broke down (out of memory, or a bug); it is restarted for the next call
 *
 * @typedef {'network' | 'model' | 'checksum' | 'source' | 'argument' | 'aborted' | 'gpu-lost' | 'unsupported' | 'disposed' | 'crashed'} ErrorCode
 */

export class DetrimError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} message
   * @param {ErrorOptions} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = code === 'aborted' ? 'AbortError' : 'DetrimError';
    /** What kind of error this is; see {@link ErrorCode}. @type {ErrorCode} */
    this.code = code;
  }

  /**
   * What went wrong as this kind of error, with `code` where it was something foreign.
   *
   * @param {unknown} error
   * @param {ErrorCode} code
   * @param {string} [what] what was tried
   */
  static from(error, code, what) {
    if (error instanceof DetrimError) return error;
    // By its shape and not by instanceof: it may be another window's.
    const message = typeof error === 'object' && error !== null && 'message' in error ? String(error.message) : String(error);
    return new DetrimError(code, what ? `${what}: ${message}` : message, { cause: error });
  }
}
