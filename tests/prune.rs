//! `detrim prune` as a user runs it, on a network and pictures made here.

use detrim::HostTensor;
use detrim::checkpoint::{Checkpoint, Guess, Storage, open, open_any, random, write_own};
use detrim::config::*;
use detrim::detector::Device;
use detrim::forward::{Case, Difference, Runner, compare};
use detrim::prune::plan::{Keep, Plan};
use std::path::Path;
use std::process::{Command, Output};

/// Small, but with something of everything: a backbone with a stream over two blocks, unequal layers, contents and references.
fn network() -> Checkpoint {
    let attention = |heads| Attention { heads, head_width: 8 };
    let block = |expansion, stride, channels, residual| InvertedResidual { expansion, kernel: 3, stride, channels, residual };
    let config = Config {
        backbone: Backbone::EfficientNetLite(EfficientNetLite {
            stem: 8,
            stages: vec![
                vec![block(None, 2, 8, false)],
                vec![block(Some(24), 2, 16, false), block(Some(32), 1, 16, true)],
                vec![block(Some(48), 2, 24, false)],
            ],
        }),
        d_model: 32,
        encoder: vec![EncoderLayer { self_attention: attention(4), ffn: 48 }; 3],
        decoder: vec![DecoderLayer { self_attention: Some(attention(4)), cross_attention: attention(3), ffn: 40 }; 3],
        queries: 10,
        query_content: true,
        box_reference: true,
        classes: 3,
        class_activation: ClassActivation::Sigmoid,
        labels: (1..=3).map(|id| Label { id, name: format!("class {id}") }).collect(),
        pixels: Pixels { resize: Resize::Stretch { height: 64, width: 96 }, ..Pixels::detr() },
        ..Config::detr(Backbone::EfficientNetLite(EfficientNetLite::lite0()))
    };
    random(config, "tiny", 7)
}

fn pictures(folder: &Path) {
    let mut random = fastrand::Rng::with_seed(5);
    for i in 0..24 {
        let [r, g, b] = [random.u8(..), random.u8(..), random.u8(..)];
        let (step, size) = (random.u32(2..30), random.u32(40..90));
        let picture = image::RgbImage::from_fn(size, 60, |x, y| match (x / step + y / step) % 2 {
            0 => image::Rgb([r, g, b]),
            _ => image::Rgb([b, (x * 3) as u8, (y * 4) as u8]),
        });
        picture.save(folder.join(format!("{i}.png"))).unwrap();
    }
}

/// A folder with a model and pictures.
fn place() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("photos")).unwrap();
    pictures(&folder.path().join("photos"));
    write_own(&folder.path().join("base.safetensors"), &network(), Storage::F32).unwrap();
    folder
}

fn prune(folder: &Path, options: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args(["prune", "base.safetensors", "--images", "photos", "--dtype", "f32"]).args(options.split_whitespace());
    command.output().unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn model(folder: &Path, name: &str) -> Checkpoint {
    open(&folder.join(name), &Guess::default()).unwrap()
}

/// What `difference of the outputs` says.
fn difference(text: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with("difference")).unwrap_or_else(|| panic!("{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_plan_is_carried_out_repaired_and_carries_out_the_same_again() {
    let folder = place();
    let folder = folder.path();
    let plan = "drop_encoder = [1]\ndrop_decoder = [0]\n[keep]\n\"encoder.0.self_attention\" = 3\n\"decoder.2.ffn\" = 24\n\"queries\" = 10\n\
        \"backbone.stage1\" = 8\n\"backbone.stage1.block1.expansion\" = 16\n\"backbone.stem\" = [0, 2, 3, 5, 6, 7]\n\"backbone.stage2\" = 16\n";
    std::fs::write(folder.join("plan.toml"), plan).unwrap();
    let text = done(&prune(folder, "--pictures 16 --plan plan.toml --out a.safetensors"));
    let trimmed = model(folder, "a.safetensors");
    let Backbone::EfficientNetLite(net) = &trimmed.config.backbone else { panic!() };
    assert_eq!((net.stem, net.stages[1][0].channels, net.stages[1][1].channels, net.stages[2][0].channels), (6, 8, 8, 16));
    assert_eq!(net.stages[1][1].expansion, Some(16));
    assert_eq!((trimmed.config.encoder.len(), trimmed.config.decoder.len()), (2, 2));
    assert_eq!((trimmed.config.encoder[0].self_attention.heads, trimmed.config.encoder[1].self_attention.heads), (3, 4));
    // The third decoder layer is the second now.
    assert_eq!((trimmed.config.decoder[0].ffn, trimmed.config.decoder[1].ffn), (40, 24));
    assert!(text.contains("parameters"), "{text}");
    for told in ["sha256", "--plan plan.toml", "chosen and repaired on 16 pictures"] {
        assert!(trimmed.card.provenance.iter().any(|line| line.contains(told)), "{told}: {:?}", trimmed.card);
    }
    // A plan that somebody wrote goes by the options.
    done(&prune(folder, "--pictures 16 --plan plan.toml --no-repair --out bare.safetensors"));
    assert_ne!(model(folder, "bare.safetensors").weights, trimmed.weights);
    let bare = Plan::parse(&std::fs::read_to_string(folder.join("bare.toml")).unwrap(), "bare.toml").unwrap();
    assert!(bare.origin.is_some_and(|origin| !origin.repair && origin.pictures == 16));

    let carried = std::fs::read_to_string(folder.join("a.toml")).unwrap();
    let exact = Plan::parse(&carried, "a.toml").unwrap();
    assert!(exact.keep.values().all(|keep| matches!(keep, Keep::Units(_))), "{carried}");
    // A layer has neurons of the one that it stands for, too: they are counted on from its own.
    let Keep::Units(neurons) = &exact.keep["encoder.0.ffn"] else { panic!("{carried}") };
    let own = neurons.iter().filter(|&&neuron| neuron < 48).count();
    assert!(neurons.len() == 48 && (1..48).contains(&own), "{neurons:?}");
    assert!(text.contains(&format!("encoder.0.ffn has {own} of its own neurons and {} of layers", 48 - own)), "{text}");
    done(&prune(folder, "--plan a.toml --out b.safetensors"));
    let (a, b) = (model(folder, "a.safetensors"), model(folder, "b.safetensors"));
    assert_eq!((a.config, a.weights), (b.config, b.weights));

    // And a trimmed network can be trimmed.
    std::fs::copy(folder.join("a.safetensors"), folder.join("base.safetensors")).unwrap();
    let text = done(&prune(folder, "--pictures 16 --preset heads --out c.safetensors"));
    assert!(difference(&text) < 1.0, "{text}");
    assert!(model(folder, "c.safetensors").config.decoder[0].self_attention.is_none());
    // The plan is for another network now.
    assert!(complaint(&prune(folder, "--plan a.toml --out d.safetensors")).contains("sha256"));
    assert!(!folder.join("d.safetensors").exists());
}

#[test]
fn what_is_kept_whole_changes_nothing() {
    let folder = place();
    let folder = folder.path();
    std::fs::write(folder.join("plan.toml"), "").unwrap();
    done(&prune(folder, "--pictures 8 --plan plan.toml --out same.safetensors"));
    assert_eq!(model(folder, "same.safetensors").weights, network().weights);
}

#[test]
fn repair_brings_the_outputs_back() {
    let folder = place();
    let folder = folder.path();
    for (pattern, most) in [("*.ffn", 0.6), ("*_attention", 0.6), ("backbone.*.expansion", 1.0)] {
        std::fs::write(folder.join("half.toml"), format!("[keep]\n{pattern:?} = 0.5\n")).unwrap();
        let run = |options: &str| difference(&done(&prune(folder, &format!("--pictures 20 --recipe half.toml --out x.safetensors {options}"))));
        let (repaired, bare) = (run(""), run("--no-repair"));
        assert!(repaired < most * bare, "{pattern}: {repaired} {bare}");
    }
}

#[test]
fn a_budget_is_kept_to_and_an_impossible_one_names_the_smallest() {
    let folder = place();
    let folder = folder.path();
    let text = done(&prune(folder, "--pictures 8 --params -40% --macs -30% --out small.safetensors"));
    assert!(model(folder, "small.safetensors").config.decoder[0].self_attention.is_none());
    let count = |model: &Checkpoint| {
        let parts = detrim::eval::cost::cost(&model.config, detrim::image::typical_size(model.config.pixels.resize).unwrap());
        (parts.iter().map(|part| part.parameters as f64).sum::<f64>(), parts.iter().map(|part| part.macs as f64).sum::<f64>())
    };
    let ((params, macs), (all, all_macs)) = (count(&model(folder, "small.safetensors")), count(&network()));
    assert!(params <= 0.6 * all && macs <= 0.7 * all_macs, "{params} of {all}, {macs} of {all_macs}: {text}");
    // Not far more than was asked for.
    assert!(params > 0.4 * all, "{params} of {all}");
    assert!(complaint(&prune(folder, "--pictures 8 --params -99% --dry-run")).contains("the fewest"));
    let before = std::fs::read_dir(folder).unwrap().count();
    done(&prune(folder, "--pictures 8 --macs -20% --dry-run"));
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), before);
    // A file is no larger than was asked for, with all that is in it.
    let whole = folder.join("base.safetensors").metadata().unwrap().len();
    done(&prune(folder, &format!("--pictures 8 --bytes {}kB --out light.safetensors", whole * 7 / 10_000)));
    let light = folder.join("light.safetensors").metadata().unwrap().len();
    assert!((whole / 2..=whole * 7 / 10).contains(&light), "{light} of {whole}");
    let told = model(folder, "light.safetensors").card.provenance.join("; ");
    assert!(told.contains("--bytes"), "{told}");
    assert!(complaint(&prune(folder, "--params 40ms --dry-run")).contains("milliseconds"));
}

#[test]
fn a_limit_on_latency_goes_by_a_profile() {
    let folder = place();
    let folder = folder.path();
    let bench = Command::new(env!("CARGO_BIN_EXE_detrim"))
        .current_dir(folder)
        .args("bench base.safetensors --backend cpu --runs 1 --profile device.json".split(' '))
        .output()
        .unwrap();
    done(&bench);
    assert!(complaint(&prune(folder, "--latency 1.3x --dry-run")).contains("--profile"));
    let text = done(&prune(folder, "--pictures 8 --latency 1.3x --profile device.json --out fast.safetensors"));
    let predicted = text.lines().find(|line| line.starts_with("milliseconds")).and_then(|line| line.split(['(', 'x']).nth(1)?.parse::<f64>().ok());
    assert!(predicted.is_some_and(|times| times >= 1.295), "{text}");
    assert_ne!(model(folder, "fast.safetensors").config, network().config);
    assert!(complaint(&prune(folder, "--pictures 8 --latency 1000x --profile device.json --dry-run")).contains("the fewest"));
}

#[test]
fn a_smaller_input_is_part_of_a_plan() {
    let folder = place();
    let folder = folder.path();
    std::fs::write(folder.join("plan.toml"), "resize = { rule = \"stretch\", height = 32, width = 64 }\n[keep]\n\"encoder.0.ffn\" = 40\n").unwrap();
    let text = done(&prune(folder, "--pictures 8 --plan plan.toml --out small.safetensors"));
    assert!(text.contains("32 × 64") && text.contains("64 × 96"), "{text}");
    // The network is the same at another size: its outputs are not those at the parent's size, nor anything else.
    assert!((0.001..1.0).contains(&difference(&text)), "{text}");
    let small = model(folder, "small.safetensors");
    assert_eq!(small.config.pixels.resize, Resize::Stretch { height: 32, width: 64 });
    assert_eq!(small.config.encoder[0].ffn, 40);
    done(&prune(folder, "--plan small.toml --out again.safetensors"));
    let again = model(folder, "again.safetensors");
    assert_eq!((small.config, small.weights), (again.config, again.weights));

    std::fs::write(folder.join("none.toml"), "resize = { rule = \"stretch\", height = 0, width = 64 }\n").unwrap();
    assert!(complaint(&prune(folder, "--plan none.toml --out x.safetensors")).contains("none.toml"));

    // A budget makes use of it, unless the input is to keep its size.
    let fewest = |options: &str| -> f64 {
        let text = complaint(&prune(folder, &format!("--pictures 8 --macs -99.9% --dry-run {options}")));
        text.split(" are the fewest").next().and_then(|text| text.rsplit(' ').next()).unwrap().parse().unwrap()
    };
    let (free, fixed) = (fewest(""), fewest("--keep-size"));
    assert!(free < 0.5 * fixed, "{free} {fixed}");
    done(&prune(folder, &format!("--pictures 8 --macs {} --out small.safetensors", 0.9 * fixed)));
    assert_ne!(model(folder, "small.safetensors").config.pixels, network().config.pixels);
}

#[test]
fn wrong_input_is_named() {
    let folder = place();
    let folder = folder.path();
    let recipe = |text: &str| {
        std::fs::write(folder.join("recipe.toml"), text).unwrap();
        complaint(&prune(folder, "--pictures 4 --recipe recipe.toml --out x.safetensors"))
    };
    assert!(recipe("[keep]\n\"encoder.9.ffn\" = 0.5\n").contains("encoder.9.ffn"));
    assert!(recipe("[kep]\n").contains("recipe.toml"));
    // Its plan would be written over it.
    assert!(complaint(&prune(folder, "--recipe recipe.toml --out recipe.safetensors")).contains("would be written over"));
    assert!(std::fs::read_to_string(folder.join("recipe.toml")).unwrap().starts_with("[kep]"));
    assert!(complaint(&prune(folder, "--recipe heads --pictures 0 --out x.safetensors")).contains("above 0"));
    assert!(recipe("[keep]\n\"*.ffn\" = 1.5\n").contains("share"));
    assert!(complaint(&prune(folder, "--recipe nothing --out x.safetensors")).contains("layers, heads"));
    assert!(complaint(&prune(folder, "--out x.safetensors")).contains("nothing is asked for"));
    std::fs::write(folder.join("plan.toml"), "[keep]\n\"encoder.0.ffn\" = [3, 2]\n").unwrap();
    assert!(complaint(&prune(folder, "--plan plan.toml --out x.safetensors")).contains("ascending"));
    std::fs::create_dir(folder.join("none")).unwrap();
    std::fs::write(folder.join("none/a.png"), "not a picture").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_detrim"))
        .current_dir(folder)
        .args("prune base.safetensors --images none --recipe heads --out x.safetensors".split(' '))
        .output()
        .unwrap();
    assert!(complaint(&output).contains("a.png") && !complaint(&output).contains("a.png: a.png"), "{}", complaint(&output));
    // What is asked for is looked at before any picture is.
    for (options, expected) in [("--params -99%", "the fewest"), ("--recipe recipe.toml", "share"), ("--recipe nothing", "neither a preset")] {
        let options = format!("prune base.safetensors --images none --out x.safetensors {options}");
        let output = Command::new(env!("CARGO_BIN_EXE_detrim")).current_dir(folder).args(options.split(' ')).output().unwrap();
        assert!(complaint(&output).contains(expected) && !complaint(&output).contains("a.png"), "{}", complaint(&output));
    }
    assert!(!folder.join("x.safetensors").exists());
}

#[test]
fn a_plan_is_carried_out_at_the_size_that_it_was_made_for() {
    let folder = place();
    let folder = folder.path();
    let options = "--plan small.toml --out again.safetensors";
    done(&prune(folder, "--pictures 4 --recipe heads --resize 32x64 --out small.safetensors"));
    let problem = complaint(&prune(folder, options));
    assert!(problem.contains("small.toml") && problem.contains("32 × 64") && problem.contains("--resize"), "{problem}");
    done(&prune(folder, &format!("{options} --resize 32x64")));
    assert_eq!(model(folder, "again.safetensors").weights, model(folder, "small.safetensors").weights);
}

#[test]
fn a_network_in_int8_is_trimmed_too() {
    let folder = place();
    let folder = folder.path();
    write_own(&folder.join("base.safetensors"), &network(), Storage::Int8).unwrap();
    let text = done(&prune(folder, "--pictures 8 --recipe channels --out small.safetensors"));
    assert!(difference(&text).is_finite(), "{text}");
    assert!(model(folder, "small.safetensors").config.encoder.iter().all(|layer| layer.ffn == 24));
}

#[cfg(unix)]
#[test]
fn what_is_interrupted_leaves_what_was_there() {
    let folder = place();
    let folder = folder.path();
    done(&prune(folder, "--pictures 4 --recipe heads --out small.safetensors"));
    let all = || {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file());
        files.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = all();
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args("prune base.safetensors --images photos --params -40% --out small.safetensors".split(' '));
    let child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(50));
    // Not INT, as Ctrl-C sends: tests that a shell runs in the background inherit that it is ignored.
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(!child.wait_with_output().unwrap().status.success());
    assert_eq!(all(), before);
}

#[test]
fn the_first_decoder_layer_that_stays_is_folded_in_the_end() {
    let folder = place();
    let folder = folder.path();
    let size = |name: &str| std::fs::metadata(folder.join(name)).unwrap().len();
    for drop in ["", "decoder = 0.67", "decoder = 1"] {
        std::fs::write(folder.join("recipe.toml"), format!("[layers]\n{drop}\n[keep]\n\"*_attention\" = 2\n")).unwrap();
        let run = |options: &str| done(&prune(folder, &format!("--pictures 8 --recipe recipe.toml {options}")));
        let text = run("--out folded.safetensors");
        run("--no-fold --out whole.safetensors");
        let (folded, whole) = (model(folder, "folded.safetensors"), model(folder, "whole.safetensors"));
        assert!(folded.config.decoder[0].self_attention.is_none() && whole.config.decoder[0].self_attention.is_some());
        assert!(folded.config.decoder.iter().skip(1).all(|layer| layer.self_attention.is_some_and(|attention| attention.heads == 2)));
        assert_eq!(folded.config.decoder.len(), whole.config.decoder.len());
        assert!(folded.config.query_content && size("folded.safetensors") < size("whole.safetensors"));
        // What is printed is the folded network's: nothing is said of heads that are cut where all go.
        let parameters: usize = detrim::layout::layout(&folded.config)
            .iter()
            .filter(|entry| !(entry.name.starts_with("backbone.") && entry.name.ends_with(".bias")))
            .map(|entry| entry.shape.iter().product::<usize>())
            .sum();
        assert!(text.contains(&format!("→ {:.2} M", parameters as f64 / 1e6)) && text.contains("folded"), "{text}");

        let plan = Plan::parse(&std::fs::read_to_string(folder.join("folded.toml")).unwrap(), "folded.toml").unwrap();
        assert!(plan.fold);
        assert_eq!(plan.config(&network().config.into()), folded.config.clone().into());
        done(&prune(folder, "--plan folded.toml --out again.safetensors"));
        let again = model(folder, "again.safetensors");
        assert_eq!((again.config, again.weights), (folded.config, folded.weights));
    }
}

/// What is folded has no heads to cut there; another first layer is folded in its turn.
#[test]
fn a_folded_network_is_trimmed_again() {
    let folder = place();
    let folder = folder.path();
    let mut parent = network();
    assert!(detrim::fold::fold(&mut parent.config, &mut parent.weights).unwrap());
    write_own(&folder.join("base.safetensors"), &parent, Storage::F32).unwrap();
    for (plan, repair) in [("", ""), ("drop_decoder = [0]\n", ""), ("drop_decoder = [0]\n", "[origin]\npictures = 8\nrepair = true\n")] {
        std::fs::write(folder.join("plan.toml"), format!("{plan}fold = true\n{repair}[keep]\n\"decoder.1.self_attention\" = 3\n")).unwrap();
        let text = done(&prune(folder, "--pictures 8 --plan plan.toml --out x.safetensors"));
        let trimmed = model(folder, "x.safetensors");
        let heads: Vec<Option<usize>> = trimmed.config.decoder.iter().map(|layer| layer.self_attention.map(|attention| attention.heads)).collect();
        assert_eq!(heads, if plan.is_empty() { vec![None, Some(3), Some(4)] } else { vec![None, Some(4)] });
        assert!(difference(&text).is_finite());
    }
    std::fs::write(folder.join("plan.toml"), "[keep]\n\"decoder.0.self_attention\" = 3\n").unwrap();
    assert!(complaint(&prune(folder, "--plan plan.toml --out y.safetensors")).contains("decoder.0.self_attention"));
    let text = done(&prune(folder, "--pictures 8 --params -30% --out z.safetensors"));
    assert!(model(folder, "z.safetensors").config.decoder[0].self_attention.is_none(), "{text}");
}

/// A trimmed ResNet runs as any network does, on both backends.
#[test]
fn a_resnet_is_trimmed_within_its_blocks_and_between_them() {
    let folder = place();
    let folder = folder.path();
    let small = |inner: Vec<usize>, stride, projection| ResNetBlock { inner, stride, dilation: 1, second_dilation: None, projection };
    let mut parent = network();
    parent.config.backbone = Backbone::Resnet(ResNet {
        stem: 8,
        stages: vec![
            ResNetStage { channels: 16, blocks: vec![small(vec![8, 8], 1, true), small(vec![8, 8], 1, false)] },
            ResNetStage { channels: 24, blocks: vec![small(vec![16, 16], 2, true)] },
        ],
    });
    let parent = random(parent.config, "tiny", 3);
    write_own(&folder.join("base.safetensors"), &parent, Storage::F32).unwrap();
    let keep = "[keep]\n\"backbone.stem\" = 6\n\"backbone.stage1\" = 12\n\"backbone.*.inner*\" = 6\n\"backbone.last\" = 16\n";
    std::fs::write(folder.join("recipe.toml"), keep).unwrap();
    let text = done(&prune(folder, "--pictures 12 --recipe recipe.toml --out x.safetensors"));
    let Backbone::Resnet(net) = model(folder, "x.safetensors").config.backbone else { panic!() };
    assert_eq!((net.stem, net.stages[0].channels, net.stages[1].channels), (6, 12, 16));
    assert!(net.stages.iter().flat_map(|stage| &stage.blocks).all(|block| block.inner == [6, 6]));
    assert!(difference(&text).is_finite(), "{text}");

    let trimmed = model(folder, "x.safetensors");
    let pixels = (0..2 * 70 * 90 * 3).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let case = Case { pixels: HostTensor::f32(&[2, 70, 90, 3], pixels), mask: None, expected: vec![] };
    let stages = |device| pollster::block_on(async { Runner::load(&trimmed, device).await?.run(&case).await }).unwrap();
    let differences = compare(&stages(Device::Gpu), &stages(Device::Cpu)).unwrap();
    assert!(differences.len() > 5 && differences.iter().all(Difference::fits), "{differences:?}");
}

/// Labels for the pictures of a [`place`], as `labels.json`.
fn label(folder: &Path) {
    let images: Vec<_> = (0..24).map(|i| serde_json::json!({ "id": i + 1, "file_name": format!("{i}.png"), "width": 60, "height": 60 })).collect();
    let boxes: Vec<_> =
        (0..24).map(|i| serde_json::json!({ "image_id": i + 1, "category_id": i % 3 + 1, "bbox": [5, 5, 20, 30], "iscrowd": 0 })).collect();
    let classes: Vec<_> = (1..=3).map(|id| serde_json::json!({ "id": id, "name": format!("class {id}") })).collect();
    let labels = serde_json::json!({ "images": images, "annotations": boxes, "categories": classes });
    std::fs::write(folder.join("labels.json"), labels.to_string()).unwrap();
}

#[test]
fn a_trimming_in_rounds_is_one_command_too() {
    let folder = place();
    let folder = folder.path();
    label(folder);
    std::fs::write(folder.join("first.toml"), "[keep]\n\"*.ffn\" = 0.5\n").unwrap();
    std::fs::write(folder.join("then.toml"), "multiple = 1\n[budget]\nparams = \"-40%\"\n").unwrap();
    write_own(&folder.join("base.safetensors"), &network(), Storage::F32).unwrap();
    let trim = |recipes: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.current_dir(folder).args("trim base.safetensors --images photos --labels labels.json".split(' ')).args(recipes.split(' '));
        command.args("--views 1 --pictures 8 --out small.safetensors".split(' ')).output().unwrap()
    };
    done(&trim("--recipe first.toml --steps 4"));
    assert!(folder.join("small.toml").exists());
    // What was one round becomes the first of two.
    let text = done(&trim("--recipe first.toml --recipe then.toml --steps 4"));
    assert!(!text.contains("round 1 of 2, 1/4") && text.contains("round 2 of 2, 1/4 detrim prune small.work/healing/last.safetensors"), "{text}");
    let part = |name: &str| model(&folder.join("small.work"), name);
    let count = |model: &Checkpoint| model.weights.tensors.values().map(|tensor| tensor.len()).sum::<usize>() as f64;
    let (whole, first, small) = (count(&model(folder, "base.safetensors")), count(&part("trimmed.safetensors")), model(folder, "small.safetensors"));
    // The share is the whole's: of the first round's network, less is left out.
    assert!(first > 0.62 * whole && count(&small) < 0.61 * whole && count(&small) > 0.62 * first, "{} of {first} of {whole}", count(&small));
    assert_eq!(small.config, part("trimmed2.safetensors").config);
    let trimmed = small.card.provenance.iter().filter(|line| line.starts_with("trimmed from")).count();
    assert_eq!(trimmed, 2, "{:?}", small.card.provenance);
    // Each plan goes by what it was for.
    done(&prune(folder, "--plan small.1.toml --out again.safetensors"));
    assert_eq!(model(folder, "again.safetensors").config, part("trimmed.safetensors").config);
    assert!(complaint(&prune(folder, "--plan small.2.toml --out again.safetensors")).contains("this plan is for"));
    // A finished round isn't trained on when it is what the next was trimmed from.
    let text = done(&trim("--recipe first.toml --recipe then.toml --steps 6"));
    assert!(!text.contains("round 1 of 2") && text.contains("6 steps of 6"), "{text}");
    assert!(complaint(&trim("--recipe then.toml --recipe first.toml --steps 4")).contains("another recipe"));
    assert!(complaint(&trim("--recipe first.toml --importance taylor")).contains("another importance"));
    done(&trim("--recipe first.toml --importance taylor --steps 1 --work other"));
    assert!(std::fs::read_to_string(folder.join("small.toml")).unwrap().contains("importance = \"taylor\""));
    // A round's plan isn't written over what the user gave.
    std::fs::copy(folder.join("first.toml"), folder.join("small.1.toml")).unwrap();
    assert!(complaint(&trim("--recipe small.1.toml --recipe then.toml --steps 4")).contains("would be written over"));
    let output = prune(folder, "--of base.safetensors --recipe first.toml --out x.safetensors");
    assert!(complaint(&output).contains("--of is what a budget is counted from"), "{}", complaint(&output));
}

#[test]
fn a_trimming_to_a_budget_is_one_command_too() {
    let folder = place();
    let folder = folder.path();
    label(folder);
    write_own(&folder.join("base.safetensors"), &network(), Storage::F32).unwrap();
    let trim = |budget: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.current_dir(folder).args("trim base.safetensors --images photos --labels labels.json --steps 2".split(' ')).args(budget.split(' '));
        command.args("--views 2 --close-ups 0.5 --repeat-rare 0.9 --pictures 8 --out small.safetensors".split(' ')).output().unwrap()
    };
    let text = done(&trim("--params -30%"));
    assert!(text.contains("--params=-30%") && text.contains("--close-ups 0.5 --repeat-rare 0.9"), "{text}");
    let count = |name| model(folder, name).weights.tensors.values().map(|tensor| tensor.len()).sum::<usize>() as f64;
    assert!(count("small.safetensors") < 0.7 * count("base.safetensors"));
    assert!(folder.join("small.toml").exists());
    // What is half done there is of another budget.
    assert!(complaint(&trim("--params -20%")).contains("another recipe"));
    // It is one or the other, and as wrong as it is for prune.
    assert!(complaint(&trim("--params -30% --recipe layers")).contains("cannot be used with"));
    assert!(complaint(&trim("--params 4MB --work other")).contains("the limit on params is given in bytes"));
}

#[test]
fn a_whole_trimming_is_one_command() {
    let folder = place();
    let folder = folder.path();
    label(folder);
    std::fs::write(folder.join("recipe.toml"), "[keep]\n\"*.ffn\" = 0.5\n").unwrap();
    // Stored in another type than the steps' copy of it.
    write_own(&folder.join("base.safetensors"), &network(), Storage::F16).unwrap();
    let trim = |steps: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.current_dir(folder).args("trim base.safetensors --recipe recipe.toml --images photos --labels labels.json".split(' '));
        command.args("--dev labels.json --views 1 --pictures 8 --dtype int8 --out small.safetensors --steps".split(' ')).arg(steps);
        command.output().unwrap()
    };
    let output = trim("6");
    let text = done(&output);
    for step in ["1/4 detrim prune", "2/4 detrim train", "3/4", "4/4 detrim eval", "against"] {
        assert!(text.contains(step), "{step}: {text}");
    }
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("teaches query by query"), "{told}");
    let small = model(folder, "small.safetensors");
    assert!(small.config.encoder.iter().all(|layer| layer.ffn == 24));
    // Folded before it is fine-tuned: what the queries hold is trained in the place of what was folded.
    let trimmed = model(&folder.join("small.work"), "trimmed.safetensors");
    assert!(small.config.decoder[0].self_attention.is_none() && trimmed.config == small.config);
    assert_ne!(small.weights.tensors["query_content"], trimmed.weights.tensors["query_content"].to_f16());
    assert!(small.card.provenance.iter().any(|line| line.contains("trimmed")) && small.card.provenance.iter().any(|line| line.contains("teacher")));
    // The plan is for the model that was given, whatever the steps worked on.
    done(&prune(folder, "--plan small.toml --out again.safetensors"));
    assert_eq!(model(folder, "again.safetensors").weights, trimmed.weights);
    assert!(small.card.provenance.iter().any(|line| line.contains("rounded to int8 on 8 pictures")), "{:?}", small.card);
    // What is done isn't done again, and more steps go on from there.
    let text = done(&trim("9"));
    assert!(!text.contains("1/4") && text.contains("9 steps of 9"), "{text}");
    // A limit on bytes is one on the file that comes of it.
    let whole = detrim::checkpoint::to_bytes(&network(), Storage::Int8).unwrap().len();
    std::fs::write(folder.join("bytes.toml"), format!("[budget]\nbytes = \"{}kB\"\n", whole * 4 / 5000)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).args("trim base.safetensors --recipe bytes.toml --images photos --labels labels.json".split(' '));
    done(&command.args("--views 1 --pictures 8 --dtype int8 --steps 1 --out light.safetensors".split(' ')).output().unwrap());
    let light = folder.join("light.safetensors").metadata().unwrap().len() as usize;
    assert!((whole * 2 / 5..=whole * 4 / 5).contains(&light), "{light} of {whole}");

    std::fs::write(folder.join("recipe.toml"), "[keep]\n\"*.ffn\" = 0.75\n").unwrap();
    assert!(complaint(&trim("12")).contains("another recipe"));
    std::fs::write(folder.join("recipe.toml"), "[keep]\n\"*.ffn\" = 0.5\n").unwrap();
    // What can't be fine-tuned isn't trimmed for it.
    let output = Command::new(env!("CARGO_BIN_EXE_detrim"))
        .current_dir(folder)
        .args("trim base.safetensors --resize 64:96 --images photos --labels labels.json --work other --out other.safetensors".split(' '))
        .output()
        .unwrap();
    assert!(complaint(&output).contains("--resize 480x640") && !folder.join("other").exists(), "{}", complaint(&output));
    // Another parent must not be healed in the place of this one.
    write_own(&folder.join("base.safetensors"), &random(network().config, "other", 8), Storage::F32).unwrap();
    assert!(complaint(&trim("12")).contains("another model"));
}

/// From a checkpoint of RT-DETR's family to a smaller int8 file, without training.
#[test]
fn the_family_is_trimmed_to_a_budget() {
    let folder = place();
    let folder = folder.path();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/family/deimv2-lite-as-trained/model.safetensors");
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).arg("trim").arg(&model).args("--resize 64x96 --images photos --pictures 12 --macs=-20% --steps 0".split(' '));
    let text = done(&command.args("--dtype int8 --out small.safetensors".split(' ')).output().unwrap());
    assert!(text.contains("difference of the outputs on 12 other pictures"), "{text}");
    let guess = Guess { resize: Some(Resize::Stretch { height: 64, width: 96 }), ..Guess::default() };
    let [whole, small] = [&model, &folder.join("small.safetensors")].map(|file| open_any(file, &guess).unwrap());
    let macs = |checkpoint: &Checkpoint<Architecture>| {
        let size = detrim::image::typical_size(checkpoint.config.pixels().resize).unwrap();
        detrim::eval::cost::cost(&checkpoint.config, size).iter().map(|part| part.macs).sum::<u64>()
    };
    assert!(macs(&small) <= macs(&whole) * 8 / 10, "{} {}", macs(&small), macs(&whole));
    let int8 = small.weights.tensors.values().filter(|tensor| matches!(tensor.data, detrim::weights::Data::I8(_))).count();
    assert!(int8 > 20, "{int8}");
    let plan = Plan::parse(&std::fs::read_to_string(folder.join("small.toml")).unwrap(), "small.toml").unwrap();
    plan.check(&whole.config).unwrap();
    assert_eq!(plan.config(&whole.config), small.config);

    // Only the last layers can go, and the message says so.
    std::fs::write(folder.join("plan.toml"), "drop_decoder = [0]\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
    command.current_dir(folder).arg("prune").arg(&model).args("--resize 64x96 --images photos --plan plan.toml --out no.safetensors".split(' '));
    assert!(complaint(&command.output().unwrap()).contains("only the last ones"));
}
