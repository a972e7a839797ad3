//! Which files a command works on, and where what is made of them goes.

use anyhow::{Context, Result, bail, ensure};
use detrim::image::{CONVERTIBLE_EXTENSIONS, EXTENSIONS};
use image::ImageFormat;
use std::collections::{BTreeMap, HashSet};
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};

/// The files to work on.
pub struct Photos {
    pub files: Vec<PathBuf>,
    /// How many folders or entries of folders could not be read.
    pub unreadable: usize,
}

/// The files named, and all pictures in the directories named and below, in alphabetical order. What is left out there is told of.
pub fn expand(paths: &[PathBuf]) -> Result<Photos> {
    let mut photos = Photos { files: Vec::new(), unreadable: 0 };
    for path in paths {
        if !path.is_dir() {
            photos.files.push(path.clone());
            continue;
        }
        let mut search = Search::default();
        search.collect(path);
        for problem in &search.problems {
            eprintln!("warning: {problem}");
        }
        let left_out = search.left_out.to_string();
        match (search.found.is_empty(), left_out.is_empty()) {
            (true, true) => eprintln!("warning: {} holds no {} files", path.display(), EXTENSIONS.join(", ")),
            (true, false) => eprintln!("warning: {} holds no {} files, but {left_out}", path.display(), EXTENSIONS.join(", ")),
            (false, true) => {}
            (false, false) => eprintln!("note: {}: left out: {left_out}", path.display()),
        }
        photos.files.append(&mut search.found);
        photos.unreadable += search.problems.len();
    }
    ensure!(!photos.files.is_empty(), "there is no picture to work on");
    Ok(photos)
}

/// What a directory holds.
#[derive(Default)]
struct Search {
    found: Vec<PathBuf>,
    problems: Vec<String>,
    left_out: LeftOut,
}

impl Search {
    /// What can't be read is a problem of its own; the rest is gone through.
    fn collect(&mut self, directory: &Path) {
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => return self.problems.push(format!("{}: {error}; it is left out", directory.display())),
        };
        let mut all = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) => all.push(entry),
                Err(error) => self.problems.push(format!("{}: {error}; some of it is left out", directory.display())),
            }
        }
        all.sort_by_key(std::fs::DirEntry::file_name);
        for entry in all {
            let path = entry.path();
            // Links to directories are not followed: they may lead in circles.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.collect(&path),
                Ok(_) if path.is_dir() => self.left_out.links += 1,
                Ok(_) if path.is_file() && has_extension(&path, &EXTENSIONS) && !is_sidecar(&path) => self.found.push(path),
                Ok(_) => self.left_out.count(&path),
                Err(error) => self.problems.push(format!("{}: {error}; it is left out", path.display())),
            }
        }
    }
}

/// How many files were not taken for pictures, and why.
#[derive(Default)]
struct LeftOut {
    /// Pictures that aren't decoded, by what their names end with.
    convertible: BTreeMap<String, usize>,
    /// What macOS keeps beside each file on other disks, under the same name with `._` in front.
    sidecars: usize,
    links: usize,
    others: BTreeMap<String, usize>,
}

impl LeftOut {
    fn count(&mut self, path: &Path) {
        if is_sidecar(path) {
            self.sidecars += 1;
            return;
        }
        let kind = path.extension().map(|end| format!(".{}", end.to_string_lossy().to_lowercase())).unwrap_or_default();
        let kinds = if has_extension(path, &CONVERTIBLE_EXTENSIONS) { &mut self.convertible } else { &mut self.others };
        *kinds.entry(kind).or_default() += 1;
    }
}

impl Display for LeftOut {
    /// Nothing where there is nothing.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        const NAMED: usize = 5;
        let mut parts = Vec::new();
        if !self.convertible.is_empty() {
            let kinds: Vec<String> = self.convertible.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            parts.push(format!("{} (convert to JPEG, PNG or WebP first)", kinds.join(", ")));
        }
        if self.sidecars > 0 {
            parts.push(format!("{} ._ (macOS' own, beside the pictures)", self.sidecars));
        }
        if self.links > 0 {
            parts.push(plural(self.links, "link to a directory", "links to directories"));
        }
        let count: usize = self.others.values().sum();
        if count > 0 {
            let mut kinds: Vec<&str> =
                self.others.keys().map(|kind| if kind.is_empty() { "without an extension" } else { kind }).take(NAMED).collect();
            if self.others.len() > NAMED {
                kinds.push("…");
            }
            parts.push(format!("{} ({})", plural(count, "file that isn't a picture", "files that aren't pictures"), kinds.join(", ")));
        }
        f.write_str(&parts.join(", "))
    }
}

fn plural(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn is_sidecar(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"._"))
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|found| extensions.iter().any(|e| e.eq_ignore_ascii_case(found)))
}

/// The format that a picture of this name is written in.
pub fn format_of(path: &Path) -> Result<ImageFormat> {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    Ok(match extension.as_str() {
        "jpg" | "jpeg" | "jpe" | "jfif" => ImageFormat::Jpeg,
        "png" => ImageFormat::Png,
        "webp" => ImageFormat::WebP,
        "gif" => ImageFormat::Gif,
        "bmp" => ImageFormat::Bmp,
        "tif" | "tiff" => ImageFormat::Tiff,
        _ => bail!("{0}: a drawing is a .{1} file, or a directory: {0}/ would be one", path.display(), EXTENSIONS.join(", .")),
    })
}

/// Where the drawn pictures go.
pub enum Drawings {
    File(PathBuf),
    Directory { path: PathBuf, taken: HashSet<PathBuf> },
}

impl Drawings {
    /// `path` is a directory if it is one already, ends with a slash, or has no extension and isn't anything else.
    pub fn new(path: &Path, photos: usize) -> Result<Self> {
        let is_named_so = path.as_os_str().as_encoded_bytes().last().is_some_and(|&end| std::path::is_separator(end.into()));
        let is_file = !path.is_dir() && !is_named_so && (path.extension().is_some() || path.exists());
        if is_file {
            format_of(path)?;
            ensure!(photos == 1, "{}: with {photos} photos, --draw needs a directory", path.display());
            return Ok(Self::File(path.into()));
        }
        std::fs::create_dir_all(path).with_context(|| path.display().to_string())?;
        Ok(Self::Directory { path: path.into(), taken: HashSet::new() })
    }

    /// A path for the drawing of a photo; never the photo's own, nor that of another drawing of this run.
    pub fn place(&mut self, photo: &Path) -> Result<PathBuf> {
        let path = match self {
            Self::File(path) => path.clone(),
            Self::Directory { path, taken } => {
                let stem = photo.file_stem().unwrap_or_default().to_string_lossy();
                let names = (1..).map(|n| if n == 1 { format!("{stem}.png") } else { format!("{stem}-{n}.png") });
                let mut free = names.map(|name| path.join(name)).filter(|path| !taken.contains(path));
                let place = free.next().with_context(|| path.display().to_string())?;
                taken.insert(place.clone());
                place
            }
        };
        let same = matches!((path.canonicalize(), photo.canonicalize()), (Ok(a), Ok(b)) if a == b);
        ensure!(!same, "{}: the drawing would overwrite the photo", path.display());
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_and_drawings_never_collide() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for file in ["b.JPG", "a.png", "notes.txt", "deep/a.webp", "c.jfif", "d.jpe", "e.gif", "f.tif"] {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), "").unwrap();
        }
        let photos = expand(&[root.into(), "absent.png".into()]).unwrap();
        let expected = ["a.png", "b.JPG", "c.jfif", "d.jpe", "deep/a.webp", "e.gif", "f.tif"].map(|name| root.join(name));
        assert_eq!(photos.files, [&expected[..], &["absent.png".into()]].concat());
        assert_eq!(photos.unreadable, 0);

        let out = root.join("out");
        let mut drawings = Drawings::new(&out, photos.files.len()).unwrap();
        let places: Vec<_> = photos.files.iter().map(|photo| drawings.place(photo).unwrap()).collect();
        assert_eq!(places, ["a.png", "b.png", "c.png", "d.png", "a-2.png", "e.png", "f.png", "absent.png"].map(|name| out.join(name)));

        let mut beside = Drawings::new(root, 1).unwrap();
        assert!(beside.place(&root.join("a.png")).is_err());
        assert_eq!(Drawings::new(&root.join("one.png"), 1).unwrap().place(&photos.files[0]).unwrap(), root.join("one.png"));
        std::fs::create_dir(root.join("empty")).unwrap();
        assert!(expand(&[root.join("empty")]).is_err());
        assert!(expand(&[root.join("empty"), root.join("deep")]).is_ok());
    }

    #[test]
    fn no_directory_is_made_of_what_is_called_as_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, photos, problem) in [("one.png", 2, "needs a directory"), ("x.heic", 1, ".gif, .bmp"), ("run.v2", 1, "run.v2/ would be one")] {
            let error = Drawings::new(&at(name), photos).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains(problem), "{error}");
        }
        for name in ["x.gif", "x.BMP", "x.jfif"] {
            assert!(matches!(Drawings::new(&at(name), 1), Ok(Drawings::File(_))), "{name}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        for name in ["drawn", "run.v2/"] {
            assert!(matches!(Drawings::new(&at(name), 1), Ok(Drawings::Directory { .. })), "{name}");
        }
        assert!(at("run.v2").is_dir());
    }

    #[test]
    fn what_is_left_out_is_counted_by_its_kind() {
        let mut left_out = LeftOut::default();
        assert_eq!(left_out.to_string(), "");
        for name in ["a.HEIC", "b.heic", "c.avif", "._a.jpg", "labels.json", "README", "1.a", "1.b", "1.c", "1.d"] {
            left_out.count(Path::new(name));
        }
        assert_eq!(
            left_out.to_string(),
            "1 .avif, 2 .heic (convert to JPEG, PNG or WebP first), 1 ._ (macOS' own, beside the pictures), \
             6 files that aren't pictures (without an extension, .a, .b, .c, .d, …)"
        );
    }
}
