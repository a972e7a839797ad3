// A detector as a hook: loaded once for the component, and freed with it.
import { Detrim } from 'detrim';
import { useEffect, useState } from 'react';

export function useDetector(model) {
  const [state, setState] = useState({ detector: null, error: null });
  useEffect(() => {
    const abort = new AbortController();
    const loading = Detrim.load(model, { signal: abort.signal });
    loading.then((detector) => setState({ detector, error: null }), (error) => {
      if (!abort.signal.aborted) setState({ detector: null, error });
    });
    return () => {
      // React runs effects twice in development: what is still loading is stopped, what has loaded is freed.
      abort.abort();
      loading.then((detector) => detector.dispose(), () => {});
      setState({ detector: null, error: null });
    };
  }, [model]);
  return state;
}
