//! What class logits stand for: COCO's names and numbers, or whatever the file says.

use crate::config::Label;

/// COCO's numbers and names; the numbers have gaps.
#[rustfmt::skip]
const COCO: [(u32, &str); 80] = [
    (1, "person"), (2, "bicycle"), (3, "car"), (4, "motorcycle"), (5, "airplane"), (6, "bus"), (7, "train"), (8, "truck"), (9, "boat"),
    (10, "traffic light"), (11, "fire hydrant"), (13, "stop sign"), (14, "parking meter"), (15, "bench"), (16, "bird"), (17, "cat"),
    (18, "dog"), (19, "horse"), (20, "sheep"), (21, "cow"), (22, "elephant"), (23, "bear"), (24, "zebra"), (25, "giraffe"),
    (27, "backpack"), (28, "umbrella"), (31, "handbag"), (32, "tie"), (33, "suitcase"), (34, "frisbee"), (35, "skis"), (36, "snowboard"),
    (37, "sports ball"), (38, "kite"), (39, "baseball bat"), (40, "baseball glove"), (41, "skateboard"), (42, "surfboard"),
    (43, "tennis racket"), (44, "bottle"), (46, "wine glass"), (47, "cup"), (48, "fork"), (49, "knife"), (50, "spoon"), (51, "bowl"),
    (52, "banana"), (53, "apple"), (54, "sandwich"), (55, "orange"), (56, "broccoli"), (57, "carrot"), (58, "hot dog"), (59, "pizza"),
    (60, "donut"), (61, "cake"), (62, "chair"), (63, "couch"), (64, "potted plant"), (65, "bed"), (67, "dining table"), (70, "toilet"),
    (72, "tv"), (73, "laptop"), (74, "mouse"), (75, "remote"), (76, "keyboard"), (77, "cell phone"), (78, "microwave"), (79, "oven"),
    (80, "toaster"), (81, "sink"), (82, "refrigerator"), (84, "book"), (85, "clock"), (86, "vase"), (87, "scissors"), (88, "teddy bear"),
    (89, "hair drier"), (90, "toothbrush"),
];

impl Label {
    /// The name of a class that exists only so that COCO's numbers fit.
    pub const GAP: &str = "N/A";

    pub fn is_gap(&self) -> bool {
        self.name == Self::GAP
    }

    /// DETR's 91 classes: their logits are numbered as COCO's ids, gaps included.
    pub fn coco91() -> Vec<Label> {
        let name = |id| COCO.iter().find(|(number, _)| *number == id).map_or(Label::GAP, |(_, name)| name);
        (0..91).map(|id| Label { id, name: name(id).into() }).collect()
    }
}

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
    fn coco_has_gaps() {
        let labels = Label::coco91();
        assert_eq!((labels.len(), labels[17].name.as_str(), labels[12].is_gap(), labels[90].name.as_str()), (91, "cat", true, "toothbrush"));
        assert_eq!(labels.iter().filter(|l| !l.is_gap()).count(), 80);
    }

    #[test]
    fn ids_are_cocos_only_where_all_names_are() {
        let ids = |names: &[&str]| from_names(names.iter().map(|n| n.to_string()).collect()).iter().map(|l| l.id).collect::<Vec<_>>();
        assert_eq!(ids(&["dog", "cat"]), [18, 17]);
        assert_eq!(ids(&["N/A", "cat"]), [0, 17]);
        assert_eq!(ids(&["dog", "unicorn"]), [0, 1]);
    }
}
