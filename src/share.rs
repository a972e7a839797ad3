//! Shares many pictures out among the cores: each thread works on a picture of its own, which keeps all of them busy where one
//! small picture could not.

use crate::error::Result;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work` with every index below `count`, on all cores; `start` makes what a thread keeps. The first error ends all work.
pub fn each<S>(count: usize, start: impl Fn() -> Result<S> + Sync, work: impl Fn(&mut S, usize) -> Result<()> + Sync) -> Result<()> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(count.max(1));
    let next = AtomicUsize::new(0);
    let run = || -> Result<()> {
        let mut state = start()?;
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(());
            }
            work(&mut state, index)?;
        }
    };
    let run = || run().inspect_err(|_| next.store(count, Ordering::Relaxed));
    std::thread::scope(|scope| {
        // One thread in each pool: the cores are already shared out by picture.
        let alone = || match rayon::ThreadPoolBuilder::new().num_threads(1).build() {
            Ok(pool) => pool.install(run),
            Err(_) => run(),
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(alone)).collect();
        let results: Vec<Result<()>> =
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect();
        results.into_iter().collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn every_index_is_worked_on_once() {
        let calls: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
        let work = |_: &mut (), index: usize| {
            calls[index].fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        each(calls.len(), || Ok(()), work).unwrap();
        assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn an_error_ends_the_work() {
        let calls = AtomicUsize::new(0);
        let work = |_: &mut (), index| {
            calls.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(1));
            if index == 3 { Err(Error::Image("broken".into())) } else { Ok(()) }
        };
        assert_eq!(each(10_000, || Ok(()), work).unwrap_err().to_string(), "broken");
        assert!(calls.into_inner() < 5_000);
    }
}
