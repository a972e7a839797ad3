//! From logits and boxes to detections, as Hugging Face's `post_process_object_detection` and DETR's `PostProcess` do it.

use crate::config::{Architecture, ClassActivation, Label};
use crate::error::{Error, Result};
use crate::model::Output;
use crate::weights::HostTensor;
use serde::Serialize;

/// One object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detection {
    /// Which of the network's queries found it.
    pub query: usize,
    /// Index into the config's labels.
    pub class: usize,
    /// The label's id in COCO's numbering.
    pub id: u32,
    pub label: String,
    pub score: f32,
    pub bounds: Bounds,
}

/// A box in pixels of the source picture, neither rounded nor clipped to the picture.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    pub xmin: f32,
    pub ymin: f32,
    pub xmax: f32,
    pub ymax: f32,
}

/// Every query whose best class reaches `threshold`, even where no-object is likelier; the best first.
pub(super) fn detections(config: &Architecture, output: &Output<HostTensor>, size: [usize; 2], threshold: f32) -> Result<Vec<Detection>> {
    let mut found = each(config, output, size, |logits| vec![best(config, logits)])?;
    found.retain(|detection| detection.score >= threshold);
    Ok(found)
}

/// The `most` best pairs of a query and a class; where classes exclude each other (softmax), only a query's best counts.
pub(super) fn ranked(config: &Architecture, output: &Output<HostTensor>, size: [usize; 2], most: usize) -> Result<Vec<Detection>> {
    let mut found = each(config, output, size, |logits| match config.class_activation() {
        ClassActivation::Softmax => vec![best(config, logits)],
        ClassActivation::Sigmoid => logits.iter().map(|&logit| sigmoid(logit)).enumerate().collect(),
    })?;
    found.truncate(most);
    Ok(found)
}

/// Detections of what `classes` says of each query's logits: classes and their scores. The best first, and none of a number that is no class.
fn each(
    config: &Architecture,
    output: &Output<HostTensor>,
    [width, height]: [usize; 2],
    classes: impl Fn(&[f32]) -> Vec<(usize, f32)>,
) -> Result<Vec<Detection>> {
    let queries = match config {
        Architecture::Detr(_) => config.queries(),
        // It selects tokens, and has no more queries than the picture has of these.
        Architecture::RtDetr(_) => output.boxes.shape.get(1).copied().unwrap_or_default().min(config.queries()),
    };
    let logits = finite("class logits", &output.logits, [1, queries, config.classes()])?;
    let boxes = finite("boxes", &output.boxes, [1, queries, 4])?;
    let mut found = Vec::new();
    for (query, (logits, place)) in logits.chunks_exact(config.classes()).zip(boxes.chunks_exact(4)).enumerate() {
        let bounds = Bounds::from_fractions([place[0], place[1], place[2], place[3]], width as f32, height as f32);
        for (class, score) in classes(logits) {
            let label = &config.labels()[class];
            if label.is_gap() {
                continue;
            }
            found.push(Detection { query, class, id: label.id, label: label.name.clone(), score, bounds });
        }
    }
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    Ok(found)
}

/// A network that overflowed must not look like one that found nothing.
fn finite<'a>(what: &str, tensor: &'a HostTensor, shape: [usize; 3]) -> Result<std::borrow::Cow<'a, [f32]>> {
    if tensor.shape != shape {
        return Err(Error::Shape { name: format!("of the network's {what}"), expected: shape.into(), found: tensor.shape.clone() });
    }
    let numbers = tensor.to_f32();
    match numbers.iter().position(|x| !x.is_finite()) {
        Some(at) => {
            let (query, value) = (at / shape[2], numbers[at]);
            Err(Error::Output(format!("{what} of query {query} are {value}: the weights are damaged or a number overflowed on the way")))
        }
        None => Ok(numbers),
    }
}

/// The likeliest class of a query and its score; the first of equals. Numbers without a class don't compete.
fn best(config: &Architecture, logits: &[f32]) -> (usize, f32) {
    let first = (0, f32::NEG_INFINITY);
    // No-object, softmax's last logit, has no label.
    let candidates = config.labels().iter().zip(logits.iter().copied()).enumerate().filter(|(_, (label, _))| !Label::is_gap(label));
    let (class, logit) = candidates.fold(first, |best, (class, (_, logit))| if logit > best.1 { (class, logit) } else { best });
    let score = match config.class_activation() {
        ClassActivation::Softmax => {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            (logit - most).exp() / logits.iter().map(|x| (x - most).exp()).sum::<f32>()
        }
        ClassActivation::Sigmoid => sigmoid(logit),
    };
    (class, score)
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl Bounds {
    /// From (centre x, centre y, width, height) in fractions of the picture.
    fn from_fractions([x, y, w, h]: [f32; 4], width: f32, height: f32) -> Self {
        Self { xmin: (x - w / 2.0) * width, ymin: (y - h / 2.0) * height, xmax: (x + w / 2.0) * width, ymax: (y + h / 2.0) * height }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Backbone, Config, Label, Pixels, ResNet};

    fn config(activation: ClassActivation, queries: usize, classes: usize, labels: usize) -> Architecture {
        let labels = (0..labels).map(|i| Label { id: 10 + i as u32, name: format!("label {i}") });
        Architecture::Detr(Config {
            backbone: Backbone::Resnet(ResNet { stem: 64, stages: Vec::new() }),
            d_model: 4,
            encoder: Vec::new(),
            decoder: Vec::new(),
            queries,
            classes,
            activation: Default::default(),
            class_activation: activation,
            query_content: false,
            box_reference: false,
            labels: labels.collect(),
            pixels: Pixels::detr(),
        })
    }

    fn output(queries: usize, logits: &[f32], boxes: &[f32]) -> Output<HostTensor> {
        let classes = logits.len() / queries;
        Output { logits: HostTensor::f32(&[1, queries, classes], logits.into()), boxes: HostTensor::f32(&[1, queries, 4], boxes.into()) }
    }

    #[test]
    fn a_box_over_the_threshold_stays_where_no_object_wins() {
        // torch.tensor([[0., 2., 3.], [1., -1., 0.]]).softmax(-1) = [[0.0351, 0.2595, 0.7054], [0.6652, 0.0900, 0.2447]]
        let config = config(ClassActivation::Softmax, 2, 3, 2);
        let output = output(2, &[0.0, 2.0, 3.0, 1.0, -1.0, 0.0], &[0.5, 0.5, 1.0, 1.0, 0.25, 0.5, 0.1, 1.2]);
        let found = detections(&config, &output, [200, 100], 0.25).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].query, found[0].class, found[0].id), (1, 0, 10));
        assert!((found[0].score - 0.665_24).abs() < 1e-4, "{}", found[0].score);
        assert_eq!(found[0].bounds, Bounds { xmin: 40.0, ymin: -10.000_002, xmax: 60.000_004, ymax: 110.0 });
        assert_eq!((found[1].query, found[1].label.as_str()), (0, "label 1"));
        assert!((found[1].score - 0.259_5).abs() < 1e-4, "{}", found[1].score);
        assert_eq!(detections(&config, &output, [200, 100], 0.26).unwrap().len(), 1);
    }

    /// A number without a name: the next best class is what the query found.
    #[test]
    fn a_gap_is_never_reported() {
        for activation in [ClassActivation::Softmax, ClassActivation::Sigmoid] {
            let logits = if activation == ClassActivation::Softmax { &[3.0, 2.0, -9.0][..] } else { &[3.0, 2.0] };
            let mut config = config(activation, 1, logits.len(), 2);
            config.labels_mut()[0].name = Label::GAP.into();
            let output = output(1, logits, &[0.5; 4]);
            for found in [detections(&config, &output, [2, 2], 0.0).unwrap(), ranked(&config, &output, [2, 2], 9).unwrap()] {
                assert_eq!(found.iter().map(|found| found.class).collect::<Vec<_>>(), [1], "{activation:?}");
            }
        }
    }

    #[test]
    fn sigmoid_has_no_class_for_no_object() {
        let config = config(ClassActivation::Sigmoid, 1, 2, 2);
        let found = detections(&config, &output(1, &[-1.0, 0.0], &[0.5; 4]), [2, 2], 0.5).unwrap();
        assert_eq!((found[0].class, found[0].score), (1, 0.5));
    }

    /// `(logits.sigmoid().flatten().topk(3))`, as `post_process_object_detection` of Deformable DETR in Hugging Face's transformers.
    #[test]
    fn with_sigmoid_a_query_may_be_ranked_as_several_classes() {
        let config = config(ClassActivation::Sigmoid, 2, 2, 2);
        let output = output(2, &[2.0, 1.0, -1.0, 0.0], &[0.5; 8]);
        let found = ranked(&config, &output, [2, 2], 3).unwrap();
        assert_eq!(found.iter().map(|found| (found.query, found.class)).collect::<Vec<_>>(), [(0, 0), (0, 1), (1, 1)]);
        assert!((found[1].score - 0.731_06).abs() < 1e-4);
    }

    #[test]
    fn with_softmax_a_query_is_ranked_as_its_best_class() {
        let config = config(ClassActivation::Softmax, 2, 3, 2);
        let output = output(2, &[0.0, 2.0, 3.0, 1.0, -1.0, 0.0], &[0.5; 8]);
        assert_eq!(ranked(&config, &output, [2, 2], 100).unwrap(), detections(&config, &output, [2, 2], 0.0).unwrap());
    }

    #[test]
    fn huge_logits_don_t_overflow() {
        let config = config(ClassActivation::Softmax, 1, 3, 2);
        let found = detections(&config, &output(1, &[1e30, -1e30, 0.0], &[0.5; 4]), [2, 2], 0.5).unwrap();
        assert_eq!((found[0].class, found[0].score), (0, 1.0));
    }

    #[test]
    fn numbers_that_are_none_are_an_error() {
        let config = config(ClassActivation::Sigmoid, 2, 2, 2);
        let (logits, boxes) = ([0.0, 1.0, 2.0, 3.0], [0.5; 8]);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bad = logits;
            bad[3] = broken;
            let error = detections(&config, &output(2, &bad, &boxes), [2, 2], 0.5).unwrap_err().to_string();
            assert!(error.contains("class logits of query 1"), "{error}");
            let mut bad = boxes;
            bad[0] = broken;
            let error = detections(&config, &output(2, &logits, &bad), [2, 2], 0.5).unwrap_err().to_string();
            assert!(error.contains("boxes of query 0"), "{error}");
        }
    }

    #[test]
    fn another_number_of_queries_is_an_error() {
        let config = config(ClassActivation::Sigmoid, 3, 2, 2);
        assert!(detections(&config, &output(2, &[0.0; 4], &[0.5; 8]), [2, 2], 0.5).is_err());
    }
}
