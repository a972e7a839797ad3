//! Writes files so that there is never half of one under its name, and nothing else is left beside it.

use crate::error::{Error, Result};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Writes a file whole or not at all: a reader sees the old one or the new one, whatever happens meanwhile.
///
/// Where `path` is a link, what it leads to is written. A file that is there keeps its permissions, and one that may not be written to stays as it is.
/// What isn't a file on a disk (a pipe, a device, standard output by a name such as `/dev/stdout`) is written to as it is.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    follow(path).and_then(|to| put(&to, bytes)).map_err(|source| Error::Io { file: path.display().to_string(), source })
}

fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let there = fs::metadata(path).ok();
    if there.as_ref().is_some_and(fs::Metadata::is_dir) || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory, not a file to write: name a file in it"));
    }
    if is_open_file(path) || there.as_ref().is_some_and(|there| !there.is_file()) {
        return pour(path, bytes);
    }
    if there.is_some() {
        // To replace a file asks for no leave of the file itself.
        OpenOptions::new().write(true).open(path)?;
    }
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its folder isn't there"));
    }
    #[cfg(target_os = "linux")]
    if let Ok(file) = nameless::create(folder) {
        fill(&file, there.as_ref(), bytes)?;
        if nameless::publish(&file, folder, path).is_ok() {
            return Ok(());
        }
    }
    let mut builder = tempfile::Builder::new();
    // Temporary files are private by default; this one shall be as any other file, as the umask has it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let file = builder.tempfile_in(folder)?;
    fill(file.as_file(), there.as_ref(), bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// Not before the disk has it all may it get its name, lest a crash leave the name without its content.
fn fill(mut file: &File, there: Option<&fs::Metadata>, bytes: &[u8]) -> io::Result<()> {
    if let Some(there) = there {
        // Only root may give a file away.
        #[cfg(unix)]
        let _ = std::os::unix::fs::fchown(file, Some(std::os::unix::fs::MetadataExt::uid(there)), Some(std::os::unix::fs::MetadataExt::gid(there)));
        file.set_permissions(there.permissions())?;
    }
    file.write_all(bytes)?;
    file.sync_all()
}

/// Into what is there.
fn pour(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let number = path.file_name().filter(|_| is_open_file(path));
    match number.and_then(|number| number.to_str()) {
        // Where the shell has put a file, both streams and this shall go on where the last one stopped.
        Some("1") => io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush()),
        Some("2") => io::stderr().lock().write_all(bytes),
        _ => OpenOptions::new().append(true).open(path)?.write_all(bytes),
    }
}

/// What a path leads to, link by link; that need not be there.
fn follow(path: &Path) -> io::Result<PathBuf> {
    const MAX_LINKS: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(target) if !is_open_file(&path) => path = path.parent().unwrap_or(Path::new("")).join(target),
            _ => return Ok(path),
        }
    }
    Err(io::Error::other("leads through too many links"))
}

/// Whether a path is the system's name for a file that a process has open.
fn is_open_file(path: &Path) -> bool {
    path.starts_with("/dev/fd") || path.starts_with("/proc")
}

/// Files that have no name until they are whole: Linux frees them when the program ends, however it ends.
#[cfg(target_os = "linux")]
mod nameless {
    use rustix::fs::{AtFlags, CWD, OFlags, linkat};
    use std::fs::{self, File, OpenOptions};
    use std::io;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    /// Not every file system can.
    pub fn create(folder: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).mode(0o666).custom_flags(OFlags::TMPFILE.bits() as i32).open(folder)
    }

    pub fn publish(file: &File, folder: &Path, path: &Path) -> io::Result<()> {
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let name = |to: &Path| linkat(CWD, &own, CWD, to, AtFlags::SYMLINK_FOLLOW).map_err(io::Error::from);
        match name(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            done => return done,
        }
        // A new name can't take an old one's place: it gets another for the moment between two calls.
        let moment = folder.join(format!(".detrim-{:016x}", fastrand::u64(..)));
        name(&moment)?;
        fs::rename(&moment, path).inspect_err(|_| drop(fs::remove_file(&moment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn replaces_a_file_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        write(&path, b"first, and longer").unwrap();
        write(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(names(folder.path()), ["out.json"]);
    }

    #[test]
    fn what_can_t_be_written_is_named_and_why() {
        let folder = tempfile::tempdir().unwrap();
        let problem = |path: PathBuf| write(&path, b"").unwrap_err().to_string();
        for (path, why) in [
            (folder.path().join("absent/out.json"), "absent/out.json: its folder isn't there"),
            (folder.path().into(), "is a directory"),
            (folder.path().join("absent/"), "is a directory"),
        ] {
            assert!(problem(path.clone()).contains(why), "{}", problem(path));
        }
        assert!(names(folder.path()).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_file_keeps_its_permissions_and_a_new_one_has_the_usual_ones() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o7777;
        for wanted in [0o600, 0o640, 0o755] {
            let path = folder.path().join("out");
            fs::write(&path, "old").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted)).unwrap();
            write(&path, b"new").unwrap();
            assert_eq!((mode("out"), fs::read(&path).unwrap()), (wanted, b"new".to_vec()));
        }
        write(&folder.path().join("new"), b"").unwrap();
        fs::write(folder.path().join("usual"), "").unwrap();
        assert_eq!(mode("new"), mode("usual"));
    }

    #[cfg(unix)]
    #[test]
    fn links_and_pipes_stay_what_they_are() {
        use std::os::unix::fs::{FileTypeExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir(at("real")).unwrap();
        symlink("real/out", at("first")).unwrap();
        symlink("first", at("second")).unwrap();
        for text in [&b"to where there is nothing yet"[..], b"again"] {
            write(&at("second"), text).unwrap();
            assert_eq!(fs::read(at("real/out")).unwrap(), text);
        }
        assert!(at("first").is_symlink() && at("second").is_symlink());
        symlink("circle", at("circle")).unwrap();
        assert!(write(&at("circle"), b"").unwrap_err().to_string().contains("links"));

        let pipe = at("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write(&pipe, b"through the pipe").unwrap();
        assert_eq!(reader.join().unwrap(), b"through the pipe");
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert_eq!(names(folder.path()), ["circle", "first", "pipe", "real", "second"]);
        assert_eq!(names(&at("real")), ["out"]);
    }

    /// By the system's name of an open file, as `/dev/stdout` is one.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_file_is_written_to_and_not_replaced() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut open = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        open.write_all(b"one ").unwrap();
        write(Path::new(&format!("/dev/fd/{}", open.as_raw_fd())), b"two ").unwrap();
        open.write_all(b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two three");
    }
}
