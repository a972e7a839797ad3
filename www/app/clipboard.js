// Copying text, also where pages get no clipboard (plain http): then it is selected, ready for Ctrl+C.

/**
 * @param {string} text
 * @param {HTMLButtonElement} button says how it went
 * @param {HTMLElement} shown where the text is on the page
 */
export async function copyText(text, button, shown) {
  const before = [...button.childNodes];
  let said = 'Copied';
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    getSelection()?.selectAllChildren(shown);
    said = 'Selected: press Ctrl+C';
  }
  button.textContent = said;
  button.disabled = true;
  setTimeout(() => {
    button.replaceChildren(...before);
    button.disabled = false;
  }, 1600);
}
