// The Markdown files: every relative link and anchor leads somewhere, and the README stays short.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const REPOSITORY = fileURLToPath(new URL('../../', import.meta.url));

/** A file's text without its code, in which brackets mean something else. @param {string} text */
const prose = (text) => text.replace(/^(```|~~~)[\s\S]*?^\1/gm, '').replace(/`[^`\n]*`/g, (code) => code.replace(/[[\]()]/g, ' '));

/** The anchors that GitHub gives a file's headings. @param {string} text */
function anchors(text) {
  /** @type {Map<string, number>} */
  const seen = new Map();
  return new Set([...text.replace(/^(```|~~~)[\s\S]*?^\1/gm, '').matchAll(/^#{1,6} (.*)$/gm)].map(([, heading]) => {
    const plain = heading.replace(/\[([^\]]*)\]\([^)]*\)/g, '$1').toLowerCase().trim();
    const anchor = plain.replace(/[^\p{L}\p{N}\p{M}_\- ]/gu, '').replaceAll(' ', '-');
    const count = seen.get(anchor) ?? 0;
    seen.set(anchor, count + 1);
    return count ? `${anchor}-${count}` : anchor;
  }));
}

/**
 * What is wrong with a file's links.
 * @param {string} file from the repository's root @param {(file: string) => string | null} read a Markdown file's text, null where there is none
 * @param {(file: string) => boolean} exists
 */
function broken(file, read, exists) {
  const problems = [];
  for (const [, link] of prose(read(file) ?? '').matchAll(/\]\(([^)\s]+)\)/g)) {
    if (/^[a-z]+:/.test(link)) continue;
    const [place, anchor] = link.split('#');
    const target = place ? path.posix.join(path.posix.dirname(file), decodeURIComponent(place)) : file;
    if (target.startsWith('..') || !exists(target)) problems.push(`${file}: ${link} leads nowhere`);
    else if (anchor && target.endsWith('.md') && !anchors(read(target) ?? '').has(anchor)) problems.push(`${file}: ${link}: no such heading`);
  }
  return problems;
}

test('broken links are seen', () => {
  /** @type {Record<string, string>} */
  const files = {
    'a.md': '# One\n[b](docs/b.md#two-words) [c](docs/c.md) [d](docs/b.md#three) [self](#one) [out](../x.md) [web](https://example.org/x.md)\n```\n[code](no.md)\n```\n`[x](y.md)`',
    'docs/b.md': '# `Two` words!\n## Twice\n## Twice\n[up](../a.md) [second](#twice-1)',
  };
  const problems = (/** @type {string} */ file) => broken(file, (name) => files[name] ?? null, (name) => name in files);
  assert.deepEqual(problems('a.md'), ['a.md: docs/c.md leads nowhere', 'a.md: docs/b.md#three: no such heading', 'a.md: ../x.md leads nowhere']);
  assert.deepEqual(problems('docs/b.md'), []);
});

const listed = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard', '*.md'], { cwd: REPOSITORY, encoding: 'utf8' });
const files = listed.split('\n').filter((file) => file && existsSync(path.join(REPOSITORY, file)));

test('every relative link in the Markdown files leads somewhere', () => {
  assert.ok(files.includes('README.md') && files.includes('docs/pruning.md'), String(files));
  const read = (/** @type {string} */ file) => readFileSync(path.join(REPOSITORY, file), 'utf8');
  assert.deepEqual(files.flatMap((file) => broken(file, read, (target) => existsSync(path.join(REPOSITORY, target)))), []);
});

test('the README is short', () => {
  const lines = readFileSync(path.join(REPOSITORY, 'README.md'), 'utf8').trimEnd().split('\n').length;
  assert.ok(lines <= 150, `README.md has ${lines} lines, 150 at most: what explains or measures belongs into docs/`);
});
