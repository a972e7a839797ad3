//! `detrim train` as a user runs it, on pictures made here.

use detrim::checkpoint::{Guess, open};
use detrim::config::ClassActivation;
use detrim::train::groups;
use detrim::train::hints;
use detrim::train::log::Row;
use detrim::train::state;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Eight pictures of one or two coloured rectangles, whose colour is their class.
pub fn pictures(folder: &Path) -> PathBuf {
    let colours = [[200, 40, 40], [40, 180, 60], [50, 70, 210]];
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for i in 0..8u32 {
        let mut picture = image::RgbImage::from_pixel(96, 96, image::Rgb([128, 128, 128]));
        for j in 0..1 + i % 2 {
            let class = ((i + j) % 3) as usize;
            let (width, height) = (24 + 4 * (i % 4), 20 + 5 * (i % 3));
            let (left, top) = (6 + j * 46, 8 + (i * 9) % 48);
            for y in top..top + height {
                for x in left..left + width {
                    picture.put_pixel(x, y, image::Rgb(colours[class]));
                }
            }
            annotations.push(json!({ "image_id": i + 1, "category_id": class + 1, "bbox": [left, top, width, height], "iscrowd": 0 }));
        }
        let name = format!("{i}.png");
        picture.save(folder.join(&name)).unwrap();
        images.push(json!({ "id": i + 1, "file_name": name, "width": 96, "height": 96 }));
    }
    let names = ["red", "green", "blue"];
    let categories: Vec<Value> = names.iter().enumerate().map(|(i, name)| json!({ "id": i + 1, "name": name })).collect();
    let labels = folder.join("labels.json");
    std::fs::write(&labels, json!({ "images": images, "annotations": annotations, "categories": categories }).to_string()).unwrap();
    labels
}

/// A small new transformer, on the backbone of the page's model.
pub fn train(folder: &Path, out: &str, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    let backbone = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/detr-lite0-base.safetensors");
    command.current_dir(folder).args(["train", "--labels", "labels.json", "--images", ".", "--cache", "cache", "--views", "1", "--out", out]);
    command.arg("--backbone").arg(backbone).args("--d-model 64 --encoder-layers 1 --decoder-layers 2 --queries 8".split(' '));
    command.args(options);
    command
}

pub fn run(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn softmax_classes_are_learnt_too() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let options = "--class-activation softmax --heads 4 --rate 1e-3 --warmup 50 --schedule cosine:0.5 --average 0.98 --steps 400 --dev labels.json";
    run(train(folder.path(), "run", &options.split(' ').collect::<Vec<_>>()));
    let best = open(&folder.path().join("run/best.safetensors"), &Guess::default()).unwrap();
    assert_eq!((best.config.classes, best.config.class_activation, best.config.encoder[0].self_attention.heads), (4, ClassActivation::Softmax, 4));
    let log = std::fs::read_to_string(folder.path().join("run/log.csv")).unwrap();
    let ap: f64 = log.lines().last().and_then(|row| row.rsplit(',').nth(1)).unwrap().parse().unwrap();
    assert!(ap > 0.6, "AP {ap}");
}

#[test]
fn eight_pictures_are_learnt_by_heart() {
    let folder = tempfile::tempdir().unwrap();
    let labels = pictures(folder.path());
    let options = "--rate 1e-3 --warmup 50 --schedule cosine:0.5 --average 0.98 --seed 3";
    let with = |more: &str| run(train(folder.path(), "run", &options.split(' ').chain(more.split(' ')).collect::<Vec<_>>()));
    let output = with("--steps 500 --dev labels.json");
    // Without a terminal too it is told how the run goes.
    for expected in ["500 steps of 500", "step 50 of 500", ": class ", " · l1 ", " · denoising ", "step 500: AP "] {
        assert!(text(&output).contains(expected), "{expected}: {}", text(&output));
    }
    assert!(!text(&output).contains("· teacher"), "{}", text(&output));
    let eval = Command::new(env!("CARGO_BIN_EXE_detrim"))
        .current_dir(folder.path())
        .args("eval --model run/last.safetensors --annotations labels.json --images . --json found.json --resamples 10".split(' '))
        .output()
        .unwrap();
    assert!(eval.status.success(), "{}", text(&eval));
    let found: Value = serde_json::from_slice(&std::fs::read(folder.path().join("found.json")).unwrap()).unwrap();
    let ap = found["metrics"]["ap"].as_f64().unwrap();
    assert!(ap > 0.9, "AP {ap}");
    // What the run leaves behind.
    let log = std::fs::read_to_string(folder.path().join("run/log.csv")).unwrap();
    assert!(log.starts_with("step,seconds,") && log.lines().count() >= 12, "{log}");
    assert!(std::fs::read_to_string(folder.path().join("run/plot.svg")).unwrap().contains("</svg>"));
    let best = || state::read(&folder.path().join("run/best.safetensors")).unwrap().1.step;
    assert_eq!(best(), 500);

    // Held-out boxes of which half aren't there: the best on them is chosen anew, though less is found of them than of those before.
    let mut content: Value = serde_json::from_slice(&std::fs::read(labels).unwrap()).unwrap();
    let wrong: Vec<Value> = (1..=8).map(|i| json!({ "image_id": i, "category_id": i % 3 + 1, "bbox": [0, 90, 5, 5], "iscrowd": 0 })).collect();
    content["annotations"].as_array_mut().unwrap().extend(wrong);
    std::fs::write(folder.path().join("dev.json"), content.to_string()).unwrap();
    let output = with("--steps 501 --dev dev.json");
    assert!(text(&output).contains("this --dev decides"), "{}", text(&output));
    assert_eq!(best(), 501);
    let output = with("--steps 501 --dev dev.json");
    assert!(text(&output).contains("501 steps of 501") && !text(&output).contains("this --dev decides"), "{}", text(&output));
    assert!(!text(&output).contains("step 501: AP"), "{}", text(&output));
    // A run that was killed before its last state was measured is measured when it is asked for again.
    let log = std::fs::read_to_string(folder.path().join("run/log.csv")).unwrap();
    let measured = log.trim_end().rfind('\n').unwrap();
    std::fs::write(folder.path().join("run/log.csv"), &log[..=measured]).unwrap();
    std::fs::remove_file(folder.path().join("run/best.safetensors")).unwrap();
    let output = with("--steps 501 --dev dev.json");
    assert!(text(&output).contains("step 501: AP"), "{}", text(&output));
    assert_eq!(best(), 501);
    // Other held-out boxes, though there is no step left to do.
    let output = with("--steps 501 --dev labels.json");
    assert!(text(&output).contains("this --dev decides") && text(&output).contains("step 501: AP"), "{}", text(&output));
}

#[test]
fn a_run_that_was_stopped_gives_the_weights_of_an_unbroken_one() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let options =
        "--rate 1e-3 --warmup 5 --schedule constant --batch 3 --save-minutes 0 --repeat-rare 0.9 --close-ups 0.5".split(' ').collect::<Vec<_>>();
    for (groups, stages) in [("0", "0"), ("2", "1")] {
        let with = |steps: &'static str| [&options[..], &["--groups", groups, "--unfreeze", stages, "--steps", steps]].concat();
        let name = |name: &str| format!("{name}{groups}");
        run(train(folder.path(), &name("whole"), &with("20")));
        run(train(folder.path(), &name("broken"), &with("9")));
        let output = run(train(folder.path(), &name("broken"), &with("20")));
        assert!(text(&output).contains("going on at step 9") && !text(&output).contains("that begin"), "{}", text(&output));
        let read = |name: &str| state::read(&folder.path().join(name).join("last.safetensors")).unwrap();
        assert!(read(&name("whole")) == read(&name("broken")), "the states differ");
        let moved = read(&name("whole")).1.moments.0.keys().any(|name| name.starts_with("backbone."));
        assert_eq!(moved, stages != "0");
    }
}

/// What groups of queries give is in the log, more and fewer of them are told of, and a model has none.
#[test]
fn groups_of_queries_come_and_go() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    let go_on = |groups, steps| run(train(folder.path(), "run", &["--batch", "2", "--groups", groups, "--steps", steps]));
    let log = || csv::Reader::from_path(folder.path().join("run/log.csv")).unwrap().into_deserialize::<Row>().last().unwrap().unwrap();
    let count = || groups::count(&state::read(&folder.path().join("run/last.safetensors")).unwrap().1.weights);
    go_on("0", "1");
    assert_eq!((log().groups, count()), (Some(0.0), 0));
    let output = go_on("2", "2");
    assert!(text(&output).contains("--groups was 0, not 2") && text(&output).contains("that begin: 2"), "{}", text(&output));
    assert!(log().groups.unwrap() > 0.0 && log().loss > log().groups);
    assert_eq!(count(), 2);
    for arguments in ["convert run/last.safetensors --out model.safetensors", "inspect model.safetensors"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.current_dir(folder.path()).args(arguments.split(' '));
        run(command);
    }
    let bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let names: Vec<String> = safetensors::SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(String::from).collect();
    assert!(names.iter().any(|name| name == "query_content") && !names.iter().any(|name| name.contains("groups")), "{names:?}");
    let output = go_on("1", "3");
    assert!(text(&output).contains("that are dropped: 1"), "{}", text(&output));
    assert_eq!(count(), 1);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_saves_and_goes_on_and_has_its_folder_to_itself() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    // Mostly it measures, so that this is what is interrupted.
    let options = "--rate 1e-3 --schedule constant --batch 2 --dev labels.json --measure-minutes 0 --steps";
    let command = |out: &str, steps: &str| train(folder.path(), out, &options.split(' ').chain([steps]).collect::<Vec<_>>());
    let last = |out: &str| folder.path().join(out).join("last.safetensors");

    let child = command("broken", "1000000").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let id = child.id();
    let begun = Instant::now();
    while !last("broken").exists() && begun.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = command("broken", "1000000").output().unwrap();
    let interrupted = Command::new("kill").args(["-INT", &id.to_string()]).status().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(text(&second).contains(&format!("process {id} ")), "{}", text(&second));
    assert!(interrupted.success() && output.status.success(), "{}", text(&output));

    let (_, state) = state::read(&last("broken")).unwrap();
    assert!(text(&output).contains(&format!("{} steps of 1000000", state.step)), "{}", text(&output));
    let end = (state.step + 3).to_string();
    let output = run(command("broken", &end));
    assert!(text(&output).contains("warning: --steps was 1000000"), "{}", text(&output));
    run(command("whole", &end));
    assert!(state::read(&last("whole")).unwrap() == state::read(&last("broken")).unwrap(), "the states differ");
}

#[test]
fn a_run_does_not_go_on_with_other_examples() {
    let folder = tempfile::tempdir().unwrap();
    let labels = pictures(folder.path());
    let options = ["--batch", "2", "--steps", "1"];
    run(train(folder.path(), "run", &[&options[..], &["--shards", "1"]].concat()));
    let refused = |options: &[&str], expected: &str| {
        let output = train(folder.path(), "run", options).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(expected) && !text(&output).contains("panicked"), "{}", text(&output));
    };
    refused(&["--batch", "3", "--steps", "2"], "--batch was 2, not 3");
    refused(&["--batch", "2", "--steps", "2", "--seed", "7"], "--seed was 0, not 7");
    refused(&["--batch", "2", "--steps", "2", "--shards", "2"], "--shards was 1, not 2");
    let [rare, close] = ["--repeat-rare", "--close-ups"].map(|option| ["--batch", "2", "--steps", "2", option, "0.5"]);
    refused(&rare, "--repeat-rare was 0.0, not 0.5");
    refused(&close, "--close-ups was 0.0, not 0.5");
    refused(&["--calibrate"], "--calibrate was false, not true");
    // A run of a version that had no such options.
    let path = folder.path().join("run/options.json");
    let mut before: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    for option in ["repeat_rare", "close_ups", "calibrate"] {
        before.as_object_mut().unwrap().remove(option);
    }
    before["queries"] = json!(9);
    std::fs::write(&path, before.to_string()).unwrap();
    refused(&rare, "--repeat-rare was 0.0, not 0.5");
    refused(&close, "--close-ups was 0.0, not 0.5");
    // It goes on in as many shards, and with its network.
    let output = run(train(folder.path(), "run", &["--batch", "2", "--steps", "2"]));
    assert!(text(&output).contains("--queries was 9, not 8"), "{}", text(&output));
    let now: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!((&now["shards"], &now["queries"]), (&json!(1), &json!(9)));
    std::fs::write(&labels, std::fs::read_to_string(&labels).unwrap() + " ").unwrap();
    refused(&options, "given by --labels");
}

#[test]
fn a_state_is_a_model_to_every_command() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    run(train(folder.path(), "run", &["--batch", "2", "--steps", "1"]));
    for arguments in ["inspect run/last.safetensors", "convert run/last.safetensors --out model.safetensors", "inspect model.safetensors"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.current_dir(folder.path()).args(arguments.split(' '));
        let output = run(command);
        assert!(arguments.starts_with("convert") || text(&output).contains("trained for 1 steps"), "{arguments}: {}", text(&output));
    }
    // To do what is done again is to do nothing; to begin where no step is left is a mistake.
    let output = run(train(folder.path(), "run", &["--batch", "2", "--steps", "1"]));
    assert!(text(&output).contains("1 steps of 1"), "{}", text(&output));
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder.path()).args("train --labels labels.json --images . --cache cache --views 1 --out other --steps 1 --state".split(' '));
    let output = command.arg("run/last.safetensors").output().unwrap();
    assert!(output.status.code() == Some(1) && text(&output).contains("at step 1 already"), "{}", text(&output));
}

/// A teacher of another width, from which a run that was stopped goes on exactly where it stopped; a teacher of pictures of another size.
#[test]
fn a_teacher_of_another_width_gives_hints() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    run(train(folder.path(), "parent", &["--steps", "3"]));
    let child = |out: &str, steps: &str, more: &[&str]| {
        let backbone = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/detr-lite0-base.safetensors");
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command
            .current_dir(folder.path())
            .args("train --labels labels.json --images . --cache cache --views 1 --batch 3 --schedule constant".split(' '));
        command.args(["--out", out, "--steps", steps, "--d-model", "48", "--encoder-layers", "1", "--decoder-layers", "1"]);
        command.arg("--backbone").arg(backbone).args(more);
        run(command)
    };
    let taught = ["--teacher", "parent/last.safetensors"];
    let output = child("whole", "8", &taught);
    assert!(text(&output).contains("a map from 48 to 64"), "{}", text(&output));
    child("broken", "3", &taught);
    child("broken", "8", &taught);
    let read = |name: &str| state::read(&folder.path().join(name).join("last.safetensors")).unwrap();
    assert!(read("whole") == read("broken"), "the states differ");
    assert_eq!(hints::width(&read("whole").1.weights), Some(64));
    // Without the teacher there is nothing to take tokens to.
    child("whole", "9", &[]);
    assert_eq!(hints::width(&read("whole").1.weights), None);
    // A teacher that sees pictures in another size.
    let path = folder.path().join("parent/last.safetensors");
    let (mut config, state) = state::read(&path).unwrap();
    config.pixels.resize = detrim::config::Resize::Stretch { height: 128, width: 160 };
    state::write(&path, &config, &state).unwrap();
    let output = child("other", "1", &taught);
    assert!(text(&output).contains("tokens are no hint: it has 4×5 of a picture"), "{}", text(&output));
    assert_eq!(hints::width(&read("other").1.weights), None);
}

/// Its own parent teaches a model, and what it says is in the log.
#[test]
fn a_teacher_is_learnt_from() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    run(train(folder.path(), "parent", &["--steps", "3"]));
    let output = run(train(folder.path(), "child", &["--steps", "2", "--teacher", "parent/last.safetensors", "--teach-weight", "2"]));
    assert!(text(&output).contains("3 of 3 classes"), "{}", text(&output));
    let log = csv::Reader::from_path(folder.path().join("child/log.csv")).unwrap().into_deserialize::<Row>().last().unwrap().unwrap();
    assert!(log.teacher.unwrap() > 0.0 && log.loss.unwrap() > log.teacher.unwrap());
    // A teacher of other things.
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/detr-lite0-base.safetensors");
    let output = train(folder.path(), "other", &["--teacher", page.to_str().unwrap()]).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("no class name in common"), "{}", text(&output));
}

/// A trimmed model is fine-tuned with what its parent's run had: it has denoising again, and so has the detector no more than before.
#[test]
fn a_trimmed_model_gets_back_its_anchors() {
    let folder = tempfile::tempdir().unwrap();
    pictures(folder.path());
    run(train(folder.path(), "parent", &["--steps", "3"]));
    let detrim = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.current_dir(folder.path()).args(arguments.split(' '));
        command
    };
    std::fs::write(folder.path().join("one.toml"), "[layers]\ndecoder = 1\n").unwrap();
    run(detrim("prune parent/last.safetensors --images . --pictures 4 --recipe one.toml --out trimmed.safetensors"));
    let options = "--labels labels.json --images . --cache cache --views 1 --steps 2 --batch 2 --teacher parent/last.safetensors";
    run(detrim(&format!("train --out plain --model trimmed.safetensors {options}")));
    run(detrim(&format!("train --out anchored --model trimmed.safetensors --anchors parent/last.safetensors {options}")));
    let log =
        |name: &str| csv::Reader::from_path(folder.path().join(name).join("log.csv")).unwrap().into_deserialize::<Row>().last().unwrap().unwrap();
    let (plain, anchored) = (log("plain"), log("anchored"));
    assert_eq!((plain.denoising.unwrap(), plain.dense.unwrap()), (0.0, 0.0));
    assert!(anchored.denoising.unwrap() > 0.0 && anchored.dense.unwrap() > 0.0);
    for name in ["plain", "anchored"] {
        run(detrim(&format!("convert {name}/last.safetensors --fold --out {name}.safetensors")));
    }
    // How the model came to be is known of what training makes of it.
    let told = open(&folder.path().join("plain.safetensors"), &Guess::default()).unwrap().card.provenance.join("; ");
    for expected in ["trained for 3 steps", "; trimmed from ", "; trained for 2 steps"] {
        assert!(told.contains(expected), "{expected}: {told}");
    }
    let bytes = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().len();
    assert!(bytes("plain.safetensors").abs_diff(bytes("anchored.safetensors")) < 100);
    // Trimming a state, all in one command.
    let trim =
        "trim parent/last.safetensors --recipe one.toml --images . --pictures 4 --labels labels.json --views 1 --steps 2 --out small.safetensors";
    let output = run(detrim(trim));
    assert!(text(&output).contains("--anchors parent/last.safetensors"), "{}", text(&output));
    // Of another run.
    run(train(folder.path(), "other", &["--steps", "1", "--seed", "5"]));
    let output = detrim(&format!("train --out wrong --model trimmed.safetensors --anchors other/last.safetensors {options}")).output().unwrap();
    assert!(!output.status.success() && text(&output).contains("--anchors") && text(&output).contains("isn't of this run"), "{}", text(&output));
}

#[test]
fn what_cannot_be_trained_on_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let labels = pictures(folder.path());
    let fails = |options: &[&str], expected: &str| {
        let output = train(folder.path(), "run", options).output().unwrap();
        assert!(output.status.code() == Some(1) || output.status.code() == Some(2), "{}", text(&output));
        assert!(text(&output).contains(expected), "{}", text(&output));
    };
    fails(&["--labels", "absent.json"], "absent.json");
    fails(&["--d-model", "60"], "d-model");
    fails(&["--batch", "0"], "batch");
    fails(&["--batch", "99999999999"], "at most 4096");
    fails(&["--rate=-1"], "rate");
    fails(&["--state", "labels.json"], "--state");
    fails(&["--save-minutes", "nan"], "a number of minutes");
    fails(&["--measure-minutes=-1"], "a number of minutes");
    // Nor what can't be measured on.
    let dev = |names: [&str; 2], category: u32| {
        let images: Vec<Value> = (1..=2).zip(names).map(|(id, name)| json!({ "id": id, "file_name": name, "width": 96, "height": 96 })).collect();
        let boxes = json!([{ "image_id": 1, "category_id": category, "bbox": [6, 8, 24, 20] }]);
        let content = json!({ "images": images, "annotations": boxes, "categories": [{ "id": category, "name": "thing" }] });
        std::fs::write(folder.path().join("dev.json"), content.to_string()).unwrap();
    };
    fails(&["--dev", "absent.json"], "absent.json");
    dev(["0.png", "1.png"], 77);
    fails(&["--dev", "dev.json"], "nothing in common");
    dev(["gone.png", "lost.png"], 1);
    fails(&["--dev", "dev.json"], "none of its 2 pictures");
    dev(["0.png", "lost.png"], 1);
    // Labels that can't be used are counted and named, and the rest is trained on.
    let mut content: Value = serde_json::from_slice(&std::fs::read(&labels).unwrap()).unwrap();
    let boxes = content["annotations"].as_array_mut().unwrap();
    boxes.push(json!({ "image_id": 1, "category_id": 1, "bbox": [200, 200, 10, 10] }));
    boxes.push(json!({ "image_id": 99, "category_id": 1, "bbox": [1, 1, 10, 10] }));
    std::fs::write(&labels, content.to_string()).unwrap();
    let output = run(train(folder.path(), "run", &["--steps", "1", "--dev", "dev.json"]));
    assert!(text(&output).contains("2 ") && text(&output).contains("99"), "{}", text(&output));
    for expected in ["1 of 2 pictures are not there", "on 2 pictures", "1 pictures could not be used", "by their ids, \"thing\" for"] {
        assert!(text(&output).contains(expected), "{expected}: {}", text(&output));
    }
}
