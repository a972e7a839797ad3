// The menu of models: what each weighs, how good it is, and how long it takes here. Where there is one, a line about it.

import { measuredAs, switchModel } from './engine.js';
import { byId, make } from './dom.js';
import { bytes, plural, time } from './format.js';
import { state, watch } from './state.js';

/** @typedef {import('./state.js').Model} Model */

const menu = byId('models', HTMLFieldSetElement);
const list = byId('models-list', HTMLElement);
const about = byId('model-about', HTMLElement);
/** @type {{model: Model, radio: HTMLInputElement, facts: HTMLElement}[]} */
let rows = [];

export function startModels() {
  menu.addEventListener('change', (event) => {
    const { value } = /** @type {HTMLInputElement} */ (event.target);
    switchModel(value).catch(() => {});
  });
  watch(['models'], () => {
    rows = state.models.map(makeRow);
    list.replaceChildren(...rows.map(({ radio, facts, model }) => make('label', {}, radio, make('span', { class: 'name' }, model.name), facts)));
    menu.hidden = rows.length < 2;
  });
  watch(['models', 'model', 'measured', 'info'], () => {
    for (const { model, radio, facts } of rows) {
      radio.checked = model === state.model;
      facts.textContent = factsOf(model);
    }
  });
  // With `models`: what a visitor's own model knows is only known when it is loaded.
  watch(['models', 'model'], () => {
    about.textContent = state.model ? describe(state.model) : '';
  });
}

/** @param {Model} model */
function makeRow(model) {
  return { model, radio: make('input', { type: 'radio', name: 'model', value: model.name }), facts: make('span', { class: 'facts' }) };
}

/** Size, accuracy and time, as far as they are known: the time here, or else how much faster than the first model it was elsewhere. @param {Model} model */
export function factsOf(model) {
  const { AP: ap, speed } = model.metrics ?? {};
  const took = state.measured[measuredAs(model, state.info?.backend ?? '')];
  const pace = took !== undefined ? `${time(took)} a picture` : speed !== undefined && `${speed.toFixed(1)}× as fast`;
  return [bytes(model.bytes), ap !== undefined && `AP ${ap.toFixed(1)}`, pace].filter(Boolean).join(' · ');
}

/** @param {Model} model */
function describe({ name, labels, bytes: size, licence, metrics }) {
  const facts = [plural(labels.length, 'class', 'classes'), bytes(size), licence].filter(Boolean).join(', ');
  return `${name}: ${facts}${metrics?.AP !== undefined && metrics.on ? `. AP ${metrics.AP.toFixed(1)} on ${metrics.on}` : ''}`;
}
