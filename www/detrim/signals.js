// Giving up: promises that end when a signal says so, and signals that follow others.

import { DetrimError } from './errors.js';

/**
 * The error of a signal that was triggered.
 *
 * @param {AbortSignal} signal
 */
export function aborted(signal) {
  return new DetrimError('aborted', 'aborted', { cause: signal.reason });
}

/**
 * The promise, or the signal's error as soon as it is triggered; then the promise's own end interests nobody.
 *
 * @template T
 * @param {AbortSignal | undefined} signal
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
export function abortable(signal, promise) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const give = () => reject(aborted(signal));
    if (signal.aborted) {
      promise.catch(() => {});
      return give();
    }
    signal.addEventListener('abort', give, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', give));
  });
}

/**
 * A signal that is triggered with the first of several, until it is let go. `AbortSignal.any` is younger than the browsers that this runs in.
 *
 * @param {...(AbortSignal | undefined)} signals
 */
export function follow(...signals) {
  const controller = new AbortController();
  const followed = signals.filter(signal => signal !== undefined).map(signal => {
    const give = () => controller.abort(signal.reason);
    if (signal.aborted) give();
    else signal.addEventListener('abort', give, { once: true });
    return { signal, give };
  });
  const letGo = () => {
    for (const { signal, give } of followed) signal.removeEventListener('abort', give);
  };
  return { signal: controller.signal, letGo };
}
