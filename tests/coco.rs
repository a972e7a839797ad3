//! The COCO metrics against pycocotools (`make_coco_fixture.py` and `make_coco_odd_fixture.py` made the numbers).

use detrim::eval::coco::bootstrap;
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::coco::detections::{Scored, read_detections};
use detrim::eval::coco::id::Id;
use detrim::eval::coco::metrics::Evaluation;
use detrim::eval::coco::read::parse;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

struct Fixture {
    truth: PathBuf,
    detections: Vec<Scored>,
    metrics: Vec<f64>,
    category_ap: Vec<Option<f64>>,
    _folder: tempfile::TempDir,
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/coco_metrics.json");
    let all: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let truth = folder.path().join("truth.json");
    std::fs::write(&truth, all["truth"].to_string()).unwrap();
    let list = |name: &str| all[name].clone();
    Fixture {
        truth,
        detections: serde_json::from_value(list("detections")).unwrap(),
        metrics: serde_json::from_value(list("metrics")).unwrap(),
        category_ap: serde_json::from_value(list("category_ap")).unwrap(),
        _folder: folder,
    }
}

#[test]
fn all_twelve_metrics_equal_pycocotools() {
    let fixture = fixture();
    let dataset = Dataset::open(&fixture.truth).unwrap();
    let evaluation = Evaluation::new(&dataset, &fixture.detections);
    for ((name, ours), theirs) in evaluation.metrics().named().into_iter().zip(&fixture.metrics) {
        let ours = ours.unwrap_or(-1.0);
        assert!((ours - theirs).abs() < 1e-6, "{name}: {ours} instead of {theirs}");
    }
    for (category, theirs) in fixture.category_ap.iter().enumerate() {
        let (ours, _) = evaluation.category(category);
        assert_eq!(ours.is_some(), theirs.is_some(), "category {category}");
        assert!((ours.unwrap_or(0.0) - theirs.unwrap_or(0.0)).abs() < 1e-6, "category {category}: {ours:?} instead of {theirs:?}");
    }
}

#[test]
fn the_interval_holds_the_measured_value_and_a_detector_does_not_differ_from_itself() {
    let fixture = fixture();
    let dataset = Dataset::open(&fixture.truth).unwrap();
    let evaluation = Evaluation::new(&dataset, &fixture.detections);
    let pictures = dataset.images.len();
    let ap = evaluation.metrics().ap.unwrap();
    assert_eq!(evaluation.weighted(&vec![1; pictures]).0, ap);
    let interval = bootstrap::interval(&evaluation, pictures, 200, 1).ap;
    assert!(interval.low < ap && ap < interval.high, "{ap} is outside {interval:?}");

    let same = bootstrap::paired(&evaluation, &evaluation, pictures, 50, 1).ap;
    assert_eq!((same.low, same.high), (0.0, 0.0));
    let half: Vec<Scored> = fixture.detections.iter().step_by(2).cloned().collect();
    let worse = bootstrap::paired(&Evaluation::new(&dataset, &half), &evaluation, pictures, 200, 1).ap;
    assert!(worse.high < 0.0, "dropping every second detection must cost: {worse:?}");
}

fn odd() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/coco_odd.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn files_that_tools_write_otherwise_are_measured_as_pycocotools_does() {
    let all = odd();
    let cases = all["cases"].as_array().unwrap();
    assert!(cases.len() > 20);
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let dataset = parse(case["truth"].as_str().unwrap().as_bytes()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let detections = case["detections"].as_str().or(all["detections"].as_str()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("found.json");
        std::fs::write(&path, detections).unwrap();
        let (detections, problems) = read_detections(&path).unwrap();
        assert!(problems.is_empty(), "{name}: {problems:?}");
        let evaluation = Evaluation::new(&dataset, &detections);
        let theirs: Vec<f64> = serde_json::from_value(case["metrics"].clone()).unwrap();
        for ((metric, ours), theirs) in evaluation.metrics().named().into_iter().zip(theirs) {
            let ours = ours.unwrap_or(-1.0);
            assert!((ours - theirs).abs() < 1e-6, "{name}, {metric}: {ours} instead of {theirs}");
        }
    }
}

/// By way of annotations that have nothing but an outline.
#[test]
fn run_length_encodings_are_decoded_as_pycocotools_does() {
    for code in odd()["codes"].as_array().unwrap() {
        let text = code["text"].as_str().unwrap();
        let file = format!(
            r#"{{"images": [{{"id": 1}}], "categories": [{{"id": 1}}], "annotations": [{{"image_id": 1, "category_id": 1, "segmentation": {text}}}]}}"#
        );
        let dataset = parse(file.as_bytes()).unwrap();
        assert_eq!(dataset.annotations.len(), 1, "{text}: {:?}", dataset.problems);
        assert_eq!(json!(dataset.annotations[0].bbox), code["bbox"], "{text}");
        assert_eq!(json!(dataset.annotations[0].area), code["area"], "{text}");
    }
}

#[test]
fn bad_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.json");
    let error = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Dataset::open(&path).unwrap_err().to_string()
    };
    for text in ["{", "[]", "{}", "", "null", r#"{"images": 5}"#, r#"{"images": [], "annotations": [}"#, r#"{"images": []} x"#, "[{\"image_id\": 1}]"]
    {
        let error = error(text);
        assert!(error.contains("odd.json") && error.contains("COCO annotations"), "{text}: {error}");
    }
    // Deeper than any stack.
    assert!(error(&("{\"info\":".repeat(300_000) + "1")).contains("odd.json"));
    assert!(error(&format!("{{\"images\": [{{\"id\": {}1", "[".repeat(300_000))).contains("odd.json"));
    assert!(Dataset::open(&folder.path().join("none.json")).unwrap_err().to_string().contains("none.json"));

    let image = |name: &str, width: u32| format!(r#"{{"id": 1, "file_name": "{name}", "width": {width}, "height": 9}}"#);
    for other in [image("b.png", 9), image("a.png", 8)] {
        let error = error(&format!(r#"{{"images": [{}, {other}]}}"#, image("a.png", 9)));
        assert!(error.contains("the id 1") && error.contains("\"a.png\" of 9×9") && error.contains("contradict"), "{error}");
    }
    let error = error(r#"{"images": [], "categories": [{"id": 1, "name": "cat"}, {"id": 1.0, "name": "dog"}]}"#);
    assert!(error.contains("category 1 has two names: \"cat\" and \"dog\""), "{error}");
}

#[test]
fn what_is_left_out_is_counted_and_named_once() {
    let image = r#"{"id": 1, "file_name": "a.png", "width": 9, "height": 9}"#;
    let boxes = r#"{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}, {"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]},
                   {"image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5]}, {"image_id": 1, "category_id": 1, "bbox": [0, 0, -5, 5]},
                   {"image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 5], "id": 77}, {"image_id": 1, "category_id": 1}, null, 5, [],
                   {"image_id": 1, "category_id": 1, "bbox": {"x": 1}}, {"image_id": 1, "category_id": 1, "bbox": [1, 2, NaN, 4]},
                   {"image_id": 1, "category_id": 1, "segmentation": {"counts": "abc", "size": [9, 9]}}"#;
    let text = format!(r#"{{"images": [{image}, {{"file_name": "b.png"}}], "annotations": [{boxes}], "categories": [{{"id": 1, "name": "x"}}]}}"#);
    let dataset = parse(text.as_bytes()).unwrap();
    assert_eq!((dataset.images.len(), dataset.annotations.len()), (1, 1));
    let problems = dataset.problems.join("\n");
    for expected in [
        "1 image is left out: its entry has no id (entry 2 of images, \"b.png\")",
        "4 annotations are left out: no image has its image_id (the first: annotation 3: image_id 3, ",
        "1 annotation is left out: no category has its category_id (annotation 2",
        "2 annotations are left out: its bbox has no area (the first: annotation 4: image_id 1, category_id 1, bbox [0.0, 0.0, -5.0, 5.0])",
        "1 annotation is left out: it has neither a bbox nor an outline (annotation 6",
        "1 annotation is left out: its bbox isn't four numbers (left, top, width, height) (annotation 10",
        "1 annotation is left out: its bbox isn't finite (annotation 11",
        "1 annotation is left out: its segmentation's run-length encoding is broken (annotation 12",
    ] {
        assert!(problems.contains(expected), "{expected:?} is not in\n{problems}");
    }
    assert_eq!(dataset.problems.len(), 8, "{problems}");
}

#[test]
fn what_is_assumed_is_said() {
    let text = r#"{"images": [{"id": 1, "file_name": "a", "width": -1, "height": -1}, {"id": 1, "file_name": "a", "width": 40, "height": 30},
                              {"id": "2", "file_name": "b", "width": null}, {"id": 3, "file_name": "c", "width": 0, "height": NaN}, {"id": 4}],
                   "categories": [{"id": 9, "name": "cat"}, {"id": 4, "name": "dog"}, {"id": 5, "name": "cat"}, {"id": 6}, {"id": 7, "name": 12}],
                   "annotations": [{"id": 0, "image_id": 2, "category_id": "9", "bbox": ["1", 2, 3, 4]}, {"id": 8, "image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4]},
                                   {"id": 8, "image_id": 1, "category_id": 7, "bbox": null, "segmentation": [[1, 2, 5, 2, 5, 6]]}]}"#;
    let dataset = parse(text.as_bytes()).unwrap();
    assert_eq!(dataset.problems, [""; 0]);
    let sizes: Vec<_> = dataset.images.iter().map(|image| image.size).collect();
    assert_eq!(sizes, [Some([40.0, 30.0]), None, None, None]);
    let names: Vec<&str> = dataset.categories.iter().map(|category| &*category.name).collect();
    assert_eq!(names, ["dog", "cat", "category 6", "12"]);
    let categories: Vec<usize> = dataset.annotations.iter().map(|annotation| annotation.category).collect();
    assert_eq!(categories, [1, 1, 3]);
    assert_eq!((dataset.annotations[2].bbox, dataset.annotations[2].area), ([1.0, 2.0, 4.0, 4.0], 8.0));
    assert_eq!(dataset.annotations[0].image, 3);
    let notes = dataset.notes.join("\n");
    for expected in [
        "1 entry is the same twice in images and is taken once",
        "3 of 4 images have no width and height",
        "categories 5 and 9 are both called \"cat\": taken for one",
        "category 6 has no name",
        "1 annotation writes an id otherwise",
        "2 annotations share their ids",
        "an annotation has the id 0",
    ] {
        assert!(notes.contains(expected), "{expected:?} is not in\n{notes}");
    }
    assert_eq!(dataset.images[3].absent, None);
    assert_eq!(dataset.images[2].absent.as_deref(), Some("image 4 has no file_name"));
}

#[test]
fn a_result_file_with_odd_entries_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("found.json");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_detections(&path).map_err(|error| error.to_string())
    };
    let (found, problems) = read(
        r#" [{"image_id": "a.jpg", "category_id": 1.0, "bbox": [0, 0, 1, 1], "score": 0.5}, {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]},
             {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, NaN], "score": 1}, {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": NaN},
             {"image_id": 1, "bbox": [0, 0, 1, 1], "score": 1}, {"image_id": 2, "category_id": 1, "bbox": [0, 0, 0, -1], "score": 1},
             {"image_id": 2, "category_id": 1, "score": 1, "segmentation": {"size": [2, 3], "counts": [2, 2, 2]}}]"#,
    )
    .unwrap();
    assert_eq!(found[0], Scored { image_id: Id::Text("a.jpg".into()), category_id: Id::Number(1), bbox: [0.0, 0.0, 1.0, 1.0], score: 0.5 });
    assert_eq!(found.iter().map(|found| found.bbox).collect::<Vec<_>>(), [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, -1.0], [1.0, 0.0, 1.0, 2.0]]);
    let problems = problems.join("\n");
    for expected in [
        "it has no score (detection 2",
        "its bbox isn't finite (detection 3",
        "the score isn't finite (detection 4",
        "it has no category_id (detection 5",
    ] {
        assert!(problems.contains(expected), "{expected:?} is not in\n{problems}");
    }
    assert_eq!(read("[]").unwrap(), (vec![], vec![]));
    let error = read(r#"[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]"#).unwrap_err();
    assert!(error.contains("COCO detections") && error.contains("it has no score"), "{error}");
    for text in ["{}", "[{]", "[{}]"] {
        let error = read(text).unwrap_err();
        assert!(error.contains("found.json") && error.contains("COCO detections"), "{error}");
    }
}

#[test]
fn the_command_measures_saved_detections_and_writes_its_reports() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("found.json"), serde_json::to_vec(&fixture.detections).unwrap()).unwrap();
    std::fs::write(file("half.json"), serde_json::to_vec(&fixture.detections.iter().step_by(2).collect::<Vec<_>>()).unwrap()).unwrap();
    let elsewhere = |found: &Scored| Scored { image_id: Id::Text(format!("{}000000", found.image_id).into()), ..found.clone() };
    let strange: Vec<Scored> = fixture.detections.iter().map(elsewhere).collect();
    std::fs::write(file("strange.json"), serde_json::to_vec(&strange).unwrap()).unwrap();
    std::fs::write(file("mixed.json"), serde_json::to_vec(&[&fixture.detections[..], &strange[..2]].concat()).unwrap()).unwrap();
    let detrim = |detections: &str, against: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_detrim"))
            .args(["eval", "--resamples", "50", "--annotations"])
            .arg(&fixture.truth)
            .args(["--detections", detections, "--against", against, "--json", "report.json", "--plot", "plot.svg"])
            .current_dir(folder.path())
            .output()
            .unwrap()
    };
    let run = detrim("mixed.json", "half.json");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let told = String::from_utf8(run.stderr).unwrap();
    assert!(told.contains("mixed.json: 2 detections are left out: no image has its image_id (the first: detection "), "{told}");
    let said = String::from_utf8(run.stdout).unwrap();
    assert!(said.contains("AP50") && said.contains("class 3") && said.contains("against half.json"), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file("report.json")).unwrap()).unwrap();
    assert!((report["metrics"]["ap"].as_f64().unwrap() - fixture.metrics[0]).abs() < 1e-6);
    assert!(std::fs::read_to_string(file("plot.svg")).unwrap().contains("recall"));

    for (detections, against, expected) in [("none.json", "half.json", "none.json"), ("found.json", "strange.json", "strange.json: all detections")] {
        let refused = detrim(detections, against);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(expected));
    }
    let none = std::process::Command::new(env!("CARGO_BIN_EXE_detrim"))
        .args(["eval", "--resamples", "0", "--annotations"])
        .arg(&fixture.truth)
        .args(["--detections", "found.json"])
        .output()
        .unwrap();
    assert!(none.status.code() == Some(2) && String::from_utf8_lossy(&none.stderr).contains("above 0"));
}

#[test]
fn the_command_ends_quietly_when_nobody_reads_on() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let found = folder.path().join("found.json");
    std::fs::write(&found, serde_json::to_vec(&fixture.detections).unwrap()).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.args(["eval", "--resamples", "5", "--annotations"]).arg(&fixture.truth).arg("--detections").arg(&found);
    let run = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
