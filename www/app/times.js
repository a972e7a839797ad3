// Where the time of the last run went.

import { byId, make } from './dom.js';
import { time } from './format.js';
import { state, watch } from './state.js';

const place = byId('times', HTMLElement);
const rate = byId('fps', HTMLElement);

/** @type {{key: 'decode' | 'pre' | 'network' | 'post', name: string}[]} */
const STAGES = [
  { key: 'decode', name: 'Decode the picture' },
  { key: 'pre', name: 'Resize, normalise' },
  { key: 'network', name: 'Network' },
  { key: 'post', name: 'Scores to boxes' },
];

export function startTimes() {
  const bar = make('div', { class: 'stack', 'aria-hidden': 'true' });
  const rows = STAGES.map(({ key, name }) => {
    const part = make('span', { class: `part ${key}` });
    bar.append(part);
    const value = make('dd', {});
    const term = make('dt', {}, make('span', { class: `swatch ${key}` }), name);
    return { key, part, value, term };
  });
  const terms = make('dl', { class: 'terms' }, ...rows.flatMap(({ term, value }) => [term, value]));
  place.append(bar, terms);
  watch(['result', 'fps', 'mode'], () => {
    const times = state.result?.times;
    for (const { key, part, value } of rows) {
      part.style.flexGrow = String(times ? times[key] : 0);
      part.hidden = !times;
      value.textContent = times ? time(times[key]) : '–';
    }
    const total = times?.total ?? 0;
    const fps = state.mode === 'camera' ? state.fps : total > 0 ? 1e3 / total : 0;
    rate.textContent = fps > 0 ? `${fps.toFixed(fps < 0.1 ? 2 : fps < 10 ? 1 : 0)} per second` : '';
  });
}
