// What a file is in place of the one that was expected: servers send pages and Git leaves pointers where files should be.

/** So many bytes of a file are enough. */
export const HEAD = 512;

/** Files that begin with these bytes, and what to do with them in place of a model. @type {[string, string][]} */
const MODELS = [
  ['PK\x03\x04', 'a zip archive, such as PyTorch\'s .pth and .pt or TorchScript: `detrim convert` makes a model of a checkpoint'],
  ['\x80\x02', 'a Python pickle, such as an old .pth: `detrim convert` makes a model of a checkpoint'],
  ['\x89HDF', 'an HDF5 file, such as Keras writes; only safetensors files are read here'],
  ['GGUF', 'a GGUF file; only safetensors files are read here'],
  ['\x1f\x8b', 'compressed with gzip: unpack it first'],
  ['\x08', 'perhaps an ONNX file; only safetensors files are read here'],
];

/**
 * What stands where any binary file was expected, as the end of a sentence; nothing where it may be that file.
 *
 * @param {Uint8Array} head its first bytes
 */
export function mistaken(head) {
  const text = new TextDecoder().decode(head).trimStart().toLowerCase();
  if (text.startsWith('version https://git-lfs')) {
    return 'a Git LFS pointer and not the file itself: `git lfs pull` fetches that, or an address with /resolve/ in place of /raw/ or /blob/';
  }
  if (/^<(!doctype|!--|html|head|body|script|meta|title|\?xml)/.test(text)) {
    return 'a web page and not the file: is the address right? Some servers answer every unknown one with their front page';
  }
  return undefined;
}

/**
 * What stands where a model was expected.
 *
 * @param {Uint8Array} head
 */
export function mistakenModel(head) {
  const known = mistaken(head);
  if (known) return known;
  // A safetensors file begins with the length of its header, 8 bytes, and then the header, which is JSON.
  if (head[8] === 0x7b) return undefined;
  const start = String.fromCharCode(...head.subarray(0, 4));
  const found = MODELS.find(([magic]) => start.startsWith(magic));
  if (found) return found[1];
  return head[0] === 0x7b || head[0] === 0x5b ? 'a JSON file; the model is the .safetensors file' : undefined;
}
