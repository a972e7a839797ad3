// The self-signed certificate of `./build.sh serve --https`, and the addresses it is for.
//
// Kept outside the checkout, so that a phone which has accepted it once isn't asked again after every clone or clean build.

import { X509Certificate } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { homedir, networkInterfaces } from 'node:os';
import path from 'node:path';

const DAY = 24 * 60 * 60 * 1000;
// Apple's devices refuse more than 825 days.
const LIFETIME = 800 * DAY;

/** This machine's IPv4 addresses on its networks. */
export function lanAddresses() {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return all.filter(({ family, internal }) => family === 'IPv4' && !internal).map(({ address }) => address);
}

/**
 * The cached certificate if it names these addresses and is still good for a week, else a new one.
 * @param {string[]} addresses
 * @param {string} [folder]
 * @returns {Promise<{key: string, cert: string}>}
 */
export async function certificate(addresses, folder = cacheFolder()) {
  const file = path.join(folder, 'certificate.json');
  const cached = await readFile(file, 'utf8').then(JSON.parse).catch(() => undefined);
  if (cached && covers(cached.cert, addresses)) return cached;
  const { default: selfsigned } = await import('selfsigned');
  const names = [...addresses, '127.0.0.1'].map((ip) => ({ type: /** @type {const} */ (7), ip }));
  const { private: key, cert } = await selfsigned.generate([{ name: 'commonName', value: 'detrim on the local network' }], {
    keyType: 'ec',
    curve: 'P-256',
    algorithm: 'sha256',
    notAfterDate: new Date(Date.now() + LIFETIME),
    extensions: [
      { name: 'basicConstraints', cA: false },
      { name: 'keyUsage', digitalSignature: true },
      { name: 'extKeyUsage', serverAuth: true },
      { name: 'subjectAltName', altNames: [{ type: 2, value: 'localhost' }, ...names] },
    ],
  });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeFile(`${file}.new`, JSON.stringify({ key, cert }), { mode: 0o600 });
  await rename(`${file}.new`, file);
  return { key, cert };
}

/** @param {string} cert @param {string[]} addresses */
function covers(cert, addresses) {
  try {
    const parsed = new X509Certificate(cert);
    const lasts = new Date(parsed.validTo).getTime() - Date.now() > 7 * DAY;
    return lasts && addresses.every((address) => parsed.checkIP(address) !== undefined);
  } catch {
    return false;
  }
}

function cacheFolder() {
  return path.join(process.env.XDG_CACHE_HOME || path.join(homedir(), '.cache'), 'detrim');
}
