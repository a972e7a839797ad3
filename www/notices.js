// The notices that the licences of others ask for: every crate whose code is in the wasm, and every npm package whose code is in the site, with
// its licence's text.
//
// Cargo's metadata tells which crates those are, and their sources hold the texts. Where one offers a choice, the first of PREFERRED is taken.

import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const WWW = fileURLToPath(new URL('.', import.meta.url));
const REPOSITORY = path.join(WWW, '..');

/** By what a text is known to be a licence's, the preferred first. @type {[string, RegExp][]} */
const PREFERRED = [
  ['MIT', /Permission is hereby granted, free of charge, to any\s+person obtaining a\s+copy/i],
  ['Apache-2.0', /Apache License\s+Version 2\.0/i],
  ['Zlib', /provided\s+['‘’]as-is['‘’],\s+without any express or implied/i],
  ['ISC', /Permission to use, copy, modify, and(\/or)? distribute/i],
  ['BSD-3-Clause', /Redistribution and use in source and binary forms[^]*endorse or promote/i],
  ['BSD-2-Clause', /Redistribution and use in source and binary forms/i],
  ['Unicode-3.0', /UNICODE LICENSE V3/i],
  ['0BSD', /Permission to use, copy, modify, and\/or distribute this software for any purpose with or without fee is hereby granted\.\s/i],
  ['CC0-1.0', /CC0 1\.0 Universal/i],
  ['Unlicense', /This is free and unencumbered software/i],
];

/** @typedef {{name: string, version: string, licence: string, url: string, texts: string[]}} Notice */

/**
 * @typedef {object} Package what is used of Cargo's metadata
 * @property {string} id
 * @property {string} name
 * @property {string} version
 * @property {string | null} license
 * @property {string | null} repository
 * @property {string[]} authors
 * @property {string} manifest_path
 * @property {{kind: string[]}[]} targets
 */

/**
 * @typedef {object} Metadata
 * @property {Package[]} packages
 * @property {{root: string, nodes: {id: string, deps: {pkg: string, dep_kinds: {kind: string | null}[]}[]}[]}} resolve
 */

/** What Cargo knows of the package and all it is compiled with for the browser. @returns {Promise<Metadata>} */
export async function metadata() {
  const { stdout } = await run('cargo', ['metadata', '--format-version', '1', '--locked', '--filter-platform', 'wasm32-unknown-unknown'], { cwd: REPOSITORY, maxBuffer: 1 << 28 });
  return JSON.parse(stdout);
}

/**
 * The crates whose code is linked: neither what only builds or tests, nor macros and what those are made of.
 * @param {Metadata} found
 */
export function linked({ packages, resolve }) {
  const byId = new Map(packages.map((one) => [one.id, one]));
  const nodes = new Map(resolve.nodes.map((node) => [node.id, node]));
  /** @type {Set<string>} */
  const seen = new Set();
  /** @param {string} id */
  const visit = (id) => {
    if (seen.has(id) || byId.get(id)?.targets.some(({ kind }) => kind.includes('proc-macro'))) return;
    seen.add(id);
    for (const { pkg, dep_kinds: kinds } of nodes.get(id)?.deps ?? []) if (kinds.some(({ kind }) => kind === null)) visit(pkg);
  };
  visit(resolve.root);
  seen.delete(resolve.root);
  return packages.filter(({ id }) => seen.has(id)).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/**
 * The licences to abide by: of each choice the preferred one.
 * @param {string} expression such as `(MIT OR Apache-2.0) AND Unicode-3.0`
 * @returns {string[]}
 */
export function choose(expression) {
  const rank = (/** @type {string} */ one) => PREFERRED.findIndex(([name]) => name === one);
  const tokens = expression.replaceAll('/', ' OR ').match(/[()]|[^\s()]+/g) ?? [];
  const cost = (/** @type {string[]} */ all) => Math.max(...all.map((one) => (rank(one) < 0 ? Infinity : rank(one)))) + all.length / 100;
  /** @returns {string[]} */
  const either = () => {
    let best = both();
    while (tokens[0]?.toUpperCase() === 'OR') {
      tokens.shift();
      const other = both();
      if (cost(other) < cost(best)) best = other;
    }
    return best;
  };
  /** @returns {string[]} */
  const both = () => {
    const all = one();
    while (tokens[0]?.toUpperCase() === 'AND') {
      tokens.shift();
      all.push(...one());
    }
    return all;
  };
  /** @returns {string[]} */
  const one = () => {
    const token = tokens.shift();
    if (token === undefined) throw new Error(`the licence “${expression}” can't be understood`);
    if (token !== '(') {
      // An exception only permits more.
      if (tokens[0]?.toUpperCase() === 'WITH') tokens.splice(0, 2);
      return [token];
    }
    const inner = either();
    if (tokens.shift() !== ')') throw new Error(`the licence “${expression}” can't be understood`);
    return inner;
  };
  const chosen = either();
  if (tokens.length > 0) throw new Error(`the licence “${expression}” can't be understood`);
  const unknown = chosen.find((name) => rank(name) < 0);
  if (unknown) throw new Error(`the licence ${unknown} is none of those known here: ${PREFERRED.map(([name]) => name).join(', ')}`);
  return [...new Set(chosen)];
}

/** The files of a folder that may hold a licence or a notice. @param {string} folder */
async function legalTexts(folder) {
  const names = (await readdir(folder)).filter((name) => /^(licen[sc]e|copying|copyright|notice|unlicense)/i.test(name)).sort();
  const texts = await Promise.all(names.map(async (name) => ({ name, text: await readFile(path.join(folder, name), 'utf8').catch(() => '') })));
  return texts.filter(({ text }) => text.trim() !== '');
}

/**
 * @param {string[]} licences
 * @param {{name: string, text: string}[]} files
 * @param {string[]} authors for where the package has no text of its own
 */
async function textsOf(licences, files, authors) {
  const texts = files.filter(({ name }) => /^notice/i.test(name)).map(({ text }) => text);
  for (const licence of licences) {
    const [, known] = /** @type {[string, RegExp]} */ (PREFERRED.find(([name]) => name === licence));
    const own = files.find(({ text }) => known.test(text));
    texts.push(own ? own.text : await standard(licence, authors));
  }
  return texts;
}

/**
 * A licence's text from where it is the same for everybody.
 * @param {string} licence @param {string[]} authors
 */
async function standard(licence, authors) {
  if (licence === 'Apache-2.0') return await readFile(path.join(REPOSITORY, 'LICENSE-APACHE'), 'utf8');
  if (licence !== 'MIT') throw new Error(`its sources hold no text of ${licence}`);
  const own = await readFile(path.join(REPOSITORY, 'LICENSE-MIT'), 'utf8');
  const names = authors.map((author) => author.replace(/\s*<.*?>/, '')).join(', ');
  return own.replace(/^Copyright .*$/m, names ? `Copyright (c) ${names}` : 'Copyright (c) its authors');
}

/** The npm packages that the site's code imports, if it ever has any: what is only used to build is marked so in the lock file. @returns {Promise<Notice[]>} */
async function npmNotices() {
  /** @type {{packages: Record<string, {dev?: boolean, version: string, license?: string, resolved?: string}>}} */
  const { packages } = JSON.parse(await readFile(path.join(WWW, 'package-lock.json'), 'utf8'));
  const shipped = Object.entries(packages).filter(([place, { dev }]) => place !== '' && !dev);
  return await Promise.all(shipped.map(async ([place, { version, license = '', resolved = '' }]) => {
    const texts = await textsOf(choose(license), await legalTexts(path.join(WWW, place)), []);
    return { name: place.replace(/^.*node_modules\//, ''), version, licence: license, url: resolved, texts };
  }));
}

/** @param {Package} one @returns {Promise<Notice>} */
async function crateNotice({ name, version, license, repository, authors, manifest_path: manifest }) {
  try {
    if (!license) throw new Error('it names no licence');
    const texts = await textsOf(choose(license), await legalTexts(path.dirname(manifest)), authors);
    return { name, version, licence: license, url: repository ?? `https://crates.io/crates/${name}`, texts };
  } catch (error) {
    throw new Error(`the crate ${name} ${version}: ${/** @type {Error} */ (error).message}`);
  }
}

/** Every notice that the site owes. @returns {Promise<Notice[]>} */
export async function collect() {
  const crates = await Promise.all(linked(await metadata()).map(crateNotice));
  const rust = { name: 'The Rust standard library', version: '', licence: 'MIT OR Apache-2.0', url: 'https://github.com/rust-lang/rust', texts: [await standard('MIT', ['The Rust Project Contributors'])] };
  return [rust, ...crates, ...(await npmNotices())];
}

/**
 * One file of all notices; a text that several share stands there once.
 * @param {Notice[]} notices
 */
export function format(notices) {
  /** @type {Map<string, {text: string, of: Notice[]}>} by its words alone: line breaks and indents differ */
  const texts = new Map();
  for (const notice of notices) {
    for (const text of notice.texts) {
      const words = text.replace(/\s+/g, ' ').trim();
      const entry = texts.get(words) ?? { text: text.replace(/\r\n/g, '\n').trim(), of: [] };
      entry.of.push(notice);
      texts.set(words, entry);
    }
  }
  const line = '-'.repeat(80);
  const parts = [...texts.values()].map(({ text, of }) => `${line}\n${of.map(({ name, version, licence, url }) => (
    `${[name, version].filter(Boolean).join(' ')} (${licence}) ${url}`)).join('\n')}\n${line}\n\n${text}\n`);
  return `The WebAssembly file beside this text holds code of the following ${notices.length} packages. Their licences ask that these texts come with it.\n\n${parts.join('\n')}`;
}
