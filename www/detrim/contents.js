// What a file is in place of the one that was expected: servers send pages and Git leaves pointers where files should be. Other formats than a
// model's are known where models are read.

/** So many bytes of a file are enough. */
export const HEAD = 512;

/**
 * What stands where a file was expected, as the end of a sentence; nothing where it may be that file.
 *
 * @param {Uint8Array} head its first bytes
 */
export function mistaken(head) {
  if (head[0] === 0x1f && head[1] === 0x8b) return 'compressed with gzip: unpack it, or have the server say so (Content-Encoding: gzip)';
  const text = new TextDecoder().decode(head).trimStart().toLowerCase();
  if (text.startsWith('version https://git-lfs')) {
    return 'a Git LFS pointer and not the file itself: `git lfs pull` fetches that, or an address with /resolve/ in place of /raw/ or /blob/';
  }
  if (/^<(!doctype|!--|html|head|body|script|meta|title|\?xml)/.test(text)) {
    return 'a web page and not the file: is the address right? Some servers answer every unknown one with their front page';
  }
  return undefined;
}
