//! What was wrong in a file: counted by kind, with the first of each kind named. A file of a million boxes may have the same flaw in all.

use std::collections::HashMap;

#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// In the order in which they were met.
    kinds: Vec<Kind>,
    places: HashMap<(&'static str, &'static str), usize>,
}

#[derive(Clone, Debug)]
struct Kind {
    what: &'static str,
    problem: &'static str,
    count: usize,
    first: String,
}

impl Tally {
    /// Counts one of `what` (as `annotation`) that has a problem; `named` says which it is.
    pub fn add(&mut self, what: &'static str, problem: &'static str, named: impl FnOnce() -> String) {
        match self.places.get(&(what, problem)) {
            Some(&place) => self.kinds[place].count += 1,
            None => {
                self.places.insert((what, problem), self.kinds.len());
                self.kinds.push(Kind { what, problem, count: 1, first: named() });
            }
        }
    }

    /// A sentence for each kind: `3 annotations are left out: the bbox has no area (the first: annotation 4, bbox [1, 2, 0, 5])`.
    pub fn left_out(&self) -> Vec<String> {
        let sentence = |Kind { what, problem, count, first }: &Kind| match count {
            1 => format!("1 {what} is left out: {problem} ({first})"),
            count => format!("{count} {} are left out: {problem} (the first: {first})", plural(what)),
        };
        self.kinds.iter().map(sentence).collect()
    }

    /// How many were counted.
    pub fn total(&self) -> usize {
        self.kinds.iter().map(|kind| kind.count).sum()
    }
}

fn plural(what: &str) -> String {
    match what.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None if what.ends_with('x') => format!("{what}es"),
        None => format!("{what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_and_named_once() {
        let mut tally = Tally::default();
        for i in 1..=3 {
            tally.add("annotation", "the bbox has no area", || format!("annotation {i}"));
        }
        tally.add("image", "it has no id", || "image 2".into());
        assert_eq!(
            tally.left_out(),
            ["3 annotations are left out: the bbox has no area (the first: annotation 1)", "1 image is left out: it has no id (image 2)"]
        );
        assert_eq!(tally.total(), 4);
        assert_eq!(["box", "category", "image"].map(plural), ["boxes", "categories", "images"]);
    }
}
