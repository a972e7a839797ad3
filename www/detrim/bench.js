// Medians of times.

/** @import { Times } from './index.js' */

/**
 * The median of each stage.
 *
 * @param {Times[]} runs
 * @returns {Times}
 */
export function median(runs) {
  /** @param {keyof Times} stage */
  const of = stage => {
    const sorted = runs.map(times => times[stage]).sort((a, b) => a - b);
    const middle = sorted.length >> 1;
    return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
  };
  return { decode: of('decode'), pre: of('pre'), network: of('network'), post: of('post'), total: of('total') };
}
