//! `detrim report` as a user runs it, on a small random network and pictures made here.

use detrim::checkpoint::{Checkpoint, Guess, Storage, open, random, to_bytes};
use detrim::config::{Backbone, Label, ResNet, Resize};
use detrim::eval::cost::cost;
use detrim::hash::sha256;
use detrim::prune::plan::{Keep, Plan};
use detrim::{Config, image};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};
use std::time::SystemTime;

/// A narrow ResNet-18 under three layers each of encoder and decoder.
fn model(file: &Path) {
    let mut net = ResNet::of_depth(18, false).unwrap();
    net.stem = 16;
    for stage in &mut net.stages {
        stage.channels = 16;
        stage.blocks.truncate(1);
        stage.blocks.iter_mut().for_each(|block| block.inner.fill(16));
    }
    // Stages of one width: only those that stride project.
    let mut config = Config::detr(Backbone::Resnet(net));
    config.d_model = 16;
    config.encoder.truncate(3);
    config.decoder.truncate(2);
    for layer in &mut config.encoder {
        (layer.self_attention.heads, layer.self_attention.head_width, layer.ffn) = (4, 4, 32);
    }
    for layer in &mut config.decoder {
        for attention in layer.self_attention.iter_mut().chain([&mut layer.cross_attention]) {
            (attention.heads, attention.head_width) = (4, 4);
        }
        layer.ffn = 32;
    }
    config.queries = 6;
    config.labels = ["red", "green", "blue"].iter().zip(1..).map(|(name, id)| Label { id, name: name.to_string() }).collect();
    config.classes = 4;
    config.pixels.resize = Resize::Stretch { height: 256, width: 256 };
    let checkpoint = random(config, "small", 5);
    std::fs::write(file, to_bytes(&checkpoint, Storage::F32).unwrap()).unwrap();
}

/// Pictures of one rectangle each, with their boxes.
fn pictures(folder: &Path, count: u32) {
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    std::fs::create_dir(folder.join("photos")).unwrap();
    for i in 0..count {
        let (left, top, side) = (4 + 3 * i, 10 + i, 20 + i);
        let picture = ::image::RgbImage::from_fn(80, 70, |x, y| {
            let inside = (left..left + side).contains(&x) && (top..top + side).contains(&y);
            ::image::Rgb(if inside { [200, (25 * i) as u8, 40] } else { [(x * 3) as u8, (y * 3) as u8, 120] })
        });
        picture.save(folder.join(format!("photos/{i}.png"))).unwrap();
        images.push(json!({ "id": i + 1, "file_name": format!("{i}.png"), "width": 80, "height": 70 }));
        annotations.push(json!({ "image_id": i + 1, "category_id": 1 + i % 3, "bbox": [left, top, side, side], "iscrowd": 0 }));
    }
    let categories: Vec<Value> = ["red", "green", "blue"].iter().zip(1..).map(|(name, id)| json!({ "id": id, "name": name })).collect();
    let all = json!({ "images": images, "annotations": annotations, "categories": categories });
    std::fs::write(folder.join("labels.json"), all.to_string()).unwrap();
    assert!(image::open(&folder.join("photos/0.png")).is_ok());
}

fn report(folder: &Path, options: &str) -> Output {
    let always = "report small.safetensors --images photos --pictures 6 --runs 1 --resamples 20 --out out";
    let arguments = always.split(' ').chain(options.split(' ').filter(|word| !word.is_empty()));
    Command::new(env!("CARGO_BIN_EXE_detrim")).current_dir(folder).args(arguments).output().unwrap()
}

fn success(output: &Output) -> String {
    let text = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{text}");
    text
}

fn json_of(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("out/report.json")).unwrap()).unwrap()
}

fn parameters(checkpoint: &Checkpoint) -> u64 {
    cost(&checkpoint.config, [64, 64]).iter().map(|part| part.parameters as u64).sum()
}

/// When each network was written.
fn written(folder: &Path) -> Vec<(String, SystemTime)> {
    let time = |name: &str| std::fs::metadata(folder.join("out").join(name)).unwrap().modified().unwrap();
    [
        "layers",
        "layers-unrepaired",
        "article",
        "article-unrepaired",
        "methods/article-magnitude",
        "curves/random-macs-20",
        "curves/random-macs-20-unrepaired",
    ]
    .map(|name| (name.to_string(), time(&format!("{name}.safetensors"))))
    .into()
}

#[test]
fn a_report_says_what_is_in_its_files_and_goes_on_from_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    model(&root.join("small.safetensors"));
    pictures(root, 10);
    let options = "--recipe layers --recipe article --beside magnitude --importance random --limits -20%";
    let said = success(&report(root, options));
    assert!(said.contains("not measured"), "{said}");
    let first = json_of(root);
    let rows = first["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["parent", "layers", "article"]);
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let file = root.join(format!("out/{name}.safetensors"));
        let checkpoint = open(&file, &Guess::default()).unwrap();
        assert_eq!(row["costs"]["parameters"].as_u64().unwrap(), parameters(&checkpoint), "{name}");
        assert_eq!(row["costs"]["f16_bytes"].as_u64().unwrap(), std::fs::metadata(&file).unwrap().len(), "{name}");
        assert_eq!(row["costs"]["int8_bytes"].as_u64().unwrap() as usize, to_bytes(&checkpoint, Storage::Int8).unwrap().len(), "{name}");
        assert!(row["unrepaired"]["ap"].is_null(), "without annotations there is no AP: {row}");
        if name != "parent" {
            let other = open(&root.join(format!("out/{name}-unrepaired.safetensors")), &Guess::default()).unwrap();
            // What stands for a first decoder layer gives queries contents.
            let same = Config { query_content: checkpoint.config.query_content, ..other.config };
            assert_eq!(same, checkpoint.config, "{name}");
            assert_ne!(other.weights, checkpoint.weights, "{name}: the repair has done something");
            assert!(row["repaired"]["difference"].as_f64().is_some() && row["pace"]["ratio"].as_f64().unwrap() > 0.0, "{row}");
            assert_eq!(row["verdicts"].as_array().unwrap().len(), 2, "parameters and speed: {row}");
        }
    }
    assert_eq!(open(&root.join("out/layers.safetensors"), &Guess::default()).unwrap().config.decoder.len(), 1);
    // A layer that stands for another has neurons of that one, too; not repaired, its own.
    let neurons = |name: &str| {
        let file = root.join(format!("out/{name}.toml"));
        let plan = Plan::parse(&std::fs::read_to_string(&file).unwrap(), name).unwrap();
        plan.keep.values().any(|keep| matches!(keep, Keep::Units(units) if units.last() >= Some(&32)))
    };
    assert!(neurons("layers") && !neurons("layers-unrepaired"));
    let methods = first["methods"].as_array().unwrap();
    assert_eq!(methods.iter().map(|method| method["recipe"].as_str().unwrap()).collect::<Vec<_>>(), ["layers", "article"]);
    assert!(methods.iter().all(|method| method["importance"] == "magnitude" && method["repaired"]["difference"].is_number()), "{methods:?}");
    let plan = std::fs::read_to_string(root.join("out/methods/layers-magnitude.toml")).unwrap();
    assert!(plan.contains("drop_encoder = [2]") && plan.contains("drop_decoder = [1]"), "by magnitude the last layers go: {plan}");
    let curves = first["curves"].as_array().unwrap();
    assert_eq!(curves.len(), 2);
    assert!(curves[0]["points"][0]["macs"].as_f64().unwrap() <= 0.8 && curves[0]["points"][0]["quality"]["difference"].is_number());
    assert!(std::fs::read_to_string(root.join("out/curves.svg")).unwrap().contains("</svg>"));

    // Again, now with annotations, a healed network and browser times: nothing is trimmed anew.
    let before = written(root);
    std::fs::copy(root.join("out/layers.safetensors"), root.join("healed.safetensors")).unwrap();
    let turn = |name: &str, ms: f64, ratio: f64| json!({ "sha256": sha256(&std::fs::read(root.join(format!("out/{name}.safetensors"))).unwrap()), "ms": ms, "ratio": ratio });
    let turns = |adapter: &str, software: bool, layers: Value| {
        let networks = json!({ "parent": turn("parent", 20.0, 1.0), "layers": layers, "another": turn("parent", 1.0, 1.0) });
        json!({ "adapter": adapter, "software": software, "rounds": 3, "networks": networks })
    };
    let [wasm, webgpu] = [turns("CPU", false, turn("layers", 12.0, 0.512)), turns("swift", true, turn("layers", 4.5, 0.25))];
    std::fs::write(root.join("browser.json"), json!({ "browser": "Chromium 1.2", "wasm": wasm, "webgpu": webgpu }).to_string()).unwrap();
    let more = "--annotations labels.json --photos photos --limit 8 --healed layers=healed.safetensors --browser browser.json";
    let said = success(&report(root, &format!("{options} {more}")));
    assert_eq!(written(root), before);
    for expected in [
        "Methods in each recipe",
        "| magnitude",
        "0.512 (12.0 ms)",
        "0.250 (4.5 ms)",
        "time WebGPU (software)",
        "a program on the processor",
        "Chromium 1.2, 3 rounds (swift",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let second = json_of(root);
    assert_eq!(second["annotated"], 8);
    let layers = &second["rows"][1];
    assert_eq!(layers["verdicts"].as_array().unwrap().len(), 3);
    assert!(layers["repaired"]["ap"].is_number() && layers["unrepaired"]["against_parent"]["ap50"]["low"].is_number(), "{layers}");
    assert_eq!(layers["healed"]["ap"], layers["repaired"]["ap"]);
    assert!(second["rows"][0]["unrepaired"]["ap"].is_number() && second["curves"][0]["points"][0]["quality"]["ap"].is_number());
    assert_eq!(second["rows"][2]["costs"], first["rows"][2]["costs"]);

    // Other settings make other networks, which nobody has timed in a browser.
    let said = success(&report(root, "--recipe layers --no-curves --seed 1 --browser browser.json"));
    assert!(said.contains("layers: the times of layers in a browser are of another file") && !said.contains("12.0 ms"), "{said}");
    let after = written(root);
    assert!(after[0].1 > before[0].1 && after[1].1 > before[1].1 && after[2] == before[2]);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    model(&root.join("small.safetensors"));
    pictures(root, 2);
    let names = |options: &str, expected: &str| {
        let output = report(root, options);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{options}: {said}");
    };
    names("--recipe absent", "absent");
    names("--recipe layers --recipe layers", "already");
    names("--recipe layers --healed heads=small.safetensors", "no recipe of that name");
    names("--recipe layers --healed layers=absent.safetensors", "absent.safetensors");
    names("--limits -120%", "-120%");
    names("--importance guess", "guess");
    names("--annotations absent.json --photos photos", "absent.json");
    names("--browser labels.json", "labels.json");
    assert!(!root.join("out").exists());

    // A recipe that can't be carried out is told of; the others are.
    std::fs::write(root.join("odd.toml"), "[keep]\n\"no_such_part\" = 0.5\n").unwrap();
    let said = success(&report(root, "--recipe odd.toml --recipe layers --no-curves"));
    assert!(said.contains("no_such_part") && said.contains("Not done"), "{said}");
    assert_eq!(json_of(root)["rows"].as_array().unwrap().len(), 2);
    // A recipe that lies where its plan would be written stays what it is.
    std::fs::copy(root.join("odd.toml"), root.join("out/odd.toml")).unwrap();
    names("--recipe out/odd.toml", "written over");
    assert_eq!(std::fs::read(root.join("odd.toml")).unwrap(), std::fs::read(root.join("out/odd.toml")).unwrap());
}

#[test]
fn two_models_are_timed_in_turns() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    model(&root.join("small.safetensors"));
    let bench = |options: &str| {
        let arguments = "bench small.safetensors --against".split(' ').chain(options.split(' '));
        Command::new(env!("CARGO_BIN_EXE_detrim")).current_dir(root).args(arguments).output().unwrap()
    };
    let said = success(&bench("small.safetensors --runs 3"));
    assert!(said.contains("times as fast (the median of 3 pairs of runs)"), "{said}");
    for (options, expected) in [("absent.safetensors", "absent.safetensors"), ("small.safetensors --runs 0", "--runs")] {
        let output = bench(options);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(expected), "{options}: {said}");
    }
}
