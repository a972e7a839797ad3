//! What the embedded model finds in the sample photos, through the library and through the command.
//!
//! `fixtures/detect/expected.json` holds the ten best queries of each, by an independent PyTorch forward pass in float32 on the weights of
//! the same file (`make_detections.py`).

use detrim::checkpoint::{self, Checkpoint, Guess};
use detrim::detector::{Bounds, Detection, Detections, Detector, Device};
use detrim::image;
use pollster::block_on;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

#[derive(Deserialize)]
struct Expected {
    width: usize,
    height: usize,
    detections: Vec<ExpectedDetection>,
}

#[derive(Deserialize)]
struct ExpectedDetection {
    query: usize,
    label: String,
    score: f32,
    #[serde(rename = "box")]
    bounds: [f32; 4],
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn sample(name: &str) -> PathBuf {
    in_repository("www/samples").join(name)
}

/// The model that `expected.json` is of.
fn model_file() -> PathBuf {
    in_repository("models/detr-lite0-base.safetensors")
}

fn model() -> Checkpoint {
    checkpoint::open(&model_file(), &Guess::default()).unwrap()
}

fn sides(bounds: Bounds) -> [f32; 4] {
    [bounds.xmin, bounds.ymin, bounds.xmax, bounds.ymax]
}

/// The largest difference of two boxes' sides.
fn apart(a: [f32; 4], b: [f32; 4]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Sums in another order: ten times what was seen, on CPU and GPU.
const SCORE: f32 = 1e-4;
const PIXELS: f32 = 0.01;

fn expected() -> BTreeMap<String, Expected> {
    let text = std::fs::read(in_repository("tests/fixtures/detect/expected.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn check_samples(detector: &mut Detector) {
    let samples = expected();
    assert_eq!(samples.len(), 4);
    let (mut score, mut pixels) = (0f32, 0f32);
    for (name, expected) in &samples {
        let picture = image::open(&sample(name)).unwrap();
        let Detections { detections, width, height, .. } = block_on(detector.detect(&picture, 0.0)).unwrap();
        assert_eq!([width, height], [expected.width, expected.height], "{name}");
        assert_eq!(detections.len(), detector.config().queries(), "{name}: every query reaches 0");
        assert!(detections.is_sorted_by(|a, b| a.score >= b.score), "{name}");
        for wanted in &expected.detections {
            let found: &Detection = detections.iter().find(|found| found.query == wanted.query).unwrap();
            assert_eq!(found.label, wanted.label, "{name}, query {}", wanted.query);
            score = score.max((found.score - wanted.score).abs());
            pixels = pixels.max(apart(sides(found.bounds), wanted.bounds));
        }
    }
    eprintln!("scores differ by {score:.5} at most, boxes by {pixels:.3} pixels");
    assert!(score < SCORE && pixels < PIXELS, "scores differ by {score}, boxes by {pixels} pixels");
}

#[test]
fn the_cpu_finds_what_pytorch_finds() {
    let mut detector = block_on(Detector::load(&model(), Device::Cpu)).unwrap();
    check_samples(&mut detector);
    let info = detector.info();
    assert_eq!((info.device, info.dispatches), (Device::Cpu, 0));
}

#[test]
fn the_gpu_finds_what_pytorch_finds() {
    let mut detector = block_on(Detector::load(&model(), Device::Gpu)).unwrap();
    check_samples(&mut detector);
    let info = detector.info();
    assert_eq!(info.device, Device::Gpu);
    assert!(info.dispatches > 0 && info.weights_bytes > 0 && info.activation_bytes > Some(0), "{info:?}");
}

/// What a visitor sees first: with its own threshold, each of the page's models finds the main thing in the samples that have one it knows well.
#[test]
fn every_embedded_model_finds_what_the_samples_show() {
    let index: Value = serde_json::from_slice(&std::fs::read(in_repository("models/index.json")).unwrap()).unwrap();
    let files: Vec<&str> = index.as_array().unwrap().iter().map(|entry| entry["file"].as_str().unwrap()).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let model = checkpoint::open_any(&in_repository("models").join(file), &Guess::default()).unwrap();
        let threshold = model.threshold();
        let mut detector = block_on(Detector::load(&model, Device::Cpu)).unwrap();
        for (name, thing) in [("chelsea.png", "cat"), ("astronaut.png", "person"), ("motorcycle_left.png", "motorcycle")] {
            let found = block_on(detector.detect(&image::open(&sample(name)).unwrap(), threshold)).unwrap().detections;
            assert_eq!(found.first().map(|best| &*best.label), Some(thing), "{file}, {name}: {found:?}");
            let Bounds { xmin, ymin, xmax, ymax } = found[0].bounds;
            assert!(xmax - xmin > 100.0 && ymax - ymin > 100.0, "{file}, {name}: {found:?}");
        }
    }
}

#[test]
fn the_cup_of_coffee_is_a_cup() {
    let model = model();
    let mut detector = block_on(Detector::load(&model, Device::Cpu)).unwrap();
    let found = block_on(detector.detect(&image::open(&sample("coffee.png")).unwrap(), model.threshold())).unwrap().detections;
    let cup = found.iter().find(|found| found.label == "cup").unwrap_or_else(|| panic!("{found:?}"));
    assert!(apart(sides(cup.bounds), [170.0, 18.0, 424.0, 310.0]) < 40.0, "around the cup: {cup:?}");
    assert!(found.iter().all(|found| found.label != "bowl"), "{found:?}");
}

#[test]
fn broken_weights_are_an_error_not_an_empty_picture() {
    let mut checkpoint = model();
    let bias = checkpoint.weights.tensors.get_mut("class_head.bias").unwrap();
    *bias = detrim::HostTensor::f32(&bias.shape.clone(), vec![f32::NAN; bias.len()]);
    let picture = image::open(&sample("chelsea.png")).unwrap();
    let mut detector = block_on(Detector::load(&checkpoint, Device::Cpu)).unwrap();
    let error = block_on(detector.detect(&picture, 0.5)).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
    assert!(block_on(detector.detect(&picture, f32::NAN)).is_err());
}

fn detrim(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_detrim")).args(arguments).current_dir(directory).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn as_text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_command_reports_draws_and_goes_on_after_a_bad_file() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir(root.join("in")).unwrap();
    std::fs::copy(sample("chelsea.png"), root.join("in/cat.png")).unwrap();
    std::fs::write(root.join("in/broken.png"), "no picture").unwrap();
    let (model, astronaut) = (model_file(), sample("astronaut.png"));
    let arguments = ["detect", "in", as_text(&astronaut), "--model", as_text(&model), "--backend", "cpu", "--json", "out.json", "--draw", "drawn"];
    let output = detrim(&arguments, root);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("broken.png") && stderr.contains("1 of 3 photos failed"), "{stderr}");
    assert!(stdout.contains("cat.png (451×300): 1 object") && stdout.contains("person"), "{stdout}");

    let records: Value = serde_json::from_slice(&std::fs::read(root.join("out.json")).unwrap()).unwrap();
    assert_eq!(records.as_array().unwrap().len(), 2);
    let cat = &records[0];
    assert_eq!((cat["file"].as_str().unwrap(), cat["width"].as_u64(), cat["height"].as_u64()), ("in/cat.png", Some(451), Some(300)));
    let found = &cat["detections"][0];
    assert_eq!((found["label"].as_str(), found["id"].as_u64()), (Some("cat"), Some(17)));
    let best = &expected()["chelsea.png"].detections[0];
    assert!((found["score"].as_f64().unwrap() - f64::from(best.score)).abs() < f64::from(SCORE), "{found}");
    assert!((found["box"]["xmax"].as_f64().unwrap() - f64::from(best.bounds[2])).abs() < f64::from(PIXELS), "{found}");
    assert!(cat["times"]["network"].as_f64().unwrap() > 0.0);

    let (before, after) = (image::open(&root.join("in/cat.png")).unwrap(), image::open(&root.join("drawn/cat.png")).unwrap());
    assert_eq!([before.width, before.height], [after.width, after.height]);
    assert_ne!(before.rgba, after.rgba, "nothing was drawn");
    assert!(root.join("drawn/astronaut.png").is_file() && !root.join("drawn/broken.png").exists());
}

#[test]
fn the_command_filters_and_prints_json() {
    let folder = tempfile::tempdir().unwrap();
    let (model, coffee) = (model_file(), sample("coffee.png"));
    let run = |more: &[&str]| detrim(&[&["detect", as_text(&coffee), "--model", as_text(&model), "--backend", "cpu"], more].concat(), folder.path());

    let output = run(&["--labels", "Cup,cat", "--threshold", "0.05", "--json", "-"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let records: Value = serde_json::from_slice(&output.stdout).unwrap();
    let labels: Vec<&str> = records[0]["detections"].as_array().unwrap().iter().map(|found| found["label"].as_str().unwrap()).collect();
    assert!(labels.len() >= 3 && labels.iter().all(|label| *label == "cup"), "{labels:?}");

    let output = run(&["--labels", "botle"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no class \"botle\"") && text(&output.stderr).contains("bottle"), "{}", text(&output.stderr));
    for wrong in ["1.5", "-0.1", "NaN", "much"] {
        assert!(!run(&["--threshold", wrong]).status.success(), "{wrong}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

/// A folder as a phone and a Mac leave it, read by somebody who may not read all of it.
#[cfg(unix)]
#[test]
fn the_command_tells_what_it_leaves_out_of_a_folder() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::os::unix::process::CommandExt;
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let allow = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::create_dir_all(root.join("in/locked")).unwrap();
    for (name, fixture) in
        [("a.jfif", "rgb.jpg"), ("b.jpe", "orientation_6.jpg"), ("c.gif", "first_frame.gif"), ("d.BMP", "rgb.bmp"), ("e.tif", "rgb.tif")]
    {
        std::fs::copy(in_repository("tests/fixtures/pictures").join(fixture), root.join("in").join(name)).unwrap();
    }
    for (name, content) in [("._a.jfif", &b"\0\x05\x16\x07"[..]), ("f.HEIC", b""), ("g.heic", b""), ("h.avif", b""), ("notes.txt", b"")] {
        std::fs::write(root.join("in").join(name), content).unwrap();
    }
    // Where others can read them too: root may read everything, and so somebody else runs the command.
    let (program, model) = (root.join("detrim"), root.join("model.safetensors"));
    std::fs::copy(env!("CARGO_BIN_EXE_detrim"), &program).unwrap();
    std::fs::copy(model_file(), &model).unwrap();
    for (path, mode) in [(root, 0o755), (&program, 0o755), (&model, 0o644), (&root.join("in/locked"), 0)] {
        allow(path, mode);
    }
    let mut command = Command::new(&program);
    if std::fs::metadata(root).unwrap().uid() == 0 {
        command.uid(65534).gid(65534);
    }
    let output = command.args(["detect", "in", "--backend", "cpu", "--model", as_text(&model)]).current_dir(root).output().unwrap();
    allow(&root.join("in/locked"), 0o755);
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    for name in ["a.jfif", "b.jpe", "c.gif", "d.BMP", "e.tif"] {
        assert!(stdout.contains(&format!("in/{name} (32×24)")), "{name}: {stdout}{stderr}");
    }
    for told in [
        "warning: in/locked: Permission denied",
        "note: in: left out: 1 .avif, 2 .heic (convert to JPEG, PNG or WebP first), 1 ._ (macOS' own, beside the pictures), 1 file that isn't a picture (.txt)",
        "not all that was named could be read",
    ] {
        assert!(stderr.contains(told), "{told}: {stderr}");
    }
    assert_eq!(output.status.code(), Some(1), "{stderr}");
}

#[cfg(unix)]
#[test]
fn what_the_command_writes_appears_whole_where_it_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let (model, photo) = (model_file(), in_repository("tests/fixtures/pictures/lying.webp"));
    let program = env!("CARGO_BIN_EXE_detrim");
    let run = |shell: &str| {
        let script =
            format!("ulimit -c 0; {shell} '{program}' detect '{}' --model '{}' --backend cpu --threshold 0 \"$@\"", as_text(&photo), as_text(&model));
        move |arguments: &[&str]| Command::new("sh").args(["-c", &script, "sh"]).args(arguments).current_dir(root).output().unwrap()
    };
    let names = || {
        let mut names: Vec<String> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    std::fs::write(root.join("out.json"), "old").unwrap();
    // Elsewhere files have names before they are whole.
    if cfg!(target_os = "linux") {
        // No file may become larger than a kilobyte: the system ends the program while it writes.
        let output = run("ulimit -f 1;")(&["--json", "out.json"]);
        assert!(!output.status.success());
        assert_eq!((std::fs::read_to_string(root.join("out.json")).unwrap(), names()), ("old".into(), vec!["out.json".into()]));
    }

    std::os::unix::fs::symlink("out.json", root.join("link.json")).unwrap();
    let output = run("")(&["--json", "link.json", "--draw", "drawn.gif"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let records: Value = serde_json::from_slice(&std::fs::read(root.join("out.json")).unwrap()).unwrap();
    assert_eq!(records[0]["width"].as_u64(), Some(320));
    assert!(root.join("link.json").is_symlink());
    assert_eq!(image::open(&root.join("drawn.gif")).unwrap().full_size, [320, 216]);

    let output = run("")(&["--json", "/dev/stdout"]);
    let stdout = text(&output.stdout);
    assert!(stdout.starts_with(as_text(&photo)) && stdout.ends_with("]\n"), "{stdout}");

    for (arguments, problem) in
        [(&["--draw", "drawn.heic"][..], "drawn.heic: "), (&["--json", "absent/out.json"], "folder isn't there"), (&["--json", "."], "directory")]
    {
        let stderr = text(&run("")(arguments).stderr);
        assert!(stderr.contains(problem) && stderr.matches(problem).count() == 1, "{stderr}");
    }
    assert_eq!(names(), ["drawn.gif", "link.json", "out.json"]);
}

#[test]
fn a_cause_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let (coffee, model) = (sample("coffee.png"), model_file());
    for arguments in [["detect", as_text(&coffee), "--model", "nowhere.safetensors"], ["detect", "nowhere.jpg", "--model", as_text(&model)]] {
        let output = detrim(&arguments, folder.path());
        let stderr = text(&output.stderr);
        assert!(!output.status.success() && stderr.contains("nowhere"), "{stderr}");
        assert!(stderr.matches("No such file").count() <= 1 && stderr.matches("nowhere").count() == 1, "{stderr}");
    }
}

#[test]
fn without_a_model_the_command_says_how_to_get_one() {
    // The program under test lies in the repository, whose models/ it would find: a copy elsewhere doesn't.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("detrim");
    std::fs::copy(env!("CARGO_BIN_EXE_detrim"), &program).unwrap();
    let output = Command::new(&program).args(["detect", as_text(&sample("coffee.png"))]).current_dir(folder.path()).output().unwrap();
    let stderr = text(&output.stderr);
    assert!(!output.status.success() && stderr.contains("--model") && stderr.contains("detrim fetch"), "{stderr}");
}
