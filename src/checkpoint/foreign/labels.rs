//! The labels of a foreign checkpoint's classes, which come as names.

use crate::config::Label;
use crate::labels::COCO;

/// Labels of these names. Where all of them are COCO's they get COCO's ids, else each its position.
pub fn from_names(names: Vec<String>) -> Vec<Label> {
    let id = |name: &str| COCO.iter().find(|(_, coco)| *coco == name).map(|(id, _)| *id);
    let positions = 0..names.len() as u32;
    let coco: Option<Vec<u32>> =
        names.iter().zip(positions.clone()).map(|(name, place)| if name == Label::GAP { Some(place) } else { id(name) }).collect();
    let ids = coco.unwrap_or_else(|| positions.collect());
    ids.into_iter().zip(names).map(|(id, name)| Label { id, name }).collect()
}

/// Whether these are the names that a config gets when nobody named its classes.
pub fn are_placeholders(names: &[String]) -> bool {
    names.iter().enumerate().all(|(i, name)| *name == format!("LABEL_{i}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_cocos_only_where_all_names_are() {
        let ids = |names: &[&str]| from_names(names.iter().map(|n| n.to_string()).collect()).iter().map(|l| l.id).collect::<Vec<_>>();
        assert_eq!(ids(&["dog", "cat"]), [18, 17]);
        assert_eq!(ids(&["N/A", "cat"]), [0, 17]);
        assert_eq!(ids(&["dog", "unicorn"]), [0, 1]);
    }
}
