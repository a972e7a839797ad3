// Messages above the picture: what went wrong or changed, sometimes with one thing to do about it.

import { byId, icon, make } from './dom.js';

const place = byId('notices', HTMLElement);

/**
 * Shows a message until it is dismissed or replaced by one of the same topic.
 * @param {'info' | 'warning' | 'error'} kind
 * @param {string} topic
 * @param {string} text
 * @param {{label: string, run: () => void}} [action]
 */
export function notify(kind, topic, text, action) {
  dismiss(topic);
  const close = make('button', { type: 'button', class: 'button quiet', 'aria-label': 'Dismiss' }, icon('close'));
  close.addEventListener('click', () => dismiss(topic));
  const notice = make('div', { class: `notice ${kind}`, 'data-topic': topic, role: kind === 'error' ? 'alert' : 'status' });
  // Filled once it is in the document, for only then do screen readers speak it.
  place.append(notice);
  notice.append(icon(kind === 'info' ? 'info' : 'warning'), make('p', {}, text));
  if (action) {
    const button = make('button', { type: 'button', class: 'button' }, action.label);
    button.addEventListener('click', () => {
      dismiss(topic);
      action.run();
    });
    notice.append(button);
  }
  notice.append(close);
}

/** @param {string} topic */
export function dismiss(topic) {
  for (const notice of place.querySelectorAll('.notice')) {
    if (/** @type {HTMLElement} */ (notice).dataset.topic === topic) notice.remove();
  }
}
