// What this browser remembers from visit to visit. Storage may be forbidden; then a choice lasts for this visit.

/** @param {string} name */
export function recall(name) {
  try {
    return localStorage.getItem(`detrim-${name}`);
  } catch {
    return null;
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(`detrim-${name}`, value);
  } catch {
    // As above.
  }
}
