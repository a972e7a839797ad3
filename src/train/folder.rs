//! A run's folder: what it was started with, its log, its newest and its best state. One process owns it at a time.

use crate::error::{Error, Result};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// A folder that this process owns until it is dropped.
pub struct Folder {
    path: PathBuf,
    /// Locked by the operating system, which lets go of it however the process ends.
    _lock: File,
}

impl Folder {
    /// Makes the folder where there is none. Fails if another process has it, and tells which.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |file: &Path, source| Error::Io { file: file.display().to_string(), source };
        std::fs::create_dir_all(path).map_err(|error| fail(path, error))?;
        let name = path.join("lock");
        let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name).map_err(|error| fail(&name, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message.
                let _ = lock.read_to_string(&mut owner);
                let problem = format!("process {} is at work on this run", owner.trim());
                return Err(Error::Run { file: path.display().to_string(), problem });
            }
            Err(TryLockError::Error(error)) => return Err(fail(&name, error)),
        }
        let note = |lock: &mut File| {
            lock.set_len(0)?;
            lock.rewind()?;
            writeln!(lock, "{}", std::process::id())
        };
        note(&mut lock).map_err(|error| fail(&name, error))?;
        Ok(Self { path: path.into(), _lock: lock })
    }

    /// What the run was last started with, as JSON.
    pub fn options(&self) -> PathBuf {
        self.path.join("options.json")
    }

    /// One row for each time that losses were written down; see `log.rs`.
    pub fn log(&self) -> PathBuf {
        self.path.join("log.csv")
    }

    /// The log as a picture.
    pub fn plot(&self) -> PathBuf {
        self.path.join("plot.svg")
    }

    /// The newest state, from which the run goes on.
    pub fn last(&self) -> PathBuf {
        self.path.join("last.safetensors")
    }

    /// The state that detected best so far, in the compact form.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_owner_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        let owner = Folder::open(&path).unwrap();
        let error = Folder::open(&path).map(drop).unwrap_err().to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        drop(owner);
        Folder::open(&path).unwrap();
    }
}
