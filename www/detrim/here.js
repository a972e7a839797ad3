// Where the engine for the calling thread announces itself: `import 'detrim/local.js'`. Pages get it on demand, but a service worker may not import
// anything on demand.

/** @type {{Engine?: typeof import('./local.js').LocalEngine}} */
export const here = {};
