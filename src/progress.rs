//! How far long work has come, for whoever wants to show it.

/// Is told how far long work has come.
pub trait Progress: Sync {
    /// Something of so many steps begins.
    fn begin(&self, what: &str, steps: usize);
    fn step(&self);
}

/// Progress that nobody looks at.
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: &str, _: usize) {}
    fn step(&self) {}
}

#[cfg(test)]
pub mod tests {
    use super::Progress;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Counts what it is told: things that were begun, the steps that they were to have, and steps.
    #[derive(Default)]
    pub struct Counted {
        begun: AtomicUsize,
        all: AtomicUsize,
        done: AtomicUsize,
    }

    impl Counted {
        pub fn begun(&self) -> usize {
            self.begun.load(Ordering::Relaxed)
        }

        pub fn done(&self) -> usize {
            self.done.load(Ordering::Relaxed)
        }
    }

    impl Progress for Counted {
        fn begin(&self, _: &str, steps: usize) {
            self.begun.fetch_add(1, Ordering::Relaxed);
            self.all.fetch_add(steps, Ordering::Relaxed);
        }

        fn step(&self) {
            let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
            assert!(done <= self.all.load(Ordering::Relaxed), "more steps than were announced");
        }
    }
}
