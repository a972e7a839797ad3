//! Which files a command works on, and where what is made of them goes.

use anyhow::{Context, Result, bail, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// The files named, and all pictures in the directories named and below, in alphabetical order.
pub fn expand(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut photos = Vec::new();
    for path in paths {
        if path.is_dir() {
            let before = photos.len();
            collect(path, &mut photos)?;
            ensure!(photos.len() > before, "{}: the directory holds no {} files", path.display(), EXTENSIONS.join(", "));
        } else {
            photos.push(path.clone());
        }
    }
    Ok(photos)
}

fn collect(directory: &Path, photos: &mut Vec<PathBuf>) -> Result<()> {
    let name = || directory.display().to_string();
    let mut entries = std::fs::read_dir(directory).with_context(name)?.collect::<Result<Vec<_>, _>>().with_context(name)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // Links to directories are not followed: they may lead in circles.
        if entry.file_type().with_context(|| path.display().to_string())?.is_dir() {
            collect(&path, photos)?;
        } else if path.is_file() && has_extension(&path, &EXTENSIONS) {
            photos.push(path);
        }
    }
    Ok(())
}

fn has_extension(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|found| extensions.iter().any(|e| e.eq_ignore_ascii_case(found)))
}

/// Where the drawn pictures go.
pub enum Drawings {
    File(PathBuf),
    Directory { path: PathBuf, taken: HashSet<PathBuf> },
}

impl Drawings {
    /// `path` is a directory if it looks or is like one, or if there are many photos to draw.
    pub fn new(path: &Path, photos: usize) -> Result<Self> {
        let is_file = has_extension(path, &EXTENSIONS) && !path.is_dir();
        if is_file && photos == 1 {
            return Ok(Self::File(path.into()));
        }
        if is_file {
            bail!("{}: with {photos} photos, --draw needs a directory", path.display());
        }
        let looks_like_a_folder = path.is_dir() || path.extension().is_none() || path.to_string_lossy().ends_with(std::path::is_separator);
        ensure!(
            looks_like_a_folder,
            "{}: drawings are written as {} (a folder's name ends with / where it isn't there yet)",
            path.display(),
            EXTENSIONS.join(", ")
        );
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
        for file in ["b.JPG", "a.png", "notes.txt", "deep/a.webp"] {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), "").unwrap();
        }
        let photos = expand(&[root.into(), "absent.png".into()]).unwrap();
        let expected = [root.join("a.png"), root.join("b.JPG"), root.join("deep/a.webp"), "absent.png".into()];
        assert_eq!(photos, expected);

        let out = root.join("out");
        let mut drawings = Drawings::new(&out, photos.len()).unwrap();
        let places: Vec<_> = photos.iter().map(|photo| drawings.place(photo).unwrap()).collect();
        assert_eq!(places, ["a.png", "b.png", "a-2.png", "absent.png"].map(|name| out.join(name)));

        assert!(Drawings::new(&root.join("one.png"), 2).is_err());
        let problem = |path: &str, photos| Drawings::new(&root.join(path), photos).err().unwrap().to_string();
        assert!(problem("one.gif", 1).contains("jpg") && problem("many.gif", 2).contains("jpg"));
        assert!(!root.join("one.gif").exists());
        Drawings::new(&root.join("one.d/"), 1).unwrap();
        Drawings::new(&root.join("one.d"), 1).unwrap();
        let mut beside = Drawings::new(root, 1).unwrap();
        assert!(beside.place(&root.join("a.png")).is_err());
        assert_eq!(Drawings::new(&root.join("one.png"), 1).unwrap().place(&photos[0]).unwrap(), root.join("one.png"));
        std::fs::create_dir(root.join("empty")).unwrap();
        assert!(expand(&[root.join("empty")]).is_err());
    }
}
