// Numbers as people read them.

/** @param {number} bytes */
export function bytes(bytes) {
  if (bytes < 1e6) return `${Math.round(bytes / 1e3)} kB`;
  return `${(bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0)} MB`;
}

/** @param {number} ms */
export function time(ms) {
  if (ms >= 1e3) return `${(ms / 1e3).toFixed(ms < 1e4 ? 2 : 1)} s`;
  if (ms < 0.1) return '< 0.1 ms';
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

/** @param {number} score between 0 and 1 */
export function percent(score) {
  return `${Math.round(score * 100)}%`;
}

/** @param {number} count @param {string} one @param {string} [many] */
export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
