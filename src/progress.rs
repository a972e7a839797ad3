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
