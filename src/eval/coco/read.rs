//! Reads COCO's annotation files as tools write them, liberally: one odd field doesn't make a file useless.
//!
//! What pycocotools reads has the same meaning here. What it stumbles over (a box that is null, a missing `iscrowd`, ids of two kinds) is
//! understood where only one thing can be meant, and else left out, counted and named. Contradictions are errors.

use super::dataset::{Annotation, Category, Dataset, Image};
use super::id::{Id, Ids};
use super::json::{self, invalid, number};
use super::outline::extent;
use super::tally::Tally;
use crate::error::Result;
use serde_json::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::path::Path;

/// Reads a file.
pub fn open(path: &Path) -> Result<Dataset> {
    parse(&json::read(path)?).map_err(|problem| invalid(path, &problem))
}

/// Of a text in UTF-8.
pub fn parse(text: &[u8]) -> Result<Dataset, String> {
    const WHAT: &str = "these aren't COCO annotations (an object with images, annotations, categories)";
    let (mut images, mut annotations, mut categories) = (Vec::new(), Vec::new(), Vec::new());
    let lists = json::lists_of_object(text, &["images", "annotations", "categories"], |list, value| match list {
        "images" => images.push(ImageEntry::of(&value)),
        "annotations" => annotations.push(AnnotationEntry::of(&value)),
        _ => categories.push(CategoryEntry::of(&value)),
    });
    if !lists.map_err(|error| format!("{WHAT}: {error}"))?.contains(&"images") {
        return Err(format!("{WHAT}: there is no list of images"));
    }
    let (mut left_out, mut notes) = (Tally::default(), Vec::new());
    let images = unique_images(images, &mut left_out, &mut notes)?;
    let image_ids: Ids = images.iter().map(|image| &image.id).zip(0..).collect();
    let (categories, category_ids) = unique_categories(categories, &mut left_out, &mut notes)?;
    let annotations = usable_annotations(annotations, &image_ids, &category_ids, &mut left_out, &mut notes);
    Ok(Dataset { images, categories, annotations, problems: left_out.left_out(), notes, image_ids, category_ids })
}

/// An entry of `images`.
struct ImageEntry {
    id: Option<Id>,
    file_name: Option<String>,
    size: [Option<f64>; 2],
}

impl ImageEntry {
    /// What is no object has nothing.
    fn of(value: &Value) -> Self {
        let size = ["width", "height"].map(|side| value.get(side).and_then(number));
        Self { id: value.get("id").and_then(json::id), file_name: value.get("file_name").and_then(json::text), size }
    }
}

/// The longest side that an image may be said to have: beyond it, nothing is.
const MAX_SIDE: f64 = 1e6;

/// In the order of their ids. The same entry twice is one; contradictory ones are an error.
fn unique_images(all: Vec<ImageEntry>, left_out: &mut Tally, notes: &mut Vec<String>) -> Result<Vec<Image>, String> {
    let mut images: Vec<Image> = Vec::with_capacity(all.len());
    let mut places: HashMap<Id, usize> = HashMap::with_capacity(all.len());
    let mut twice = 0;
    for (i, ImageEntry { id, file_name, size }) in all.into_iter().enumerate() {
        let file_name = file_name.unwrap_or_default();
        let Some(id) = id else {
            left_out.add("image", "its entry has no id", || format!("entry {} of images, {file_name:?}", i + 1));
            continue;
        };
        let size = match size {
            [Some(width), Some(height)] if [width, height].iter().all(|side| (1.0..=MAX_SIDE).contains(side)) => Some([width, height]),
            _ => None,
        };
        let absent = file_name.is_empty().then(|| format!("image {id} has no file_name"));
        match places.entry(id) {
            Slot::Vacant(vacant) => {
                let id = vacant.key().clone();
                vacant.insert(images.len());
                images.push(Image { id, file_name, size, absent });
            }
            Slot::Occupied(place) => {
                let first = &mut images[*place.get()];
                let sizes = (first.size, size);
                if first.file_name != file_name || matches!(sizes, (Some(one), Some(other)) if one != other) {
                    let shown = |name: &str, size: Option<[f64; 2]>| match size {
                        Some([width, height]) => format!("{name:?} of {width}×{height} pixels"),
                        None => format!("{name:?}"),
                    };
                    let [one, other] = [shown(&first.file_name, first.size), shown(&file_name, size)];
                    return Err(format!("two entries of images have the id {} and contradict each other: {one} and {other}", place.key()));
                }
                first.size = first.size.or(size);
                twice += 1;
            }
        }
    }
    let unstated = images.iter().filter(|image| image.size.is_none()).count();
    if twice > 0 {
        let entries =
            if twice == 1 { "1 entry is the same twice in images and is" } else { &format!("{twice} entries are the same twice in images and are") };
        notes.push(format!("{entries} taken once"));
    }
    if unstated > 0 {
        notes.push(format!("{unstated} of {} images have no width and height: taken from their files", images.len()));
    }
    images.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(images)
}

/// An entry of `categories`.
struct CategoryEntry {
    id: Option<Id>,
    name: Option<String>,
}

impl CategoryEntry {
    fn of(value: &Value) -> Self {
        Self { id: value.get("id").and_then(json::id), name: value.get("name").and_then(json::text) }
    }
}

/// In the order of their ids. Those of one name are one; two names for one id are an error.
fn unique_categories(all: Vec<CategoryEntry>, left_out: &mut Tally, notes: &mut Vec<String>) -> Result<(Vec<Category>, Ids), String> {
    let mut given: Vec<Category> = Vec::with_capacity(all.len());
    for (i, CategoryEntry { id, name }) in all.into_iter().enumerate() {
        let Some(id) = id else {
            left_out.add("category", "it has no id", || format!("entry {} of categories, {:?}", i + 1, name.unwrap_or_default()));
            continue;
        };
        let name = name.filter(|name| !name.is_empty()).unwrap_or_else(|| {
            let name = format!("category {}", id.to_string().trim_matches('"'));
            notes.push(format!("category {id} has no name: it is called {name:?}"));
            name
        });
        given.push(Category { id, name });
    }
    given.sort_by(|a, b| a.id.cmp(&b.id));
    for pair in given.windows(2) {
        if pair[0].id == pair[1].id && pair[0].name != pair[1].name {
            return Err(format!("category {} has two names: {:?} and {:?}", pair[0].id, pair[0].name, pair[1].name));
        }
    }
    given.dedup_by(|a, b| a.id == b.id);
    let mut categories: Vec<Category> = Vec::with_capacity(given.len());
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut ids = Vec::with_capacity(given.len());
    for category in &given {
        let place = *places.entry(&category.name).or_insert(categories.len());
        match categories.get(place) {
            Some(first) => notes.push(format!("categories {} and {} are both called {:?}: taken for one", first.id, category.id, category.name)),
            None => categories.push(category.clone()),
        }
        ids.push((&category.id, place));
    }
    let ids = ids.into_iter().collect();
    Ok((categories, ids))
}

/// An entry of `annotations`, or of a list of detections.
pub(super) struct AnnotationEntry {
    id: Option<Id>,
    pub image_id: Option<Id>,
    pub category_id: Option<Id>,
    /// And the area of the outline, where it has one and it is needed; or why there is no box.
    pub bbox: Result<([f64; 4], Option<f64>), NoBox>,
    area: Option<f64>,
    crowd: bool,
    pub score: Option<f64>,
}

/// Why an entry has no box, and what it has in its place.
#[derive(Clone)]
pub(super) struct NoBox {
    problem: &'static str,
    shown: String,
}

impl From<NoBox> for &'static str {
    fn from(none: NoBox) -> Self {
        none.problem
    }
}

impl AnnotationEntry {
    pub fn of(value: &Value) -> Self {
        let area = value.get("area").and_then(number).filter(|area| area.is_finite());
        let id = |key: &str| value.get(key).and_then(json::id);
        Self {
            id: id("id"),
            image_id: id("image_id"),
            category_id: id("category_id"),
            bbox: bbox(value, area.is_none()).map_err(|problem| NoBox { problem, shown: shown(value.get("bbox")) }),
            area,
            // As Python takes a value for true; NaN is nothing that anybody means.
            crowd: value.get("iscrowd").and_then(number).is_some_and(|crowd| crowd != 0.0 && !crowd.is_nan()),
            score: value.get("score").and_then(number),
        }
    }

    /// What tells it from others, to be put behind its number.
    pub fn named(&self) -> String {
        let id = |id: &Option<Id>| id.as_ref().map_or("none".into(), Id::to_string);
        let own = self.id.as_ref().map(|id| format!(" (id {id})")).unwrap_or_default();
        let bbox = match &self.bbox {
            Ok((bbox, _)) => format!("{bbox:?}"),
            Err(none) => none.shown.clone(),
        };
        format!("{own}: image_id {}, category_id {}, bbox {bbox}", id(&self.image_id), id(&self.category_id))
    }
}

/// The beginning of a value.
fn shown(value: Option<&Value>) -> String {
    const LENGTH: usize = 60;
    let text = value.map_or("none".into(), Value::to_string);
    if text.chars().count() > LENGTH { text.chars().take(LENGTH).chain("…".chars()).collect() } else { text }
}

/// An entry's box, and the area of its outline where it has one and `measured` asks for it.
fn bbox(entry: &Value, measured: bool) -> Result<([f64; 4], Option<f64>), &'static str> {
    const ODD: &str = "its bbox isn't four numbers (left, top, width, height)";
    let outline = || entry.get("segmentation").map_or(Ok(None), extent);
    let numbers = match entry.get("bbox") {
        None | Some(Value::Null) => None,
        Some(Value::Array(numbers)) if numbers.is_empty() => None,
        Some(Value::Array(numbers)) => Some(numbers.iter().map(number).collect::<Option<Vec<f64>>>().ok_or(ODD)?),
        Some(_) => return Err(ODD),
    };
    let Some(numbers) = numbers else {
        let outline = outline()?.ok_or("it has neither a bbox nor an outline")?;
        return Ok((outline.bbox, Some(outline.area)));
    };
    let bbox = <[f64; 4]>::try_from(numbers).map_err(|_| ODD)?;
    if !bbox.iter().all(|x| x.is_finite()) {
        return Err("its bbox isn't finite");
    }
    // A broken outline doesn't matter where it isn't needed.
    let area = if measured { outline().ok().flatten().map(|outline| outline.area) } else { None };
    Ok((bbox, area))
}

fn usable_annotations(all: Vec<AnnotationEntry>, images: &Ids, categories: &Ids, left_out: &mut Tally, notes: &mut Vec<String>) -> Vec<Annotation> {
    let mut kept = Vec::with_capacity(all.len());
    // A number for each id that annotations share.
    let mut ids: HashMap<&Id, (usize, u32)> = HashMap::with_capacity(all.len());
    for entry in &all {
        if let Some(id) = &entry.id {
            let next = ids.len() as u32 + 1;
            ids.entry(id).or_insert((0, next)).0 += 1;
        }
    }
    let (mut spelt, mut shared, mut zero) = (0, 0, false);
    for (i, entry) in all.iter().enumerate() {
        match annotation(entry, images, categories) {
            Ok(mut annotation) => {
                spelt += usize::from(
                    [(&entry.image_id, images), (&entry.category_id, categories)]
                        .into_iter()
                        .any(|(id, ids)| id.as_ref().is_some_and(|id| !ids.has_exactly(id))),
                );
                let count = entry.id.as_ref().and_then(|id| ids.get(id)).copied();
                if entry.id == Some(Id::Number(0)) {
                    (annotation.id, zero) = (Some(0), true);
                } else if let Some((2.., number)) = count {
                    annotation.id = Some(number);
                }
                shared += usize::from(matches!(count, Some((2.., _))));
                kept.push(annotation);
            }
            Err(problem) => left_out.add("annotation", problem, || format!("annotation {}{}", i + 1, entry.named())),
        }
    }
    if spelt > 0 {
        let annotations = if spelt == 1 { "annotation writes" } else { "annotations write" };
        notes.push(format!("{spelt} {annotations} an id otherwise than its image or category does (\"7\" and 7): taken for the same"));
    }
    if shared > 0 {
        notes.push(format!(
            "{shared} annotations share their ids with others: AP is pycocotools', for which the last of each id stands for all; give each its own"
        ));
    }
    if zero {
        notes.push("an annotation has the id 0: AP is pycocotools', which takes a match with it for none; number them from 1".into());
    }
    kept
}

fn annotation(entry: &AnnotationEntry, images: &Ids, categories: &Ids) -> Result<Annotation, &'static str> {
    let image = entry.image_id.as_ref().and_then(|id| images.place(id)).ok_or("no image has its image_id")?;
    let category = entry.category_id.as_ref().and_then(|id| categories.place(id)).ok_or("no category has its category_id")?;
    let (bbox, area) = entry.bbox.clone()?;
    if bbox[2] <= 0.0 || bbox[3] <= 0.0 {
        return Err("its bbox has no area");
    }
    let area = entry.area.or(area).unwrap_or(bbox[2] * bbox[3]);
    Ok(Annotation { image, category, bbox, area, crowd: entry.crowd, score: entry.score, id: None })
}
