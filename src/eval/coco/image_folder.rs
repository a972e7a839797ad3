//! Finds the images that label files name: as tools on Windows, in a browser or on another machine wrote the names.
//!
//! A name that is there as it is written is that file. Else it is looked for without backslashes, `%20` and the folders that only the other
//! machine has, then by its last part anywhere below the folder, and at last without what Label Studio puts before names (`1a2b3c4d-a.jpg`)
//! and Roboflow behind them (`a_jpg.rf.<hash>.jpg`). Whatever could mean two files, or a file that another entry has too, is not taken.

use super::dataset::Image;
use crate::image;
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A folder of images.
pub struct ImageFolder {
    folder: PathBuf,
    index: OnceLock<Index>,
}

/// The files below a folder, by the last part of their names.
#[derive(Default)]
struct Index {
    /// In lower case.
    by_name: HashMap<String, Vec<String>>,
    /// As [`bare`] has them, and whether that took anything off.
    by_bare: HashMap<String, Vec<(String, bool)>>,
}

/// What a name leads to.
#[derive(Debug, PartialEq)]
enum Found {
    AsWritten,
    /// Another name below the folder.
    Instead(String),
    Nothing,
    Several(Vec<String>),
}

impl ImageFolder {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), index: OnceLock::new() }
    }

    /// Gives images the names that they have below the folder, or says of each why it can't be used. What was found under another name is
    /// told in a sentence.
    pub fn locate(&self, images: &mut [Image]) -> Option<String> {
        let found: Vec<Found> =
            images.iter().map(|image| if image.absent.is_some() { Found::AsWritten } else { self.find(&image.file_name) }).collect();
        // Who has each file.
        let mut owners: HashMap<&str, Vec<&str>> = HashMap::new();
        for (image, found) in images.iter().zip(&found) {
            let file = match found {
                Found::AsWritten => &image.file_name,
                Found::Instead(file) => file,
                Found::Nothing | Found::Several(_) => continue,
            };
            let owners = owners.entry(file).or_default();
            if !owners.contains(&&*image.file_name) {
                owners.push(&image.file_name);
            }
        }
        let contested: Vec<bool> =
            found.iter().map(|found| matches!(found, Found::Instead(file) if owners.get(&**file).is_some_and(|owners| owners.len() > 1))).collect();
        let mut renamed = Vec::new();
        for ((image, found), contested) in images.iter_mut().zip(found).zip(contested) {
            let tried = self.folder.join(&image.file_name);
            match found {
                Found::AsWritten => {}
                Found::Nothing => image.absent = Some(format!("{}: there is no such image", tried.display())),
                Found::Several(files) => {
                    let files = super::categories::list(files);
                    image.absent = Some(format!("{}: there is no such image, and several could be meant: {files}", tried.display()));
                }
                Found::Instead(file) if contested => {
                    image.absent =
                        Some(format!("{}: there is no such image, and {file}, which is like it, another entry names too", tried.display()));
                }
                Found::Instead(file) => renamed.push((std::mem::replace(&mut image.file_name, file.clone()), file)),
            }
        }
        let (name, file) = renamed.first()?;
        Some(format!("{} of {} images are there under another name (the first: {name:?} as {file})", renamed.len(), images.len()))
    }

    /// Takes the sizes that aren't stated from the images.
    pub fn measure(&self, images: &mut [Image]) {
        images.par_iter_mut().filter(|image| image.size.is_none() && image.absent.is_none()).for_each(|image| {
            match image::open(&self.folder.join(&image.file_name)) {
                // (A very large one is decoded smaller.)
                Ok(pixels) => image.size = Some(pixels.full_size.map(|side| side as f64)),
                Err(error) => image.absent = Some(error.to_string()),
            }
        });
    }

    fn find(&self, name: &str) -> Found {
        if self.folder.join(name).is_file() {
            return Found::AsWritten;
        }
        let spellings = spellings(name);
        for parts in &spellings {
            // First with as many of its folders as there are.
            let mut files = (0..parts.len()).map(|first| parts[first..].join("/"));
            if let Some(file) = files.find(|file| self.folder.join(file).is_file()) {
                return Found::Instead(file);
            }
        }
        let index = self.index.get_or_init(|| Index::of(&self.folder));
        spellings.iter().map(|parts| index.find(parts)).find(|found| *found != Found::Nothing).unwrap_or(Found::Nothing)
    }
}

impl Index {
    fn of(folder: &Path) -> Self {
        let mut index = Self::default();
        index.collect(folder, "");
        // Whatever the order of a directory is.
        index.by_name.values_mut().for_each(|files| files.sort());
        index.by_bare.values_mut().for_each(|files| files.sort());
        index
    }

    /// Folders that can't be read are passed over: what is missing is named anyway.
    fn collect(&mut self, folder: &Path, below: &str) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = if below.is_empty() { name.to_string() } else { format!("{below}/{name}") };
            // Links to folders are not followed: they may lead in circles.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => self.collect(&entry.path(), &path),
                Ok(_) if entry.path().is_file() => {
                    let (bare, changed) = bare(name);
                    self.by_bare.entry(bare).or_default().push((path.clone(), changed));
                    self.by_name.entry(name.to_lowercase()).or_default().push(path);
                }
                _ => {}
            }
        }
    }

    fn find(&self, parts: &[String]) -> Found {
        let Some(name) = parts.last() else { return Found::Nothing };
        let mut files: Vec<&String> = self.by_name.get(&name.to_lowercase()).into_iter().flatten().collect();
        if files.is_empty() {
            // (One with the other's hash is another image.)
            let (bare, changed) = bare(name);
            files = self.by_bare.get(&bare).into_iter().flatten().filter(|(_, theirs)| changed != *theirs).map(|(file, _)| file).collect();
        }
        // Of several, those which share most folders with the name.
        let shared = |file: &str| file.rsplit('/').zip(parts.iter().rev()).skip(1).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count();
        let most = files.iter().map(|file| shared(file)).max().unwrap_or(0);
        files.retain(|file| shared(file) == most);
        match &files[..] {
            [] => Found::Nothing,
            [file] => Found::Instead((*file).clone()),
            files => Found::Several(files.iter().map(|file| (*file).clone()).collect()),
        }
    }
}

/// The folders and the file of a name, as it may have been meant: as it is and with percent signs decoded, each with slashes of both kinds.
fn spellings(name: &str) -> Vec<Vec<String>> {
    let mut all: Vec<Vec<String>> = Vec::new();
    let decoded = percent_decoded(name);
    for name in [Some(name), decoded.as_deref()].into_iter().flatten() {
        // Label Studio serves local files as `/data/local-files/?d=folder/a.jpg`; other addresses may have a query behind them.
        let named = match name.split_once('?') {
            Some((_, query)) if query.starts_with("d=") => &query[2..],
            Some((path, _)) if name.contains("://") => path,
            _ => name,
        };
        let parts = named.split(['/', '\\']).filter(|part| !part.is_empty() && *part != "." && *part != ".." && !part.ends_with(':'));
        let parts: Vec<String> = parts.map(str::to_string).collect();
        if !all.contains(&parts) {
            all.push(parts);
        }
    }
    all
}

/// Nothing where there is nothing to decode, or no text comes of it.
fn percent_decoded(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let [first, others @ ..] = rest {
        let digits = others.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|decoded| decoded != name)
}

/// A file's name as the image had it before Label Studio or Roboflow got it, and whether there was anything of theirs. Both put other
/// characters in the place of spaces and brackets, so that what is neither letter nor digit is all the same.
fn bare(name: &str) -> (String, bool) {
    let lower = name.to_lowercase();
    let (mut name, mut changed) = (&lower[..], false);
    if let Some((before, after)) = name.split_once('-')
        && before.len() == 8
        && before.bytes().all(|b| b.is_ascii_hexdigit())
    {
        (name, changed) = (after, true);
    }
    let mut ending = None;
    if let Some((before, after)) = name.rsplit_once(".rf.")
        && let Some((hash, _)) = after.split_once('.')
        && hash.len() >= 8
        && hash.bytes().all(|b| b.is_ascii_alphanumeric())
        && let Some((stem, extension)) = before.rsplit_once('_')
    {
        (name, ending, changed) = (stem, Some(extension), true);
    }
    let (stem, extension) = match ending {
        Some(extension) => (name, extension),
        None => name.rsplit_once('.').unwrap_or((name, "")),
    };
    let mut bare = String::new();
    for c in stem.chars() {
        match c.is_alphanumeric() {
            true => bare.push(c),
            false if !bare.ends_with('-') => bare.push('-'),
            false => {}
        }
    }
    (format!("{bare}.{extension}"), changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::coco::id::Id;

    fn images(names: &[&str]) -> Vec<Image> {
        (0u64..).zip(names).map(|(id, name)| Image { id: Id::from(id), file_name: (*name).into(), size: None, absent: None }).collect()
    }

    /// The files that names lead to in a folder of some.
    fn located(files: &[&str], names: &[&str]) -> (Vec<Option<String>>, Option<String>, Vec<String>) {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut images = images(names);
        let note = ImageFolder::new(folder.path()).locate(&mut images);
        let absent = images.iter().filter_map(|image| image.absent.clone()).collect();
        (images.into_iter().map(|image| image.absent.is_none().then_some(image.file_name)).collect(), note, absent)
    }

    #[test]
    fn names_that_tools_write_are_found() {
        let hash = "0123456789abcdef0123456789abcdef";
        let (written, original) = (format!("cat-1-_jpg.rf.{hash}.jpg"), "cat (1).jpg");
        for (name, file) in [
            ("a.jpg", "a.jpg"),
            ("sub/a.jpg", "sub/a.jpg"),
            ("train\\a.jpg", "train/a.jpg"),
            ("train\\a.jpg", "a.jpg"),
            ("..\\..\\media\\upload\\4\\a.jpg", "a.jpg"),
            ("C:\\Users\\me\\photos\\a.jpg", "photos/a.jpg"),
            ("/home/me/photos/a.jpg", "photos/a.jpg"),
            ("sub%20dir/a%201.jpg", "sub dir/a 1.jpg"),
            ("train%5Ca.jpg", "a.jpg"),
            ("h%C3%BCndchen.jpg", "hündchen.jpg"),
            ("100%.jpg", "100%.jpg"),
            ("train/100%25.jpg", "100%.jpg"),
            ("a.jpg", "deep/er/a.jpg"),
            ("A.JPG", "a.jpg"),
            ("/data/upload/4/1a2b3c4d-a.jpg", "a.jpg"),
            ("images/1a2b3c4d-a_1.jpg", "photos/a 1.jpg"),
            ("a.jpg", "1a2b3c4d-a.jpg"),
            ("/data/local-files/?d=set/a%201.jpg", "set/a 1.jpg"),
            ("https://host.example/bucket/a.jpg?token=1", "a.jpg"),
            ("s3://bucket/set/a.jpg", "set/a.jpg"),
            (&written, original),
            (original, &written),
            (&format!("a_png.rf.{hash}.jpg"), "a.png"),
        ] {
            assert_eq!(located(&[file, "other.jpg"], &[name]).0, [Some(file.to_string())], "{name} among {file}");
        }
    }

    #[test]
    fn what_could_be_another_picture_is_not_taken() {
        let none = |files: &[&str], names: &[&str], expected: &[Option<&str>], said: &str| {
            let (found, _, absent) = located(files, names);
            assert_eq!(found.iter().map(Option::as_deref).collect::<Vec<_>>(), expected, "{names:?} among {files:?}");
            assert!(absent.iter().all(|absent| absent.contains(said)) && !absent.is_empty(), "{absent:?}");
        };
        none(&["b.jpg"], &["a.jpg"], &[None], "a.jpg: there is no such image");
        none(&["x/a.jpg", "y/a.jpg"], &["a.jpg"], &[None], "several could be meant: x/a.jpg, y/a.jpg");
        // Two entries, one file.
        none(&["001.jpg"], &["cam1/001.jpg", "cam2/001.jpg"], &[None, None], "another entry names too");
        none(&["001.jpg"], &["001.jpg", "cam2/001.jpg"], &[Some("001.jpg"), None], "another entry names too");
        let hash = ["0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"].map(|hash| format!("a_jpg.rf.{hash}.jpg"));
        none(&[&hash[0], &hash[1]], &["a.jpg"], &[None], "several could be meant");
        none(&["a.jpg"], &[&hash[0], &hash[1]], &[None, None], "another entry names too");
        // Without anything of a tool's, another sign is another image.
        none(&["a_1.jpg"], &["a-1.jpg"], &[None], "no such image");
        none(&["a.png"], &["a.jpg"], &[None], "no such image");
        none(&["a.jpg"], &["sub/"], &[None], "no such image");
    }

    #[test]
    fn of_several_the_one_in_the_folder_that_is_named_is_taken_and_it_is_told() {
        let (found, note, _) = located(&["x/a.jpg", "y/a.jpg"], &["set\\Y\\a.jpg", "x\\a.jpg"]);
        assert_eq!(found, [Some("y/a.jpg".to_string()), Some("x/a.jpg".to_string())]);
        assert_eq!(note.unwrap(), "2 of 2 images are there under another name (the first: \"set\\\\Y\\\\a.jpg\" as y/a.jpg)");
        let (found, note, _) = located(&["a.jpg"], &["a.jpg", "a.jpg"]);
        assert_eq!((found.iter().flatten().count(), note), (2, None));
    }
}
