//! `detrim eval` and `detrim train` on label files as tools and people write them: the same numbers as on COCO's own, or a word.

use crate::train::{pictures, run, text, train};
use detrim::checkpoint::{Guess, open};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// `detrim eval` of the smallest embedded model.
fn eval(folder: &Path, annotations: &str, more: &[&str]) -> Output {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/detr-lite0-speed.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args(["eval", "--resamples", "5", "--images", "photos", "--annotations", annotations]).args(more);
    command.arg("--model").arg(model).output().unwrap()
}

/// Two photos, in which a person and a cat are, and their labels.
fn photos(folder: &Path) -> Value {
    std::fs::create_dir_all(folder.join("photos/set")).unwrap();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("www/samples");
    let sizes = [("astronaut.png", "a.png"), ("chelsea.png", "set/b 1.png")].map(|(sample, name)| {
        let picture = image::open(samples.join(sample)).unwrap().into_rgb8();
        picture.save(folder.join("photos").join(name)).unwrap();
        [picture.width(), picture.height()]
    });
    let image = |id: u32, name: &str, [width, height]: [u32; 2]| json!({ "id": id, "file_name": name, "width": width, "height": height });
    let whole = |id: u32, category: u32, [width, height]: [u32; 2]| json!({ "id": id, "image_id": id, "category_id": category, "bbox": [0, 0, width, height] });
    json!({
        "images": [image(1, "a.png", sizes[0]), image(2, "set/b 1.png", sizes[1])],
        "categories": [{ "id": 1, "name": "person" }, { "id": 17, "name": "cat" }],
        "annotations": [whole(1, 1, sizes[0]), whole(2, 17, sizes[1])],
    })
}

fn write(folder: &Path, name: &str, content: &Value) {
    std::fs::write(folder.join(name), content.to_string()).unwrap();
}

fn changed(file: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut file = file.clone();
    change(&mut file);
    file
}

#[test]
fn sizes_and_names_that_tools_write_change_no_detection() {
    let folder = tempfile::tempdir().unwrap();
    let base = photos(folder.path());
    let found = |name: &str, labels: &Value, said: &str| {
        write(folder.path(), "labels.json", labels);
        let output = eval(folder.path(), "labels.json", &["--save", "found.json"]);
        assert!(output.status.success() && text(&output).contains(said), "{name}: {}", text(&output));
        let found: Value = serde_json::from_slice(&std::fs::read(folder.path().join("found.json")).unwrap()).unwrap();
        let boxes: Vec<Value> = found.as_array().unwrap().iter().map(|found| json!([found["category_id"], found["bbox"], found["score"]])).collect();
        (boxes, found[0]["image_id"].clone())
    };
    let (expected, _) = found("base", &base, "2 true boxes");
    assert!(expected.len() > 20);
    let both = |change: &dyn Fn(&mut Value)| changed(&base, |file| file["images"].as_array_mut().unwrap().iter_mut().for_each(change));
    for (name, labels, said) in [
        ("-1", both(&|image| (image["width"], image["height"]) = (json!(-1), json!(-1))), "2 of 2 images have no width and height"),
        ("null", both(&|image| image["width"] = json!(null)), "have no width and height"),
        ("0", both(&|image| image["height"] = json!(0)), "have no width and height"),
        ("Windows", changed(&base, |file| file["images"][1]["file_name"] = json!("..\\set\\b 1.png")), "1 of 2 images are there under another name"),
        ("address", changed(&base, |file| file["images"][1]["file_name"] = json!("set/b%201.png")), "as set/b 1.png"),
        ("Label Studio", changed(&base, |file| file["images"][1]["file_name"] = json!("/data/upload/3/0f1e2d3c-b_1.png")), "as set/b 1.png"),
    ] {
        assert_eq!(found(name, &labels, said).0, expected, "{name}");
    }
    // Ids come back as they were.
    let texts = changed(&base, |file| {
        for (key, list) in [("id", "images"), ("image_id", "annotations")] {
            file[list].as_array_mut().unwrap().iter_mut().for_each(|entry| entry[key] = json!(format!("photo {}", entry[key])));
        }
    });
    assert_eq!(found("texts", &texts, "2 true boxes"), (expected, json!("photo 1")));

    let lost = changed(&base, |file| file["images"][0]["file_name"] = json!("train\\gone.png"));
    write(folder.path(), "labels.json", &lost);
    let output = eval(folder.path(), "labels.json", &[]);
    assert!(output.status.success() && text(&output).contains("photos/train\\gone.png: there is no such image"), "{}", text(&output));
}

#[test]
fn what_cannot_be_found_is_said_in_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let base = photos(folder.path());
    let said = |labels: Value, expected: &str| {
        write(folder.path(), "labels.json", &labels);
        let output = eval(folder.path(), "labels.json", &[]);
        assert!(output.status.success() && text(&output).contains(expected), "{}", text(&output));
        text(&output)
    };
    let name = |name: &'static str| changed(&base, move |file| file["categories"][1]["name"] = json!(name));
    said(name("kitty"), "labels.json: the model has no class \"kitty\" (1 box): none of them can be found");
    said(name("Cat"), "\"Cat\" for \"cat\"");
    let neither = changed(&name("kitty"), |file| file["categories"][0]["name"] = json!("human"));
    said(neither, "no category has the name of one of the model's classes; by their ids, \"human\" for \"person\", \"kitty\" for \"cat\"");
    let crowds = changed(&base, |file| file["annotations"].as_array_mut().unwrap().iter_mut().for_each(|entry| entry["iscrowd"] = json!(true)));
    let output = said(crowds, "labels.json: all 2 boxes are crowds (iscrowd): there is nothing to find");
    assert!(!output.contains("95%"), "{output}");
    let twice = changed(&base, |file| file["categories"].as_array_mut().unwrap().push(json!({ "id": 50, "name": "person" })));
    said(twice, "categories 1 and 50 are both called \"person\": taken for one");
    let odd =
        changed(&base, |file| file["annotations"].as_array_mut().unwrap().push(json!({ "id": 9, "image_id": 1, "category_id": 1, "bbox": [] })));
    said(
        odd,
        "labels.json: 1 annotation is left out: it has neither a bbox nor an outline (annotation 3 (id 9): image_id 1, category_id 1, bbox [])",
    );
}

/// The labels of [`pictures`] with other names, numbered from 0 as tools do: the ids are those of the model's classes, but of others.
fn own(folder: &Path, names: [&str; 3]) {
    let labels: Value = serde_json::from_slice(&std::fs::read(folder.join("labels.json")).unwrap()).unwrap();
    let own = changed(&labels, |file| {
        file["categories"] = names.iter().enumerate().map(|(id, name)| json!({ "id": id, "name": name })).collect();
        for annotation in file["annotations"].as_array_mut().unwrap() {
            annotation["category_id"] = json!(annotation["category_id"].as_u64().unwrap() - 1);
        }
    });
    write(folder, "own.json", &own);
}

fn fine_tune(folder: &Path, out: &str, options: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args("train --model base/last.safetensors --images . --cache cache --views 1".split(' '));
    command.args(["--out", out]).args(options.split(' '));
    command
}

fn classes(folder: &Path, run: &str) -> Vec<(u32, String)> {
    let model = open(&folder.join(run).join("last.safetensors"), &Guess::default()).unwrap();
    assert_eq!(model.config.classes, model.config.labels.len());
    model.config.labels.into_iter().map(|label| (label.id, label.name)).collect()
}

#[test]
fn own_classes_get_a_class_head_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    pictures(here);
    run(train(here, "base", &["--steps", "1", "--batch", "8"]));
    own(here, ["scratch", "dent", "hole"]);
    // The default, for the model knows none of them.
    let output = run(fine_tune(here, "own", "--labels own.json --steps 3 --batch 8 --dev own.json"));
    let told = text(&output);
    assert!(told.contains("the model has no class \"scratch\", \"dent\", \"hole\"") && told.contains("a new class head for 3 classes"), "{told}");
    assert!(told.contains("0 of them the model knows") && told.contains("--classes model") && !told.contains("by their ids"), "{told}");
    let expected = [(0, "scratch"), (1, "dent"), (2, "hole")].map(|(id, name)| (id, name.to_string()));
    assert_eq!(classes(here, "own"), expected);
    // What was begun goes on with its classes.
    let output = run(fine_tune(here, "own", "--labels own.json --steps 4 --batch 8"));
    assert!(text(&output).contains("going on at step 3") && !text(&output).contains("class head"), "{}", text(&output));
    assert_eq!(classes(here, "own"), expected);
    let options: Value = serde_json::from_slice(&std::fs::read(here.join("own/options.json")).unwrap()).unwrap();
    assert_eq!(options["classes"], json!("labels"));

    // By numbers only where that is asked for.
    let refused = fine_tune(here, "refused", "--labels own.json --steps 1 --classes model").output().unwrap();
    assert!(refused.status.code() == Some(1) && text(&refused).contains("have no name in common: --classes labels"), "{}", text(&refused));
    let output = run(fine_tune(here, "ids", "--labels own.json --steps 1 --batch 8 --classes ids"));
    assert!(text(&output).contains("by their ids, \"dent\" for \"red\", \"hole\" for \"green\""), "{}", text(&output));
    assert!(text(&output).contains("no class \"scratch\"") && text(&output).contains("they are left out"), "{}", text(&output));
    let of_base = [(1, "red"), (2, "green"), (3, "blue")].map(|(id, name)| (id, name.to_string()));
    assert_eq!(classes(here, "ids"), of_base);

    // Some are known: they keep what they know, or the others are left out.
    own(here, ["scratch", "Green", "red"]);
    let output = run(fine_tune(here, "some", "--labels own.json --steps 1 --batch 8"));
    assert!(text(&output).contains("2 of them the model knows"), "{}", text(&output));
    assert_eq!(classes(here, "some"), [(0, "scratch"), (1, "Green"), (2, "red")].map(|(id, name)| (id, name.to_string())));
    let output = run(fine_tune(here, "kept", "--labels own.json --steps 1 --batch 8 --classes model"));
    assert!(text(&output).contains("the model has no class \"scratch\" ("), "{}", text(&output));
    assert_eq!(classes(here, "kept"), of_base);
    // All are known: nothing is replaced unless that is asked for; then there are no others.
    own(here, ["blue", "green", "red"]);
    run(fine_tune(here, "all", "--labels own.json --steps 1 --batch 8"));
    assert_eq!(classes(here, "all"), of_base);
    run(fine_tune(here, "only", "--labels own.json --steps 1 --batch 8 --classes labels"));
    assert_eq!(classes(here, "only"), [(0, "blue"), (1, "green"), (2, "red")].map(|(id, name)| (id, name.to_string())));
    // A run goes on from the state of another with other classes, too: what only training has is replaced with the head.
    own(here, ["scratch", "dent", "green"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command
        .current_dir(here)
        .args("train --state base/last.safetensors --images . --cache cache --views 1 --batch 8 --steps 3 --out state --labels own.json".split(' '));
    assert!(text(&run(command)).contains("1 of them the model knows"));
    assert_eq!(classes(here, "state"), [(0, "scratch"), (1, "dent"), (2, "green")].map(|(id, name)| (id, name.to_string())));
}

#[test]
fn odd_labels_are_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let labels: Value = serde_json::from_slice(&std::fs::read(pictures(here)).unwrap()).unwrap();
    let odd = changed(&labels, |file| {
        for image in file["images"].as_array_mut().unwrap() {
            image["file_name"] = json!(format!("D:\\set\\{}", image["file_name"].as_str().unwrap()));
            (image["width"], image["height"]) = (json!(-1), json!(null));
        }
        file["annotations"].as_array_mut().unwrap().push(json!({ "image_id": 1, "category_id": 1, "bbox": null }));
    });
    // With a byte order mark and in UTF-16, as PowerShell writes it.
    let bytes: Vec<u8> = format!("\u{feff}{odd}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    let told = |name: &str, content: &[u8]| {
        std::fs::write(here.join("labels.json"), content).unwrap();
        text(&run(train(here, name, &["--steps", "2", "--batch", "8"])))
    };
    let plain = told("plain", labels.to_string().as_bytes());
    let output = told("odd", &bytes);
    assert!(plain.contains("8 pictures, 12 boxes by people") && output.contains("8 pictures, 12 boxes by people"), "{output}");
    for expected in
        ["8 of 8 images have no width and height", "8 of 8 images are there under another name", "1 annotation is left out: it has neither"]
    {
        assert!(output.contains(expected), "{output}");
    }
    // The same examples make the same network.
    let [plain, odd] = ["plain", "odd"].map(|run| open(&here.join(run).join("last.safetensors"), &Guess::default()).unwrap().weights);
    assert_eq!(plain, odd);

    let gone =
        changed(&labels, |file| file["images"].as_array_mut().unwrap().iter_mut().for_each(|image| image["file_name"] = json!("set\\gone.png")));
    write(here, "labels.json", &gone);
    let refused = train(here, "gone", &["--steps", "1"]).output().unwrap();
    assert!(refused.status.code() == Some(1) && text(&refused).contains("set\\gone.png: there is no such image"), "{}", text(&refused));
}
