//! Labels from several files, each of which may know other classes: a picture's boxes, and which classes it is fully labelled with.
//!
//! People's labels of a few classes and a teacher's labels of all go together: for each picture the files are asked in order, and
//! a file speaks only of the classes that no earlier file with this picture has declared in its `categories`. A list of detections, as
//! `detrim eval --save` and others write them, speaks of the pictures and categories of the file before it.

use super::surety::{FEWEST, Scored, Surety, judge};
use crate::config::Label;
use crate::error::{Error, Result};
use crate::eval::coco::categories::list;
use crate::eval::coco::dataset::{Annotation, Category, Dataset, Image};
use crate::eval::coco::detections::{is_list, read_detections};
use crate::eval::coco::image_folder::ImageFolder;
use crate::eval::coco::tally::Tally;
use crate::train::Target;
use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Labelled pictures.
#[derive(Clone, Debug)]
pub struct Pictures {
    pub folder: PathBuf,
    /// In the order of their file names, which does not depend on how they are spread over label files.
    pub list: Vec<Labelled>,
    pub counts: Counts,
    /// What was wrong and is left out, a sentence for each file and kind.
    pub problems: Vec<String>,
    /// What was assumed of the files, and how their categories go with the model's classes where that isn't plain, a sentence each.
    pub notes: Vec<String>,
    /// What scores were found to mean, a sentence for each file whose scores were calibrated.
    pub sureties: Vec<String>,
}

/// A picture with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Labelled {
    /// Below the pictures' folder.
    pub file_name: String,
    /// Bytes of the file.
    pub bytes: u64,
    /// Width and height in pixels, as stated by the first file that lists it.
    pub size: [usize; 2],
    pub targets: Vec<Target>,
    /// For each of the model's classes, whether a label file with this picture declares it.
    pub known: Arc<[bool]>,
}

/// What a target's weight must be for its picture to count as one that shows its class: a teacher that doubts doesn't make a picture rare.
pub const SHOWN_FROM: f32 = 0.5;

impl Labelled {
    /// The classes that the picture shows.
    pub fn classes(&self) -> BTreeSet<usize> {
        self.targets.iter().filter(|target| target.weight >= SHOWN_FROM).map(|target| target.class).collect()
    }

    /// How many of the pictures show each class.
    pub fn shown(pictures: &[&Self]) -> Vec<usize> {
        let mut counts = vec![0; pictures.first().map_or(0, |picture| picture.known.len())];
        pictures.iter().flat_map(|picture| picture.classes()).for_each(|class| counts[class] += 1);
        counts
    }
}

/// How much there is to learn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub pictures: usize,
    /// Boxes without a score.
    pub by_people: usize,
    /// Boxes with a score.
    pub by_teacher: usize,
    /// Crowds, whoever drew them.
    pub ignored: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { pictures, by_people, by_teacher, ignored } = self;
        write!(f, "{pictures} pictures, {by_people} boxes by people, {by_teacher} by a teacher, {ignored} to ignore")
    }
}

/// Of a list of detections, boxes with a lower score are left out: a detector gives a hundred for each picture, most of them of nothing.
const LEAST_SCORE: f64 = 0.1;

impl Pictures {
    /// Reads COCO label files of pictures under `images`; `labels` are the model's classes. The same file name is the same picture
    /// in all files. A file without any annotation is a mere list of pictures and declares no classes.
    ///
    /// With `calibrate`, a file's scores become the share of boxes with such a score that are right, as is measured where an earlier file has
    /// labels of the same classes of the same pictures; that it can't be is an error.
    ///
    /// Classes go by their names; with `by_id`, those of a file that shares no name with the model go by their ids.
    ///
    /// What can't be used is left out and named in `problems`. It is an error if none of the pictures is there.
    pub fn open(files: &[PathBuf], images: &Path, labels: &[Label], calibrate: bool, by_id: bool) -> Result<Self> {
        let mut reader = Reader {
            images,
            photos: ImageFolder::new(images),
            labels,
            calibrate,
            by_id,
            before: None,
            found: BTreeMap::new(),
            absent: None,
            counts: Counts::default(),
            problems: Vec::new(),
            notes: Vec::new(),
            sureties: Vec::new(),
        };
        for file in files {
            reader.read(file)?;
        }
        reader.finish()
    }
}

impl Pictures {
    /// Images without labels, by their names below `folder`; those that aren't there are left out.
    pub fn unlabelled(folder: &Path, names: impl IntoIterator<Item = String>, classes: usize) -> Result<Self> {
        let known: Arc<[bool]> = vec![false; classes].into();
        let labelled = |file_name: String| {
            let bytes = folder.join(&file_name).metadata().ok()?.len();
            // Nothing is asked about the size where there are no boxes.
            Some(Labelled { file_name, bytes, size: [1, 1], targets: Vec::new(), known: known.clone() })
        };
        let mut list: Vec<Labelled> = names.into_iter().filter_map(labelled).collect();
        list.sort_by(|a, b| a.file_name.cmp(&b.file_name));
        if list.is_empty() {
            return Err(Error::Dataset { file: folder.display().to_string(), problem: "there are no images to learn from".into() });
        }
        let counts = Counts { pictures: list.len(), ..Counts::default() };
        Ok(Self { folder: folder.into(), list, counts, problems: Vec::new(), notes: Vec::new(), sureties: Vec::new() })
    }
}

struct Reader<'a> {
    images: &'a Path,
    photos: ImageFolder,
    labels: &'a [Label],
    calibrate: bool,
    by_id: bool,
    /// Pictures and categories of the file before.
    before: Option<Dataset>,
    /// By file name.
    found: BTreeMap<String, Found>,
    /// The first picture that can't be used, and why.
    absent: Option<String>,
    counts: Counts,
    problems: Vec<String>,
    notes: Vec<String>,
    sureties: Vec<String>,
}

/// A picture that some file lists.
struct Found {
    size: [usize; 2],
    /// Of the picture's file, if there is one.
    bytes: Option<u64>,
    targets: Vec<Target>,
    known: Vec<bool>,
}

impl Reader<'_> {
    fn read(&mut self, file: &Path) -> Result<()> {
        let in_file = |problem: String| format!("{}: {problem}", file.display());
        let mut dataset = if is_list(file)? { self.detected(file)? } else { Dataset::open(file)? };
        self.problems.extend(dataset.problems.drain(..).map(in_file));
        self.notes.extend(dataset.notes.drain(..).map(in_file));
        self.notes.extend(dataset.all_crowds().map(in_file));
        self.notes.extend(self.photos.locate(&mut dataset.images).map(in_file));
        self.photos.measure(&mut dataset.images);
        let categories = self.categories(file, &dataset)?;
        self.notes.extend(dataset.relation(self.labels, &categories, "they are left out").into_iter().map(in_file));
        let mut classes: Vec<Option<usize>> = vec![None; dataset.categories.len()];
        for (class, category) in categories.iter().enumerate().filter_map(|(class, category)| Some((class, (*category)?))) {
            classes[category] = Some(class);
        }

        let mut left_out = Tally::default();
        for image in &dataset.images {
            self.list(image, &mut left_out);
        }
        let surety = match self.calibrate && dataset.annotations.iter().any(|annotation| annotation.score.is_some()) {
            true => Some(self.surety(file, &dataset, &classes)?),
            false => None,
        };
        for annotation in &dataset.annotations {
            let (image, Some(class)) = (&dataset.images[annotation.image], classes[annotation.category]) else { continue };
            // The picture may be one that was just left out.
            let (Some(size), Some(found)) = (image.size, self.found.get_mut(&image.file_name)) else { continue };
            if found.bytes.is_none() || found.known[class] {
                continue;
            }
            match target(annotation, class, size) {
                Ok(mut target) => {
                    if let (Some(surety), Some(score)) = (surety, annotation.score.filter(|_| target.weight > 0.0)) {
                        target.weight = surety.of(score) as f32;
                    }
                    found.targets.push(target);
                    *self.counts.of(annotation) += 1;
                }
                Err(problem) => left_out.add("box", problem, || {
                    let (Annotation { bbox, score, .. }, name, [width, height]) = (annotation, &image.file_name, size);
                    let score = score.map(|score| format!(", score {score}")).unwrap_or_default();
                    format!("{name} of {width}×{height} pixels: {} {bbox:?}{score}", self.labels[class].name)
                }),
            }
        }
        self.problems.extend(left_out.left_out().into_iter().map(in_file));

        // Only now, since a file may list the same picture twice.
        for image in &dataset.images {
            if let Some(found) = self.found.get_mut(&image.file_name) {
                classes.iter().flatten().for_each(|&class| found.known[class] = true);
            }
        }
        dataset.annotations.clear();
        self.before = Some(dataset);
        Ok(())
    }

    /// The category (its place) of each class. A file without boxes says nothing of any.
    fn categories(&self, file: &Path, dataset: &Dataset) -> Result<Vec<Option<usize>>> {
        let fail = |problem: String| Error::Dataset { file: file.display().to_string(), problem };
        let by_name = dataset.by_name(self.labels);
        match dataset.annotations.is_empty() {
            true => Ok(vec![None; self.labels.len()]),
            false if by_name.iter().any(Option::is_some) => Ok(by_name),
            false if self.by_id => dataset.categories_of(self.labels).map_err(|error| fail(error.to_string())),
            false => {
                let names = |names: Vec<&String>| list(names.into_iter().map(|name| format!("{name:?}")).collect());
                let theirs = names(dataset.categories.iter().map(|category| &category.name).collect());
                let ours = names(self.labels.iter().map(|label| &label.name).collect());
                Err(fail(format!(
                    "its categories ({theirs}) and the model's classes ({ours}) have no name in common: --classes labels learns its categories \
                     instead of the model's classes, --classes ids goes by their numbers"
                )))
            }
        }
    }

    /// What a file's scores mean, by the labels that earlier files have of the same classes of the same pictures.
    fn surety(&mut self, file: &Path, dataset: &Dataset, classes: &[Option<usize>]) -> Result<Surety> {
        let mut boxes: BTreeMap<(&str, usize), Vec<Scored>> = BTreeMap::new();
        for annotation in &dataset.annotations {
            let image = &dataset.images[annotation.image];
            let (Some(class), Some(size)) = (classes[annotation.category], image.size) else { continue };
            let known = self.found.get(&image.file_name).is_some_and(|found| found.known[class]);
            if let (true, false, Some(score), Ok(target)) = (known, annotation.crowd, annotation.score, target(annotation, class, size)) {
                boxes.entry((&image.file_name, class)).or_default().push((score, target.bounds));
            }
        }
        let mut judged = Vec::new();
        for ((name, class), mut boxes) in boxes {
            let people: Vec<&Target> = self.found[name].targets.iter().filter(|target| target.class == class).collect();
            judged.extend(judge(&mut boxes, &people));
        }
        let (count, name) = (judged.len(), file.display());
        let surety = Surety::fit(&judged).ok_or_else(|| Error::Dataset {
            file: name.to_string(),
            problem: format!(
                "its scores can't be calibrated: {count} of its boxes are of classes and pictures that an earlier label file knows, and at least \
                 {FEWEST} are needed, of which those with a higher score are right more often"
            ),
        })?;
        let percent = |score: f64| format!("{:.0}%", 100.0 * surety.of(score));
        let shares = [0.3, 0.5, 0.7].map(percent).join(", ");
        self.sureties.push(format!("{name}: of boxes with a score of 0.3, 0.5 and 0.7 {shares} are right, as measured on {count} boxes"));
        Ok(surety)
    }

    /// A list of detections.
    fn detected(&self, file: &Path) -> Result<Dataset> {
        let Some(before) = &self.before else {
            let problem = "a list of detections doesn't name its pictures: give the label file that they were detected by before it".into();
            return Err(Error::Dataset { file: file.display().to_string(), problem });
        };
        let mut dataset = before.clone();
        if dataset.categories.is_empty() {
            let categories = self.labels.iter().map(|label| Category { id: label.id.into(), name: label.name.clone() }).collect();
            dataset = dataset.with_categories(categories);
        }
        let (detections, problems) = read_detections(file)?;
        let mut detected = dataset.detected(&detections);
        detected.problems.extend(problems);
        detected.annotations.retain(|annotation| annotation.score >= Some(LEAST_SCORE));
        Ok(detected)
    }

    /// Makes sure that a picture is among those found.
    fn list(&mut self, image: &Image, left_out: &mut Tally) {
        if let Entry::Vacant(vacant) = self.found.entry(image.file_name.clone()) {
            let metadata = self.images.join(&image.file_name).metadata();
            let bytes = metadata.ok().filter(|metadata| image.absent.is_none() && metadata.is_file()).map(|metadata| metadata.len());
            if let (None, Some(problem)) = (bytes, &image.absent) {
                self.absent.get_or_insert_with(|| problem.clone());
                left_out.add("image", "not there, or not to be read", || problem.clone());
            }
            let size = image.size.unwrap_or_default().map(|side| side as usize);
            vacant.insert(Found { size, bytes, targets: Vec::new(), known: vec![false; self.labels.len()] });
        }
    }

    fn finish(self) -> Result<Pictures> {
        let listed = self.found.len();
        // Most pictures know the same classes as many others do.
        let mut shared: HashSet<Arc<[bool]>> = HashSet::new();
        let mut share = |known: Vec<bool>| match shared.get(&known[..]) {
            Some(known) => known.clone(),
            None => {
                let known: Arc<[bool]> = known.into();
                shared.insert(known.clone());
                known
            }
        };
        let labelled =
            |(file_name, Found { size, bytes, targets, known })| Some(Labelled { file_name, bytes: bytes?, size, targets, known: share(known) });
        let list: Vec<Labelled> = self.found.into_iter().filter_map(labelled).collect();
        if list.is_empty() {
            let first = self.absent.map(|absent| format!(" ({absent})")).unwrap_or_default();
            let problem = format!("none of the {listed} pictures of the label files is here{first}");
            return Err(Error::Dataset { file: self.images.display().to_string(), problem });
        }
        let counts = Counts { pictures: list.len(), ..self.counts };
        Ok(Pictures { folder: self.images.to_path_buf(), list, counts, problems: self.problems, notes: self.notes, sureties: self.sureties })
    }
}

impl Counts {
    /// Where an annotation counts.
    fn of(&mut self, annotation: &Annotation) -> &mut usize {
        match annotation {
            Annotation { crowd: true, .. } => &mut self.ignored,
            Annotation { score: Some(_), .. } => &mut self.by_teacher,
            Annotation { score: None, .. } => &mut self.by_people,
        }
    }
}

/// What an annotation asks for in a picture of a size, or why it can't be used.
fn target(annotation: &Annotation, class: usize, [across, down]: [f64; 2]) -> Result<Target, &'static str> {
    let [left, top, width, height] = annotation.bbox;
    let clip = |start: f64, length: f64, side: f64| [start, start + length].map(|end| end.clamp(0.0, side) / side);
    let ([left, right], [top, bottom]) = (clip(left, width, across), clip(top, height, down));
    let bounds = [(left + right) / 2.0, (top + bottom) / 2.0, right - left, bottom - top].map(|x| x as f32);
    if !bounds.iter().all(|x| x.is_finite()) || bounds[2] <= 0.0 || bounds[3] <= 0.0 {
        return Err("it has no area within its image");
    }
    let weight = match (annotation.crowd, annotation.score) {
        (true, _) => 0.0,
        (false, None) => 1.0,
        (false, Some(score)) if (0.0..=1.0).contains(&score) => score as f32,
        (false, Some(_)) => return Err("its score isn't from 0 to 1"),
    };
    Ok(Target { class, bounds, weight })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const CLASSES: [(u32, &str); 3] = [(1, "person"), (18, "dog"), (62, "chair")];

    fn labels() -> Vec<Label> {
        CLASSES.iter().map(|&(id, name)| Label { id, name: name.into() }).collect()
    }

    fn image(id: u64, name: &str) -> Value {
        json!({ "id": id, "file_name": name, "width": 100, "height": 50 })
    }

    fn mark(image: u64, category: u64, bbox: [f64; 4]) -> Value {
        json!({ "image_id": image, "category_id": category, "bbox": bbox })
    }

    fn scored(image: u64, category: u64, bbox: [f64; 4], score: f64) -> Value {
        json!({ "image_id": image, "category_id": category, "bbox": bbox, "score": score })
    }

    fn categories(all: &[(u64, &str)]) -> Value {
        all.iter().map(|(id, name)| json!({ "id": id, "name": name })).collect()
    }

    /// Opens label files of pictures `a`, `b` and `c`; no other file is there.
    fn open(files: &[Value]) -> Result<Pictures> {
        open_calibrated(files, false)
    }

    fn open_calibrated(files: &[Value], calibrate: bool) -> Result<Pictures> {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let paths: Vec<PathBuf> = (0..files.len()).map(|i| folder.path().join(format!("{i}.json"))).collect();
        paths.iter().zip(files).for_each(|(path, file)| std::fs::write(path, file.to_string()).unwrap());
        Pictures::open(&paths, folder.path(), &labels(), calibrate, false)
    }

    const WHOLE: [f64; 4] = [0.0, 0.0, 100.0, 50.0];
    const LEFT: [f64; 4] = [0.0, 0.0, 50.0, 50.0];

    #[test]
    fn an_earlier_file_decides_about_its_classes() {
        let people = json!({
            "images": [image(1, "b"), image(2, "a")],
            "categories": categories(&[(7, "dog")]),
            "annotations": [mark(1, 7, WHOLE)],
        });
        let teacher = json!({
            "images": [image(1, "a"), image(2, "b"), image(3, "c")],
            "categories": categories(&[(1, "person"), (2, "dog")]),
            "annotations": [scored(1, 2, LEFT, 0.5), scored(2, 1, LEFT, 0.25), scored(2, 2, LEFT, 0.5), scored(3, 2, LEFT, 0.75)],
        });
        let pictures = open(&[people.clone(), teacher.clone()]).unwrap();
        assert!(pictures.problems.is_empty(), "{:?}", pictures.problems);
        let targets = |name: &str| pictures.list.iter().find(|p| p.file_name == name).unwrap().targets.clone();
        // People looked for dogs in a and found none.
        assert_eq!(targets("a"), []);
        let (whole, left) = ([0.5, 0.5, 1.0, 1.0], [0.25, 0.5, 0.5, 1.0]);
        assert_eq!(targets("b"), [Target { class: 1, bounds: whole, weight: 1.0 }, Target { class: 0, bounds: left, weight: 0.25 }]);
        assert_eq!(targets("c"), [Target { class: 1, bounds: left, weight: 0.75 }]);
        assert!(pictures.list.iter().all(|p| *p.known == [true, true, false] && p.size == [100, 50] && p.bytes == 1));
        assert_eq!(pictures.counts.to_string(), "3 pictures, 1 boxes by people, 2 by a teacher, 0 to ignore");

        let swapped = open(&[teacher, people]).unwrap();
        assert_eq!(swapped.counts, Counts { pictures: 3, by_people: 0, by_teacher: 4, ignored: 0 });
        assert!(pictures.list.iter().map(|p| &p.file_name).eq(swapped.list.iter().map(|p| &p.file_name)));
    }

    #[test]
    fn scores_are_calibrated_by_what_people_found() {
        // Dogs in rows of ten; a teacher's sure boxes are right nine times of ten, its doubtful ones once.
        let place = |i: usize, away: f64| [(i % 10) as f64 * 10.0 + away, (i / 10) as f64 * 5.0 + away / 2.0, 4.0, 2.0];
        let people = json!({
            "images": [image(1, "a")],
            "categories": categories(&[(7, "dog")]),
            "annotations": (0..100).map(|i| mark(1, 7, place(i, 0.0))).collect::<Vec<_>>(),
        });
        let boxes = |score: f64, right: fn(usize) -> bool, dogs: std::ops::Range<usize>| {
            dogs.map(move |i| scored(1, 2, place(i, if right(i) { 0.0 } else { 4.0 }), score)).collect::<Vec<_>>()
        };
        let (sure, doubtful) = (boxes(0.6, |i| i % 10 > 0, 0..50), boxes(0.2, |i| i % 10 == 0, 50..100));
        let others = vec![scored(1, 1, LEFT, 0.6), scored(2, 2, LEFT, 0.2), mark(2, 1, WHOLE)];
        let teacher = |annotations: Vec<Value>| json!({ "images": [image(1, "a"), image(2, "b")], "categories": categories(&[(1, "person"), (2, "dog")]), "annotations": annotations });
        let all = teacher([sure.clone(), doubtful, others].concat());
        let pictures = open_calibrated(&[people.clone(), all.clone()], true).unwrap();
        let weights = |picture: usize| pictures.list[picture].targets.iter().map(|target| target.weight).collect::<Vec<_>>();
        let ([person, dog], of_a) = ([weights(0)[100], weights(1)[0]], weights(0));
        assert!((0.82..0.95).contains(&person) && (0.05..0.18).contains(&dog), "{person} {dog}");
        assert!(of_a[..100].iter().all(|&weight| weight == 1.0) && weights(1)[1] == 1.0);
        assert!(pictures.sureties.len() == 1 && pictures.sureties[0].contains("1.json") && pictures.sureties[0].ends_with("on 100 boxes"));
        // Else a score is as sure as it says.
        let plain = open(&[people.clone(), all]).unwrap();
        assert!(plain.list[1].targets[0].weight == 0.2 && plain.sureties.is_empty());

        for (files, count) in [(vec![people.clone(), teacher(sure.clone())], "50 of its boxes"), (vec![teacher(sure)], "0 of its boxes")] {
            let error = open_calibrated(&files, true).unwrap_err().to_string();
            assert!(error.contains(".json") && error.contains(count) && error.contains("at least 100"), "{error}");
        }
    }

    #[test]
    fn a_list_of_detections_is_of_the_file_before_it() {
        let list = json!({ "images": [image(1, "a"), image(2, "b")], "categories": [], "annotations": [] });
        let found = json!([scored(1, 18, LEFT, 0.5), scored(2, 1, WHOLE, 0.05), scored(7, 18, WHOLE, 0.9)]);
        let pictures = open(&[list.clone(), found.clone()]).unwrap();
        assert_eq!(pictures.list[0].targets, [Target { class: 1, bounds: [0.25, 0.5, 0.5, 1.0], weight: 0.5 }]);
        // Where nothing was detected, there is nothing.
        assert!(pictures.list[1].targets.is_empty() && pictures.list.iter().all(|p| *p.known == [true; 3]));
        assert_eq!(pictures.counts, Counts { pictures: 2, by_people: 0, by_teacher: 1, ignored: 0 });
        assert!(
            pictures.problems.len() == 1
                && pictures.problems[0].contains("1.json: 1 detection is left out: no image has its image_id (detection 3: image_id 7"),
            "{:?}",
            pictures.problems
        );
        // People's dogs go before those of a detector, which knows what these are called there.
        let people = json!({ "images": [image(1, "a")], "categories": categories(&[(7, "dog"), (8, "chair")]), "annotations": [mark(1, 7, WHOLE)] });
        let pictures = open(&[people, json!([scored(1, 7, LEFT, 0.5)])]).unwrap();
        assert_eq!(pictures.counts, Counts { pictures: 1, by_people: 1, by_teacher: 0, ignored: 0 });
        let error = open(&[found]).unwrap_err().to_string();
        assert!(error.contains("0.json") && error.contains("before it"), "{error}");
        assert!(open(&[list, json!([{ "image_id": 1 }])]).unwrap_err().to_string().contains("COCO detections"));
    }

    #[test]
    fn a_file_without_boxes_says_nothing_of_what_is_there() {
        let list = json!({ "images": [image(1, "a")], "categories": categories(&[(1, "person")]), "annotations": [] });
        let people = json!({ "images": [image(1, "b")], "categories": categories(&[(1, "person")]), "annotations": [mark(1, 1, LEFT)] });
        let pictures = open(&[list, people]).unwrap();
        assert_eq!(*pictures.list[0].known, [false; 3]);
        assert_eq!(*pictures.list[1].known, [true, false, false]);
    }

    #[test]
    fn categories_go_by_id_only_where_that_is_asked_for() {
        let by_id = |file: Value, by_id: bool| {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("a"), "a").unwrap();
            std::fs::write(folder.path().join("0.json"), file.to_string()).unwrap();
            Pictures::open(&[folder.path().join("0.json")], folder.path(), &labels(), false, by_id)
        };
        let file =
            |id: u64, name: &str| json!({ "images": [image(1, "a")], "categories": categories(&[(id, name)]), "annotations": [mark(1, id, WHOLE)] });
        let pictures = by_id(file(18, "Hund"), true).unwrap();
        assert_eq!(pictures.list[0].targets[0].class, 1);
        assert!(pictures.notes.len() == 1 && pictures.notes[0].contains("\"Hund\" for \"dog\""), "{:?}", pictures.notes);
        for asked in [false, true] {
            assert_eq!(by_id(file(18, "dog"), asked).unwrap().notes, [""; 0]);
        }
        let error = by_id(file(18, "Hund"), false).unwrap_err().to_string();
        assert!(error.contains("0.json") && error.contains("Hund") && error.contains("--classes labels"), "{error}");
        let error = by_id(file(5, "Hund"), true).unwrap_err().to_string();
        assert!(error.contains("0.json") && error.contains("Hund") && error.contains("nothing in common"), "{error}");
    }

    #[test]
    fn a_crowd_has_no_weight() {
        let mut crowd = mark(1, 18, WHOLE);
        crowd["iscrowd"] = json!(1);
        let file = json!({ "images": [image(1, "a")], "categories": categories(&[(18, "dog")]), "annotations": [crowd] });
        let pictures = open(&[file]).unwrap();
        assert_eq!((pictures.list[0].targets[0].weight, pictures.counts.ignored, pictures.counts.by_people), (0.0, 1, 0));
    }

    #[test]
    fn boxes_are_clipped_and_what_is_bad_is_named() {
        let mut flat = image(3, "c");
        flat["height"] = json!(0);
        let file = json!({
            "images": [image(1, "a"), image(2, "gone"), flat],
            "categories": categories(&[(18, "dog"), (99, "dragon")]),
            "annotations": [
                mark(1, 18, [-50.0, 25.0, 75.0, 100.0]),
                mark(1, 18, [100.0, 0.0, 10.0, 10.0]),
                mark(1, 18, [10.0, 10.0, 0.0, 10.0]),
                mark(1, 18, [10.0, 10.0, 1e308, 1e308]),
                scored(1, 18, WHOLE, 1.5),
                mark(1, 99, WHOLE),
                mark(2, 18, WHOLE),
                mark(3, 18, WHOLE),
                mark(4, 18, WHOLE),
                mark(1, 5, WHOLE),
            ],
        });
        let pictures = open(&[file]).unwrap();
        assert_eq!(pictures.list.len(), 1);
        let bounds: Vec<_> = pictures.list[0].targets.iter().map(|t| t.bounds).collect();
        assert_eq!(bounds, [[0.125, 0.75, 0.25, 0.5], [0.55, 0.6, 0.9, 0.8]]);
        assert_eq!(pictures.counts.by_people, 2);
        let problems = pictures.problems.join("\n");
        for named in [
            "1 annotation is left out: no image has its image_id (annotation 9: image_id 4, ",
            "1 annotation is left out: no category has its category_id (annotation 10: image_id 1, category_id 5, ",
            "1 annotation is left out: its bbox has no area (annotation 3",
            "2 images are left out: not there, or not to be read (the first: ",
            "gone: there is no such image",
            "1 box is left out: it has no area within its image (a of 100×50 pixels: dog [100.0, 0.0, 10.0, 10.0])",
            "1 box is left out: its score isn't from 0 to 1 (a of 100×50 pixels: dog [0.0, 0.0, 100.0, 50.0], score 1.5)",
        ] {
            assert!(problems.contains(named), "{named:?} is not in\n{problems}");
        }
        assert_eq!(pictures.problems.len(), 6, "{problems}");
        assert!(
            pictures.notes.iter().any(|note| note.ends_with("the model has no class \"dragon\" (1 box): they are left out")),
            "{:?}",
            pictures.notes
        );
    }

    #[test]
    fn without_any_picture_there_is_nothing_to_learn_from() {
        let file = json!({ "images": [image(1, "gone")], "categories": [], "annotations": [] });
        let error = open(&[file]).unwrap_err().to_string();
        assert!(error.contains("none of the 1 pictures"), "{error}");
    }
}
