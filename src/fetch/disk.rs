//! What a download finds and leaves on the disk. Nothing of it is reached through a symbolic link: in a folder that others may write to,
//! a link could lead a download over any file of whoever runs it.

use crate::error::{Error, Result};
use crate::hash::hexadecimal;
use sha1::Sha1;
use sha2::{Digest, Sha256};
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const CHUNK: usize = 1 << 16;

/// What identifies a file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    pub size: u64,
    /// In hex.
    pub sha256: String,
    /// git's name for the content, in hex: the SHA-1 of `blob SIZE`, a zero byte and the content.
    pub git_blob: String,
}

/// Reads a file for what identifies it.
pub fn content(path: &Path) -> Result<Content> {
    let fail = |source| io(path, source);
    let mut file = File::open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    let (mut sha256, mut sha1, mut chunk, mut read) = (Sha256::new(), Sha1::new(), vec![0; CHUNK], 0);
    sha1.update(format!("blob {size}\0"));
    loop {
        match file.read(&mut chunk).map_err(fail)? {
            0 => break,
            count => {
                sha256.update(&chunk[..count]);
                sha1.update(&chunk[..count]);
                read += count as u64;
            }
        }
    }
    if read != size {
        return Err(fail(std::io::Error::other("it changes while it is read")));
    }
    Ok(Content { size, sha256: hexadecimal(sha256.finalize().as_slice()), git_blob: hexadecimal(sha1.finalize().as_slice()) })
}

/// Whether a file is there; what is there and isn't a plain file is refused.
pub fn is_there(path: &Path) -> Result<bool> {
    Ok(plain(path)?.is_some())
}

/// The bytes of a file, none if it isn't there.
pub fn length(path: &Path) -> Result<u64> {
    Ok(plain(path)?.map_or(0, |metadata| metadata.len()))
}

fn plain(path: &Path) -> Result<Option<Metadata>> {
    let refuse = |what: &str| io(path, std::io::Error::other(format!("is {what}: no download goes there; remove it or give another folder")));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io(path, source)),
        Ok(metadata) if metadata.is_file() => Ok(Some(metadata)),
        Ok(metadata) if metadata.is_symlink() => Err(refuse("a symbolic link")),
        Ok(metadata) if metadata.is_dir() => Err(refuse("a folder")),
        Ok(_) => Err(refuse("not a file")),
    }
}

/// Opens a file to be written anew.
pub fn create(path: &Path) -> Result<File> {
    remove(path)?;
    // `create_new` follows no link, even of one that was made just now.
    OpenOptions::new().write(true).create_new(true).open(path).map_err(|source| io(path, source))
}

/// Opens a file to append to it.
pub fn append(path: &Path) -> Result<File> {
    let fail = |source| io(path, source);
    let before = plain(path)?;
    let file = OpenOptions::new().append(true).open(path).map_err(fail)?;
    let after = file.metadata().map_err(fail)?;
    match before {
        Some(before) if same(&before, &after) => Ok(file),
        _ => Err(fail(std::io::Error::other("it is replaced while it is opened"))),
    }
}

#[cfg(unix)]
fn same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
fn same(one: &Metadata, other: &Metadata) -> bool {
    one.len() == other.len()
}

/// Makes a folder of ours within one that the user named (that one may be a link).
pub fn make_folder(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(io(path, std::io::Error::other("is a symbolic link: no download goes there; remove it or give another folder")));
    }
    fs::create_dir_all(path).map_err(|source| io(path, source))
}

/// Removes a file if it is there; of a link, the link.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(path, error)),
        _ => Ok(()),
    }
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

pub fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io { file: path.display().to_string(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_identified_as_git_and_sha256sum_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hello.txt");
        fs::write(&path, "hello\n").unwrap();
        let content = content(&path).unwrap();
        assert_eq!(content.size, 6);
        assert_eq!(content.git_blob, "ce013625030ba8dba906f756967f9e9ca394464a");
        assert_eq!(content.sha256, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (victim, link) = (folder.path().join("victim"), folder.path().join("link"));
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        for error in [is_there(&link).unwrap_err(), append(&link).unwrap_err(), make_folder(&link).unwrap_err()] {
            assert!(error.to_string().contains("symbolic link"), "{error}");
        }
        create(&link).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&link).unwrap().is_file());
        assert!(is_there(folder.path()).unwrap_err().to_string().contains("folder"));
    }
}
