// The list of what was found. Pointing at an entry lifts its box; pointing at a box selects its entry. Choosing either shows where the
// network looked.

import { toggleAttention } from './attention.js';
import { colourOf } from './colours.js';
import { byId, make } from './dom.js';
import { percent, plural } from './format.js';
import { shown, state, update, watch } from './state.js';

/** @typedef {import('./state.js').Detection} Detection */

const list = byId('list', HTMLUListElement);
const hint = byId('list-hint', HTMLElement);
const count = byId('count', HTMLElement);
/** @type {{item: HTMLLIElement, button: HTMLButtonElement, swatch: HTMLElement, name: HTMLElement, size: HTMLElement, score: HTMLElement, meter: HTMLElement}[]} */
const rows = [];
/** The row that the pointer or the keyboard is on. Live results change under it. */
let pointed = -1;

export function startList() {
  watch(['result', 'threshold', 'hidden'], () => {
    const visible = shown();
    render(visible);
    if (pointed >= 0) update({ active: visible[pointed] ?? null });
    else if (state.active && !visible.includes(state.active)) update({ active: null });
  });
  watch(['active', 'attention', 'mode', 'result'], () => {
    const visible = shown();
    rows.forEach(({ button }, i) => {
      if (state.mode === 'photo') button.setAttribute('aria-pressed', String(state.attention !== null && visible[i] === state.attention.detection));
      else button.removeAttribute('aria-pressed');
      button.classList.toggle('active', state.active !== null && visible[i] === state.active);
    });
  });
  list.addEventListener('keydown', (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || pointed < 0) return;
    event.preventDefault();
    rows.slice(0, shown().length)[pointed + step]?.button.focus();
  });
}

/**
 * Focuses the entry of a detection, without moving the page away from the picture.
 * @param {Detection} detection
 */
export function focusEntry(detection) {
  const row = rows[shown().indexOf(detection)];
  if (!row) return;
  row.button.focus({ preventScroll: true });
  if (list.scrollHeight > list.clientHeight) list.scrollTop = row.item.offsetTop - list.clientHeight / 2;
}

/** @param {Detection[]} visible */
function render(visible) {
  while (rows.length < visible.length) rows.push(makeRow(rows.length));
  rows.forEach((row, i) => {
    const detection = visible[i];
    row.item.hidden = !detection;
    if (!detection) return;
    const { label, score, box } = detection;
    row.swatch.style.backgroundColor = colourOf(label);
    row.name.textContent = label;
    row.score.textContent = percent(score);
    row.meter.style.inlineSize = percent(score);
    row.size.textContent = `${Math.round(box.xmax - box.xmin)} × ${Math.round(box.ymax - box.ymin)} px`;
  });
  count.textContent = state.result ? String(visible.length) : '';
  hint.textContent = hintFor(visible);
  hint.hidden = hint.textContent === '';
  list.hidden = visible.length === 0;
}

/** @param {Detection[]} visible */
function hintFor(visible) {
  const { result, hidden, threshold } = state;
  if (!result) return 'Boxes appear here as soon as there is a picture.';
  if (visible.length > 0) return state.mode === 'photo' ? 'Choose one to see where attention went.' : '';
  const filtered = result.detections.filter((d) => d.score >= threshold).length;
  if (filtered > 0) return `${plural(filtered, 'object is', 'objects are')} hidden by the classes switched off above.`;
  const best = result.detections.filter((d) => !hidden.has(d.label)).reduce((a, b) => (a && a.score >= b.score ? a : b), /** @type {Detection | null} */ (null));
  return best ? `Nothing reaches ${percent(threshold)}. The best guess is ${best.label} with ${percent(best.score)}.` : 'Nothing was found.';
}

/** @param {number} index */
function makeRow(index) {
  const swatch = make('span', { class: 'swatch' });
  const name = make('span', { class: 'name' });
  const size = make('span', { class: 'size' });
  const score = make('span', { class: 'score' });
  const meter = make('span', { class: 'meter-fill' });
  const button = make('button', { type: 'button', class: 'entry' }, swatch, name, size, score, make('span', { class: 'meter' }, meter));
  const item = make('li', {}, button);
  const enter = () => {
    pointed = index;
    update({ active: shown()[index] ?? null });
  };
  const leave = () => {
    if (pointed !== index) return;
    pointed = -1;
    update({ active: null });
  };
  button.addEventListener('focus', enter);
  button.addEventListener('blur', leave);
  item.addEventListener('pointerenter', (event) => event.pointerType === 'mouse' && enter());
  item.addEventListener('pointerleave', (event) => event.pointerType === 'mouse' && document.activeElement !== button && leave());
  // On a phone the picture may have scrolled away: bring it back.
  button.addEventListener('click', () => {
    button.focus({ preventScroll: true });
    document.getElementById('frame')?.scrollIntoView({ block: 'nearest' });
    const detection = shown()[index];
    if (detection) void toggleAttention(detection);
  });
  list.append(item);
  return { item, button, swatch, name, size, score, meter };
}
