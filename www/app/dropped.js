// What was dropped on the page, folders opened: the files right inside of them.

/** @param {DataTransfer} transfer @returns {Promise<File[]>} */
export async function filesOf(transfer) {
  // Both lists are emptied as soon as the event is over.
  const files = [...transfer.files];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  const folders = /** @type {FileSystemDirectoryEntry[]} */ (entries.filter((entry) => entry?.isDirectory));
  if (folders.length === 0) return files;
  const single = files.filter((_, i) => !entries[i]?.isDirectory);
  const inside = await Promise.all(folders.map(filesIn));
  return [...single, ...inside.flat()];
}

/** @param {FileSystemDirectoryEntry} folder @returns {Promise<File[]>} */
async function filesIn(folder) {
  const reader = folder.createReader();
  /** @type {FileSystemEntry[]} */
  const entries = [];
  // It gives some at a time, and none when it is through.
  for (;;) {
    /** @type {FileSystemEntry[]} */
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (some.length === 0) break;
    entries.push(...some);
  }
  const visible = /** @type {FileSystemFileEntry[]} */ (entries.filter(({ isFile, name }) => isFile && !name.startsWith('.')));
  return await Promise.all(visible.map((entry) => new Promise((/** @type {(file: File) => void} */ resolve, reject) => entry.file(resolve, reject))));
}
