// A class has the same colour on the page and in what the command draws: both are held against the same numbers.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { colourOf } from '../../www/app/colours.js';

test('colours are those of the command', async () => {
  /** @type {Record<string, number[]>} */
  const expected = JSON.parse(await readFile(new URL('../fixtures/colours.json', import.meta.url), 'utf8'));
  assert.ok(Object.keys(expected).length > 0);
  for (const [label, rgb] of Object.entries(expected)) assert.equal(colourOf(label), `rgb(${rgb.join(', ')})`, label);
});
