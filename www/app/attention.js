// Where the query behind a box looked: asked for by tapping it, shown as a heat map, head by head if one likes.

import { attention } from './engine.js';
import { explain, isAbort } from './errors.js';
import { byId, make } from './dom.js';
import { notify } from './notices.js';
import { shown, state, update, watch } from './state.js';

/** @typedef {import('./state.js').Detection} Detection */

const field = byId('heads', HTMLElement);
const select = byId('head', HTMLSelectElement);
/** @type {AbortController | null} */
let asking = null;
/** The head that was chosen, for the next box too; null for all. @type {number | null} */
let wanted = null;

export function startAttention() {
  select.addEventListener('change', () => {
    wanted = select.value ? Number(select.value) : null;
    if (state.attention) update({ attention: { ...state.attention, head: wanted } });
  });
  // It belongs to one result, and to a box that can be seen.
  watch(['result', 'threshold', 'hidden', 'mode'], () => {
    if (state.attention && !shown().includes(state.attention.detection)) closeAttention();
  });
  watch(['attention'], () => {
    const { maps = null, head = null } = state.attention ?? {};
    field.hidden = !maps;
    if (!maps) return;
    if (select.options.length !== maps.heads + 1) {
      select.replaceChildren(make('option', { value: '' }, `All ${maps.heads} heads`), ...Array.from({ length: maps.heads }, (_, i) => make('option', { value: i }, `Head ${i + 1}`)));
    }
    select.value = head === null ? '' : String(head);
  });
}

/**
 * Shows where a detection's query looked, or no longer.
 * @param {Detection} detection
 */
export async function toggleAttention(detection) {
  const { current, result, mode } = state;
  const last = state.attention;
  closeAttention();
  // A camera's picture is gone before its map is there.
  if (last?.detection === detection || mode !== 'photo' || !current || !result) return;
  const mine = new AbortController();
  asking = mine;
  update({ attention: { detection, maps: null, head: wanted } });
  try {
    const maps = await attention(current.blob, detection.query, result.model, mine.signal);
    if (mine !== asking) return;
    if (wanted !== null && wanted >= maps.heads) wanted = null;
    update({ attention: { detection, maps, head: wanted } });
  } catch (error) {
    if (mine !== asking) return;
    closeAttention();
    if (!isAbort(error)) notify('error', 'attention', explain(error));
  }
}

/** Whether there was something to close. */
export function closeAttention() {
  asking?.abort();
  asking = null;
  if (!state.attention) return false;
  const focused = document.activeElement === select;
  update({ attention: null });
  // The list is where the keyboard came from.
  if (focused) document.querySelector(/** @type {'button'} */ ('#list .entry'))?.focus({ preventScroll: true });
  return true;
}
