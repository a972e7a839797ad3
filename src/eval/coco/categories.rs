//! How an annotation file's categories go with a model's classes: by their names, and where no name is the same by their ids. Ids may mean
//! other classes, so that whoever goes by them says so.

use super::dataset::{Category, Dataset};
use crate::config::Label;
use crate::error::{Error, Result};
use std::collections::HashMap;

/// So many are named where there may be thousands.
const NAMED: usize = 5;

/// How many things are meant, in words: `1 box`, `3 boxes`.
pub fn boxes(count: usize) -> String {
    if count == 1 { "1 box".into() } else { format!("{count} boxes") }
}

/// Names for people, of which the first few are enough.
pub fn list(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

/// As names are compared where they aren't the same: people write "Person" and "person ".
fn folded(name: &str) -> String {
    name.trim().to_lowercase()
}

/// What has a name of its own.
fn alone<T>(of: impl Iterator<Item = (String, T)>) -> HashMap<String, T> {
    let mut all: HashMap<String, Option<T>> = HashMap::new();
    for (name, it) in of {
        all.entry(name).and_modify(|known| *known = None).or_insert(Some(it));
    }
    all.into_iter().filter_map(|(name, it)| Some((name, it?))).collect()
}

/// The category (its place) of each of a model's classes that has one of its name; but for case and white space, where no other can be meant.
pub fn by_name(categories: &[Category], labels: &[Label]) -> Vec<Option<usize>> {
    let exact: HashMap<&str, usize> = categories.iter().enumerate().map(|(place, category)| (&*category.name, place)).collect();
    let mut named: Vec<Option<usize>> = labels.iter().map(|label| exact.get(&*label.name).copied()).collect();
    let taken: Vec<bool> = (0..categories.len()).map(|place| named.contains(&Some(place))).collect();
    if taken.iter().all(|taken| *taken) {
        return named;
    }
    let free = categories.iter().enumerate().filter(|(place, _)| !taken[*place]);
    let categories = alone(free.map(|(place, category)| (folded(&category.name), place)));
    let classes = alone(labels.iter().enumerate().filter(|(_, label)| !label.is_gap()).map(|(class, label)| (folded(&label.name), class)));
    for (name, class) in classes {
        if named[class].is_none() {
            named[class] = categories.get(&name).copied();
        }
    }
    named
}

impl Dataset {
    /// The category (its place) of each of a model's classes: by name, else by id.
    pub fn categories_of(&self, labels: &[Label]) -> Result<Vec<Option<usize>>> {
        let mapped = match self.by_name(labels) {
            named if named.iter().any(Option::is_some) => named,
            _ => labels.iter().map(|label| self.category_ids.place(&label.id.into())).collect(),
        };
        if mapped.iter().all(Option::is_none) {
            let names = |all: Vec<&str>| all.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
            let (ours, theirs) = (names(labels.iter().map(|l| &*l.name).collect()), names(self.categories.iter().map(|c| &*c.name).collect()));
            return Err(Error::Config(format!("the model's classes ({ours} …) and the annotations' categories ({theirs} …) have nothing in common")));
        }
        Ok(mapped)
    }

    /// By name alone: no class may have one.
    pub fn by_name(&self, labels: &[Label]) -> Vec<Option<usize>> {
        by_name(&self.categories, labels)
    }

    /// What people should know of how its categories go with a model's classes, a sentence each: by what they were found, if not by their
    /// names as they are, and which have boxes but no class, which are then `lost` (as "left out").
    pub fn relation(&self, labels: &[Label], categories: &[Option<usize>], lost: &str) -> Vec<String> {
        let pairs = || categories.iter().zip(labels).filter_map(|(category, label)| Some((&self.categories[(*category)?].name, &label.name)));
        let shown = |pairs: Vec<(&String, &String)>| list(pairs.into_iter().map(|(category, class)| format!("{category:?} for {class:?}")).collect());
        let mut sentences = Vec::new();
        let others: Vec<_> = pairs().filter(|(category, class)| category != class).collect();
        if !others.is_empty() {
            sentences.push(match others.iter().any(|(category, class)| folded(category) == folded(class)) {
                true => format!("names that differ in case or white space are taken for the same: {}", shown(others)),
                false => format!("no category has the name of one of the model's classes; by their ids, {}", shown(others)),
            });
        }
        let mut counts = vec![0; self.categories.len()];
        self.annotations.iter().for_each(|annotation| counts[annotation.category] += 1);
        let strange = self.categories.iter().zip(counts).enumerate().filter(|(place, (_, count))| *count > 0 && !categories.contains(&Some(*place)));
        let strange: Vec<String> = strange.map(|(_, (category, count))| format!("{:?} ({})", category.name, boxes(count))).collect();
        if !strange.is_empty() {
            sentences.push(format!("the model has no class {}: {lost}", list(strange)));
        }
        sentences
    }

    /// Says so where it has boxes, but each is a crowd, so that there is nothing to be found.
    pub fn all_crowds(&self) -> Option<String> {
        let crowds = !self.annotations.is_empty() && self.annotations.iter().all(|annotation| annotation.crowd);
        crowds.then(|| format!("all {} are crowds (iscrowd): there is nothing to find", boxes(self.annotations.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::coco::read::parse;

    fn labels(names: &[&str]) -> Vec<Label> {
        (1..).zip(names).map(|(id, name)| Label { id, name: (*name).into() }).collect()
    }

    fn dataset(categories: &[(u32, &str)], boxes: &[u32]) -> Dataset {
        let categories: Vec<_> = categories.iter().map(|(id, name)| serde_json::json!({ "id": id, "name": name })).collect();
        let boxes: Vec<_> = boxes.iter().map(|id| serde_json::json!({ "image_id": 1, "category_id": id, "bbox": [0, 0, 5, 5] })).collect();
        parse(serde_json::json!({ "images": [{ "id": 1, "file_name": "a" }], "categories": categories, "annotations": boxes }).to_string().as_bytes())
            .unwrap()
    }

    #[test]
    fn names_decide_and_ids_only_where_no_name_is_the_same() {
        let classes = labels(&["person", "dog", "chair"]);
        let some = dataset(&[(1, "dog"), (7, "Person "), (8, "tree"), (9, "wolf")], &[1, 7, 8, 8]);
        let found = some.categories_of(&classes).unwrap();
        assert_eq!(found, [Some(1), Some(0), None]);
        let told = some.relation(&classes, &found, "left out");
        assert!(
            told.len() == 2 && told[0].contains("\"Person \" for \"person\"") && told[1] == "the model has no class \"tree\" (2 boxes): left out",
            "{told:?}"
        );
        // Which of two is meant can't be told.
        assert_eq!(dataset(&[(1, "DOG"), (2, "Dog"), (3, "chair")], &[]).by_name(&classes), [None, None, Some(2)]);
        assert_eq!(dataset(&[(1, "Dog")], &[]).by_name(&labels(&["DOG", "dog"])), [None, None]);

        let ids = dataset(&[(2, "Hund"), (5, "Baum")], &[2, 5]);
        let found = ids.categories_of(&classes).unwrap();
        assert_eq!((found.clone(), ids.by_name(&classes)), (vec![None, Some(0), None], vec![None; 3]));
        let told = ids.relation(&classes, &found, "left out").join("\n");
        assert!(told.contains("by their ids, \"Hund\" for \"dog\"") && told.contains("no class \"Baum\" (1 box)"), "{told}");
        assert!(dataset(&[(50, "Baum")], &[]).categories_of(&classes).unwrap_err().to_string().contains("nothing in common"));
    }

    #[test]
    fn many_names_are_a_few() {
        assert_eq!(list((1..=7).map(|i| i.to_string()).collect()), "1, 2, 3, 4, 5 and 2 more");
        assert_eq!(list(vec!["a".into()]), "a");
    }
}
