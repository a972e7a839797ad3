// Models of Hugging Face, which this page doesn't fetch: it says how they come here all the same.

import { HUB, downloadAdvice, parseRepository } from '../detrim/hub.js';

/** @typedef {import('../detrim/hub.js').Repository} Repository */

/**
 * The repository on Hugging Face that a text means, if it means one.
 * @param {string} text a link, or hf:OWNER/NAME
 * @returns {Repository | undefined}
 */
export function repositoryOf(text) {
  const link = text.trim();
  const [owner, name] = link.startsWith(`${HUB}/`) ? link.slice(HUB.length + 1).split(/[/?#]/) : [];
  return parseRepository(owner && name ? `hf:${owner}/${name}` : text);
}

/** How a model comes here that the page itself doesn't fetch. @param {Repository} repository */
export function explainHub(repository) {
  return `This page fetches nothing from other sites. To run ${repository.name} here, ${downloadAdvice(repository)} and drop them on this page together.`;
}
