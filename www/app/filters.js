// The threshold and the classes shown. Both only choose among what was found, so they act at once.

import { colourOf } from './colours.js';
import { byId, make } from './dom.js';
import { percent } from './format.js';
import { shown, state, update, watch } from './state.js';

const slider = byId('threshold', HTMLInputElement);
const value = byId('threshold-value', HTMLOutputElement);
const chips = byId('chips', HTMLElement);
const all = make('button', { type: 'button', class: 'chip all' }, 'Show all');
/** @type {Map<string, {button: HTMLButtonElement, count: HTMLElement}>} */
const made = new Map();
/** Classes of this camera session stay on offer while they come and go. @type {Set<string>} */
const seen = new Set();

export function startFilters() {
  slider.addEventListener('input', () => update({ threshold: slider.valueAsNumber / 100 }));
  watch(['threshold'], () => {
    const next = String(Math.round(state.threshold * 100));
    if (slider.value !== next) slider.value = next;
    value.textContent = percent(state.threshold);
    slider.setAttribute('aria-valuetext', percent(state.threshold));
  });
  all.addEventListener('click', () => {
    update({ hidden: new Set() });
    chips.querySelector('button')?.focus();
  });
  chips.append(all);
  watch(['mode'], () => seen.clear());
  watch(['result', 'rivalResult', 'threshold', 'hidden'], render);
}

/** @param {number} step in hundredths */
export function moveThreshold(step) {
  update({ threshold: Math.min(0.95, Math.max(0.05, Math.round(state.threshold * 100 + step) / 100)) });
}

function render() {
  if (state.mode !== 'camera') seen.clear();
  /** @type {Map<string, number>} */
  const counts = new Map();
  for (const { label, score } of state.result?.detections ?? []) {
    if (score >= state.threshold) counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  // What only the second model found can be switched off too.
  for (const { label } of shown(state.rivalResult)) if (!counts.has(label)) counts.set(label, 0);
  for (const label of counts.keys()) seen.add(label);
  const labels = [...new Set([...seen, ...state.hidden])].sort();
  for (const [label, { button }] of made) {
    if (labels.includes(label)) continue;
    button.remove();
    made.delete(label);
  }
  for (const [i, label] of labels.entries()) {
    const chip = made.get(label) ?? makeChip(label);
    chip.button.setAttribute('aria-pressed', String(!state.hidden.has(label)));
    chip.count.textContent = String(counts.get(label) ?? 0);
    // Moved only where it must be, for a moved button loses the focus.
    if (chips.children[i] !== chip.button) chips.insertBefore(chip.button, chips.children[i]);
  }
  all.hidden = state.hidden.size === 0;
}

/** @param {string} label */
function makeChip(label) {
  const swatch = make('span', { class: 'swatch' });
  swatch.style.backgroundColor = colourOf(label);
  const count = make('span', { class: 'chip-count' });
  const button = make('button', { type: 'button', class: 'chip', title: 'Click: show or hide. Double click: only this.' }, swatch, label, count);
  button.addEventListener('click', () => {
    const hidden = new Set(state.hidden);
    if (!hidden.delete(label)) hidden.add(label);
    update({ hidden });
  });
  button.addEventListener('dblclick', () => update({ hidden: new Set([...made.keys()].filter((other) => other !== label)) }));
  const chip = { button, count };
  made.set(label, chip);
  return chip;
}
