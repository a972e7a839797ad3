//! Checkpoints as people have them: under any key and prefix, in shards and folders, with what was stated when they were trained.

use crate::tiny::{self, Item, Shapes};
use detrim::Config;
use detrim::checkpoint::{Beside, Checkpoint, ClassNames, Guess, Storage, import, open, random, read_own, to_bytes};
use detrim::config::{Attention, Backbone, DecoderLayer, EfficientNetLite, EncoderLayer, InvertedResidual, Label, Resize};
use std::path::Path;
use std::process::Command;

const CONFIG: &str = r#"{"model_type": "detr", "encoder_attention_heads": 2, "decoder_attention_heads": 2, "dilation": false, "id2label": {"0": "bolt", "1": "nut", "2": "pin"}}"#;

fn read(bytes: &[u8]) -> Result<Checkpoint, String> {
    import(&[bytes], &Beside::default(), "file", &Guess::default()).map_err(|error| error.to_string())
}

fn prefixed(prefix: &str, shapes: &Shapes) -> Shapes {
    shapes.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone())).collect()
}

fn beside(config: &str, preprocessor: &str) -> Beside {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_string());
    Beside { config: text(config), preprocessor: text(preprocessor) }
}

/// With what these texts say.
fn read_beside(config: &str, preprocessor: &str) -> Result<Checkpoint, String> {
    import(&[&tiny::bytes(&tiny::hugging_face())], &beside(config, preprocessor), "file", &Guess::default()).map_err(|error| error.to_string())
}

fn detrim(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_detrim")).args(arguments).output().unwrap();
    (output.status.success(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn a_prefix_that_all_names_share_is_no_part_of_them() {
    let plain = read(&tiny::bytes(&tiny::hugging_face())).unwrap();
    for shapes in [tiny::hugging_face(), tiny::original()] {
        for prefix in [
            "",
            "module.",
            "_orig_mod.",
            "model.",
            "net.",
            "detr.",
            "detector.model.",
            "base_model.model.",
            "module._orig_mod.student.",
            "a.b.c.d.e.",
        ] {
            let found = read(&tiny::bytes(&prefixed(prefix, &shapes))).unwrap_or_else(|problem| panic!("{prefix}: {problem}"));
            assert_eq!(found, plain, "{prefix}");
        }
    }
}

#[test]
fn a_state_dict_is_found_under_any_key() {
    let plain = read(&tiny::bytes(&tiny::hugging_face())).unwrap();
    let state = || Item::Tensors(tiny::original(), 0.5);
    let optimiser = || ("optimizer", Item::Dict(vec![("state", Item::Shared(3, 5))]));
    for key in ["model", "state_dict", "model_state_dict", "ema_state_dict", "ema", "net", "weights", "params", "best"] {
        let file = tiny::pth(&Item::Dict(vec![("epoch", Item::Int(7)), optimiser(), (key, state())]));
        assert_eq!(read(&file), Ok(plain.clone()), "{key}");
        let nested = Item::Dict(vec![(key, Item::Dict(vec![("module", state()), ("updates", Item::Int(3))])), optimiser()]);
        assert_eq!(read(&tiny::pth(&nested)), Ok(plain.clone()), "{key}.module");
        let wrapped = Item::Tensors(prefixed("module.", &tiny::original()), 0.5);
        assert_eq!(read(&tiny::pth(&Item::Dict(vec![(key, wrapped)]))), Ok(plain.clone()), "{key}, module.");
    }
    assert_eq!(read(&tiny::pth(&state())), Ok(plain));
}

#[test]
fn of_two_sets_of_weights_the_running_mean_is_taken_and_told() {
    let file = |ema: &str| {
        let (model, mean) = (Item::Tensors(tiny::original(), 0.5), Item::Tensors(tiny::original(), 0.25));
        read(&tiny::pth(&Item::Dict(vec![("model", model), (ema, Item::Dict(vec![("module", mean)]))]))).unwrap()
    };
    for ema in ["ema", "model_ema"] {
        let found = file(ema);
        assert_eq!(found.weights.tensors["query_position"].to_f32()[0], 0.25);
        assert!(
            found.guesses.iter().any(|guess| guess.contains(&format!("{ema}.module, the running mean; model has as many"))),
            "{:?}",
            found.guesses
        );
    }
}

#[test]
fn a_module_that_was_pickled_whole_is_read_as_its_state_dict() {
    fn module<'a>(parameters: Shapes, children: Vec<(&'a str, Item<'a>)>) -> Item<'a> {
        let buffers = Item::Tensors(Shapes::new(), 0.5);
        Item::Object(
            "anywhere",
            "Network",
            vec![
                ("training", Item::Bool(false)),
                ("_parameters", Item::Tensors(parameters, 0.5)),
                ("_buffers", buffers),
                ("_modules", Item::Dict(children)),
            ],
        )
    }
    // The tensors of one child, the rest at the top.
    let (inner, outer): (Shapes, Shapes) = tiny::original().into_iter().partition(|(name, _)| name.starts_with("transformer."));
    let inner = inner.into_iter().map(|(name, shape)| (name["transformer.".len()..].to_string(), shape)).collect();
    let whole = module(outer, vec![("transformer", module(inner, vec![]))]);
    let plain = read(&tiny::bytes(&tiny::hugging_face())).unwrap();
    assert_eq!(read(&tiny::pth(&whole)), Ok(plain.clone()));
    assert_eq!(read(&tiny::pth(&Item::Dict(vec![("epoch", Item::Int(1)), ("model", whole)]))), Ok(plain));
}

/// What a training program of facebookresearch/detr was started with is in its checkpoints.
#[test]
fn the_trainings_options_are_evidence() {
    let file = |options: Vec<(&'static str, Item<'static>)>, key: &str| {
        let arguments = Item::Object("argparse", "Namespace", options);
        tiny::pth(&Item::Dict(vec![(key, arguments), ("model", Item::Tensors(tiny::original(), 0.5))]))
    };
    let options = || {
        vec![
            ("nheads", Item::Int(4)),
            ("dilation", Item::Bool(true)),
            ("enc_layers", Item::Int(1)),
            ("dim_feedforward", Item::Int(6)),
            ("backbone", Item::Text("resnet18")),
        ]
    };
    for key in ["args", "hyper_parameters"] {
        // The tiny network's backbone is none that has a name.
        let found = read(&file(options().into_iter().take(4).collect(), key)).unwrap();
        let heads = Attention { heads: 4, head_width: 2 };
        assert_eq!((found.config.encoder[0].self_attention, found.config.decoder[0].cross_attention), (heads, heads));
        let Backbone::Resnet(net) = &found.config.backbone else { panic!("a ResNet was expected") };
        assert_eq!(net.stages[3].blocks[0].stride, 1, "dilated");
        for stated in ["heads", "dilated"] {
            assert!(!found.guesses.iter().any(|guess| guess.contains(stated)), "{stated}: {:?}", found.guesses);
        }
    }
    // Tensors that were exchanged since are believed; a network of another kind isn't.
    let found = read(&file(options(), "args")).unwrap();
    assert!(found.guesses.iter().any(|guess| guess.contains("the training's options say the backbone is resnet18")), "{:?}", found.guesses);
    for (option, word) in [(("pre_norm", Item::Bool(true)), "pre_norm"), (("position_embedding", Item::Text("learned")), "learned")] {
        assert!(read(&file(vec![option], "args")).unwrap_err().contains(word));
    }
    // What the caller says goes before.
    let guess = Guess { heads: Some(2), dilation: Some(false), ..Guess::default() };
    let found = import(&[&file(options(), "args")], &Beside::default(), "file", &guess).unwrap();
    assert_eq!(found.config.encoder[0].self_attention.heads, 2);
    // Names of classes that a program kept.
    let names = Item::Dict(vec![("0", Item::Text("bolt")), ("1", Item::Text("nut")), ("2", Item::Text("pin"))]);
    let found = read(&file(vec![("class_names", names)], "args")).unwrap();
    assert_eq!(found.config.labels[2].name, "pin");
}

#[test]
fn a_file_of_another_project_is_described() {
    let tensors = |names: &[&str]| names.iter().map(|name| (name.to_string(), vec![2])).collect::<Shapes>();
    for (names, words) in [
        (
            &["backbone.conv1.weight", "neck.convs.0.conv.weight", "bbox_head.fc_cls.weight"][..],
            &["3 tensors", "bbox_head.fc_cls.weight", "mmdetection"][..],
        ),
        (&["transformer.encoder.layers.0.attentions.0.attn.in_proj_weight", "class_embed.weight"], &["2 tensors", "detrex"]),
        (&["model.0.conv.weight", "model.22.cv2.0.weight"], &["model.0.conv.weight", "ultralytics"]),
        (&["blocks.0.attn.qkv.weight", "head.weight", "pos_embed"], &["blocks.0.attn.qkv.weight", "timm"]),
        (&["unheard.of"], &["unheard.of"]),
        (&["a\u{1b}[31m"], &["a\\u{1b}[31m"]),
    ] {
        for file in [tiny::bytes(&tensors(names)), tiny::pth(&Item::Dict(vec![("state_dict", Item::Tensors(tensors(names), 0.5))]))] {
            let problem = read(&file).unwrap_err();
            assert!(words.iter().all(|word| problem.contains(word)) && !problem.contains("input_proj"), "{problem}");
        }
    }
    let problem = read(&tiny::pth(&Item::Dict(vec![("epoch", Item::Int(3)), ("best_score", Item::Int(1))]))).unwrap_err();
    assert!(problem.contains("no tensors") && problem.contains("epoch, best_score"), "{problem}");
}

#[test]
fn many_tensors_of_one_storage_are_refused() {
    let file = tiny::pth(&Item::Dict(vec![("model", Item::Shared(1000, 10_000))]));
    let problem = read(&file).unwrap_err();
    assert!(problem.contains("share the same bytes"), "{problem}");
}

#[test]
fn shards_are_read_as_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second): (Shapes, Shapes) = tiny::hugging_face().into_iter().partition(|(name, _)| name.contains("backbone"));
    let files = [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)];
    let map: serde_json::Map<_, _> = files.iter().flat_map(|(file, shapes)| shapes.keys().map(move |name| (name.clone(), (*file).into()))).collect();
    let index = serde_json::json!({ "metadata": { "total_size": 1 }, "weight_map": map });
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    std::fs::write(folder.path().join("config.json"), CONFIG).unwrap();
    for (file, shapes) in &files {
        std::fs::write(folder.path().join(file), tiny::bytes(shapes)).unwrap();
    }
    let whole = read_beside(CONFIG, "").unwrap();
    let found = open(folder.path(), &Guess::default()).unwrap();
    assert_eq!((&found.config, &found.weights), (&whole.config, &whole.weights));
    assert_eq!(found.card.name, folder.path().file_name().unwrap().to_string_lossy());
    assert_eq!(open(&folder.path().join("model.safetensors.index.json"), &Guess::default()).unwrap().weights, whole.weights);
    // Two files with the same tensor are no shards.
    let bytes = tiny::bytes(&files[0].1);
    let problem = import(&[&bytes, &bytes], &Beside::default(), "file", &Guess::default()).unwrap_err().to_string();
    assert!(problem.contains("two of its files hold"), "{problem}");
}

#[test]
fn from_memory_is_as_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    tiny::save(folder.path(), &tiny::hugging_face(), Some(CONFIG));
    let preprocessor = r#"{"size": {"height": 32, "width": 48}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}"#;
    std::fs::write(folder.path().join("preprocessor_config.json"), preprocessor).unwrap();
    let opened = open(folder.path(), &Guess::default()).unwrap();
    let mut read = read_beside(CONFIG, preprocessor).unwrap();
    assert_eq!(read.config.pixels.resize, Resize::Stretch { height: 32, width: 48 });
    read.card.name = opened.card.name.clone();
    assert_eq!(opened, read);
    // Ours too.
    let own = to_bytes(&opened, Storage::F32).unwrap();
    assert_eq!(import(&[&own], &Beside::default(), "file", &Guess::default()).unwrap(), read_own(&own, "file").unwrap());
}

#[test]
fn what_the_preprocessor_states_is_neither_assumed_nor_passed_over() {
    for (preprocessor, resize, mean) in [
        (
            r#"{"image_processor_type": "DetrImageProcessor", "size": {"max_height": 480, "max_width": 500}}"#,
            Resize::Within { height: 480, width: 500 },
            0.485,
        ),
        (r#"{"image_processor_type": "DetrImageProcessor", "do_normalize": false}"#, Resize::ShortestSide { short: 800, long: 1333 }, 0.0),
        (r#"{"image_processor_type": "DetrImageProcessor", "do_resize": false}"#, Resize::Original, 0.485),
    ] {
        let found = read_beside(CONFIG, preprocessor).unwrap();
        assert_eq!((found.config.pixels.resize, found.config.pixels.mean[0]), (resize, mean), "{preprocessor}");
        let guesses: Vec<_> = found.guesses.iter().filter(|guess| guess.contains("pixels") || guess.contains("resized")).collect();
        assert!(guesses.is_empty(), "{guesses:?}");
        let again = read_own(&to_bytes(&found, Storage::F32).unwrap(), "x").unwrap();
        assert_eq!(again.config, found.config);
    }
    for (preprocessor, words) in [
        (r#"{"size": {"shortest_edge": 800}}"#, &["preprocessor_config.json", "size", "shortest_edge"][..]),
        (r#"{"size": 800, "resample": 3}"#, &["resample 3", "bicubic"]),
        (r#"{"do_center_crop": true}"#, &["do_center_crop"]),
        ("[]", &["preprocessor_config.json"]),
    ] {
        let problem = read_beside(CONFIG, preprocessor).unwrap_err();
        assert!(words.iter().all(|word| problem.contains(word)), "{problem}");
    }
    let padded = r#"{"image_processor_type": "DetrImageProcessor", "pad_size": {"height": 480, "width": 480}}"#;
    assert!(read_beside(CONFIG, padded).unwrap().guesses.iter().any(|guess| guess.contains("pad_size")));
}

#[test]
fn id2label_may_have_gaps_which_are_no_classes() {
    let names = |id2label: &str| {
        let config = CONFIG.replace(r#"{"0": "bolt", "1": "nut", "2": "pin"}"#, id2label);
        read_beside(&config, "").map(|found| (found.config.labels.into_iter().map(|label| label.name).collect::<Vec<_>>(), found.guesses))
    };
    let (labels, guesses) = names(r#"{"1": "bolt", "2": "nut", "3": "pin"}"#).unwrap();
    assert_eq!(labels, ["N/A", "bolt", "nut"]);
    assert!(
        guesses.iter().any(|guess| guess.contains("pin (3)")) && guesses.iter().any(|guess| guess.contains("no name for class 0")),
        "{guesses:?}"
    );
    let (labels, _) = names(r#"{"0": "bolt", "2": "pin"}"#).unwrap();
    assert_eq!(labels, ["bolt", "N/A", "pin"]);
    // Numbers for names are none, unless there is nothing else.
    let (labels, _) = names(r#"{"0": 0, "1": 1, "2": 2}, "label2id": {"bolt": 0, "nut": 1, "pin": 2}"#).unwrap();
    assert_eq!(labels, ["bolt", "nut", "pin"]);
    let (labels, guesses) = names(r#"{"0": 0, "1": 1, "2": 2}"#).unwrap();
    assert_eq!(labels, ["class 0", "class 1", "class 2"]);
    assert!(guesses.iter().any(|guess| guess.contains("--class-names")), "{guesses:?}");
    let (labels, _) = names(r#"{"0": "a\u001b[31mb", "1": "x", "2": "y"}"#).unwrap();
    assert_eq!(labels[0], "a [31mb");
}

#[test]
fn the_classes_of_a_pth_can_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("bare.pth"), tiny::pth(&Item::Tensors(tiny::original(), 0.5))).unwrap();
    std::fs::write(path("names.txt"), "bolt\nnut\npin\n").unwrap();
    std::fs::write(path("names.json"), CONFIG).unwrap();
    let labels = |file: &str| open(Path::new(file), &Guess::default()).unwrap().config.labels.into_iter().map(|label| label.name).collect::<Vec<_>>();
    let (done, told) = detrim(&["convert", &path("bare.pth"), "--out", &path("out.safetensors")]);
    assert!(done && told.contains("no names (--class-names FILE names them"), "{told}");
    for (option, file) in [("--labels", "names.txt"), ("--class-names", "names.txt"), ("--labels", "names.json")] {
        let (done, told) = detrim(&["convert", &path("bare.pth"), option, &path(file), "--out", &path("out.safetensors")]);
        assert!(done && !told.contains("names"), "{told}");
        assert_eq!(labels(&path("out.safetensors")), ["bolt", "nut", "pin"]);
    }
    // Of our own file they are new names.
    std::fs::write(path("names.txt"), "screw\nwasher\nnail\n").unwrap();
    assert!(detrim(&["convert", &path("out.safetensors"), "--labels", &path("names.txt"), "--out", &path("again.safetensors")]).0);
    assert_eq!(labels(&path("again.safetensors")), ["screw", "washer", "nail"]);
    let (done, told) = detrim(&["inspect", &path("bare.pth"), "--labels", &path("names.txt")]);
    assert!(done && !told.contains("no names"), "{told}");
    std::fs::write(path("names.txt"), "screw\n").unwrap();
    let (done, told) = detrim(&["inspect", &path("bare.pth"), "--labels", &path("names.txt")]);
    assert!(!done && told.contains("names 1 classes, but the class head has 3"), "{told}");
    assert!(ClassNames::parse("", "x").is_err());
}

#[test]
fn system_errors_are_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    std::fs::write(path("tiny.safetensors"), tiny::bytes(&tiny::hugging_face())).unwrap();
    let said = |arguments: &[&str]| {
        let (done, told) = detrim(arguments);
        assert!(!done, "{arguments:?}");
        told
    };
    assert_eq!(said(&["inspect", "nowhere.safetensors"]), "error: nowhere.safetensors: No such file or folder\n");
    assert!(said(&["inspect", "facebook/detr-resnet-50"]).contains("hf download facebook/detr-resnet-50"));
    let told = said(&["convert", &path("tiny.safetensors"), "--out", &path("")]);
    assert!(told.contains("is a directory, not a file to write") && !told.contains("os error"), "{told}");
    let told = said(&["convert", &path("tiny.safetensors"), "--out", &path("absent/x.safetensors")]);
    assert!(told.contains("folder isn't there"), "{told}");
    for (file, word) in
        [("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"), ("<!DOCTYPE html>", "web page"), ("", "empty")]
    {
        std::fs::write(path("model.safetensors"), file).unwrap();
        let told = said(&["inspect", &path("model.safetensors")]);
        assert!(told.contains("model.safetensors: ") && told.contains(word), "{told}");
    }
}

/// One block of stride 1 and one layer of each kind: little to read, and as much to compute as the input's size makes it.
fn small(resize: Resize) -> Checkpoint {
    let attention = Attention { heads: 2, head_width: 4 };
    let block = InvertedResidual { expansion: None, kernel: 3, stride: 1, channels: 4, residual: false };
    let mut config = Config::detr(Backbone::EfficientNetLite(EfficientNetLite { stem: 4, stages: vec![vec![block]] }));
    config.d_model = 8;
    config.encoder = vec![EncoderLayer { self_attention: attention, ffn: 8 }];
    config.decoder = vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 8 }];
    (config.queries, config.classes) = (3, 3);
    config.labels = ["cat", "dog"].map(|name| Label { id: 1, name: name.into() }).into();
    config.pixels.resize = resize;
    random(config, "small", 1)
}

#[test]
fn a_network_that_takes_too_much_is_refused_with_the_number_and_an_option() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/pictures/rgb.png");
    let large = small(Resize::Stretch { height: 4096, width: 4096 });
    std::fs::write(path("large.safetensors"), to_bytes(&large, Storage::F32).unwrap()).unwrap();
    let (done, told) = detrim(&["detect", photo, "--model", &path("large.safetensors"), "--backend", "cpu"]);
    assert!(!done && told.contains("GMAC") && told.contains("--max-gmac"), "{told}");
    // What it costs can be looked at, and a smaller input is affordable.
    assert!(detrim(&["inspect", &path("large.safetensors")]).0);
    assert!(detrim(&["detect", photo, "--model", &path("large.safetensors"), "--backend", "cpu", "--resize", "32x32"]).0);
    let (done, told) = detrim(&["detect", photo, "--model", &path("large.safetensors"), "--backend", "cpu", "--resize", "32x32", "--max-gmac", "0"]);
    assert!(!done && told.contains("0 are allowed"), "{told}");
    let (done, told) =
        detrim(&["detect", photo, "--model", &path("large.safetensors"), "--backend", "cpu", "--resize", "512x512", "--max-activation", "0"]);
    assert!(!done && told.contains("--max-activation"), "{told}");
    // Pictures as they are: small ones are no problem.
    let original = small(Resize::Original);
    std::fs::write(path("original.safetensors"), to_bytes(&original, Storage::F32).unwrap()).unwrap();
    assert!(detrim(&["detect", photo, "--model", &path("original.safetensors"), "--backend", "cpu", "--max-gmac", "100000000"]).0);
}

#[test]
fn a_card_that_cannot_be_right_is_passed_over() {
    let mut checkpoint = small(Resize::Original);
    checkpoint.card.threshold = Some(7.0);
    checkpoint.card.name = "a\u{1b}]0;b\u{7}c".into();
    checkpoint.config.labels[0].name = "c\u{1b}[2Jat\nx".into();
    let found = read_own(&to_bytes(&checkpoint, Storage::F32).unwrap(), "x").unwrap();
    assert_eq!((found.card.threshold, &found.card.name[..], &found.config.labels[0].name[..]), (None, "a ]0;b c", "c [2Jat x"));
    assert!(found.guesses.iter().any(|guess| guess.contains("threshold 7")), "{:?}", found.guesses);
    let (done, told) = detrim(&["convert", "--random", "resnet18", "--out", "never.safetensors", "--threshold", "1.5"]);
    assert!(!done && told.contains("from 0 to 1"), "{told}");
}

#[test]
fn more_layers_than_any_network_has_are_refused() {
    let mut checkpoint = small(Resize::Original);
    let layer = checkpoint.config.encoder[0].clone();
    checkpoint.config.encoder = vec![layer; 2000];
    let problem = checkpoint.config.check().unwrap_err().to_string();
    assert!(problem.contains("2000 layers"), "{problem}");
}
