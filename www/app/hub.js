// Models of Hugging Face, which this page doesn't fetch: it says how they come here all the same.

/**
 * The repository on Hugging Face that a text means, if it means one.
 * @param {string} text a link, or hf:OWNER/NAME
 */
export function repositoryOf(text) {
  return /^\s*(?:hf:|https:\/\/huggingface\.co\/)([\w.-]+\/[\w.-]+)/.exec(text)?.[1];
}

/** How a model comes here that the page itself doesn't fetch. @param {string} repository */
export function explainHub(repository) {
  return `This page fetches nothing from other sites. To run ${repository} here, download its model.safetensors, config.json and preprocessor_config.json `
    + `from https://huggingface.co/${repository}/tree/main and drop them on this page together.`;
}
