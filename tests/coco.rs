//! The COCO metrics against pycocotools (`make_coco_fixture.py` made the numbers).

use detrim::eval::coco::bootstrap;
use detrim::eval::coco::dataset::{Dataset, Scored, read_detections};
use detrim::eval::coco::metrics::Evaluation;
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

#[test]
fn bad_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd.json");
    let error = |text: &str| {
        std::fs::write(&path, text).unwrap();
        Dataset::open(&path).unwrap_err().to_string()
    };
    assert!(error("{").contains("odd.json"));
    assert!(error("[]").contains("COCO annotations"));
    assert!(Dataset::open(&folder.path().join("none.json")).unwrap_err().to_string().contains("none.json"));

    let image = r#"{"id": 1, "file_name": "a.png", "width": 9, "height": 9}"#;
    assert!(error(&format!(r#"{{"images": [{image}, {image}], "annotations": [], "categories": []}}"#)).contains("same id"));
    let boxes = r#"{"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}, {"image_id": 1, "category_id": 7, "bbox": [0, 0, 5, 5]},
                   {"image_id": 3, "category_id": 1, "bbox": [0, 0, 5, 5]}, {"image_id": 1, "category_id": 1, "bbox": [0, 0, -5, 5]}"#;
    std::fs::write(&path, format!(r#"{{"images": [{image}], "annotations": [{boxes}], "categories": [{{"id": 1, "name": "x"}}]}}"#)).unwrap();
    let dataset = Dataset::open(&path).unwrap();
    assert_eq!((dataset.annotations.len(), dataset.problems.len()), (1, 3));

    std::fs::write(&path, r#"[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}]"#).unwrap();
    assert!(read_detections(&path).unwrap_err().to_string().contains("score"));
}

#[test]
fn the_command_measures_saved_detections_and_writes_its_reports() {
    let fixture = fixture();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("found.json"), serde_json::to_vec(&fixture.detections).unwrap()).unwrap();
    std::fs::write(file("half.json"), serde_json::to_vec(&fixture.detections.iter().step_by(2).collect::<Vec<_>>()).unwrap()).unwrap();
    let elsewhere = |found: &Scored| Scored { image_id: found.image_id + 1_000_000, ..found.clone() };
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
    assert!(told.contains("mixed.json: 2 detections count for nothing") && told.contains("there is no picture 1000"), "{told}");
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
