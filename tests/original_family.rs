//! Checkpoints of RT-DETR's family under the names of the repositories that train them (see make_rt_detr_original_fixtures.py): the same networks
//! as under transformers' names, and what is said where the file doesn't tell something or is of a related project.

use crate::tiny::{self, Shapes};
use detrim::checkpoint::{Beside, Checkpoint, ClassNames, Guess, import, open_any};
use detrim::config::{Activation, Architecture, MultiScaleBackbone, Neck, Resize, RtDetr};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn original(name: &str, guess: &Guess) -> Result<Checkpoint<Architecture>, String> {
    open_any(&fixture(&format!("original-family/{name}.pth")), guess).map_err(|error| error.to_string())
}

fn family(name: &str, guess: &Guess) -> Checkpoint<Architecture> {
    open_any(&fixture(&format!("family/{name}")), guess).unwrap()
}

fn rt_detr(checkpoint: &Checkpoint<Architecture>) -> &RtDetr {
    match &checkpoint.config {
        Architecture::RtDetr(config) => config,
        Architecture::Detr(_) => panic!("an RT-DETR was expected"),
    }
}

/// What no tensor of the fixtures tells.
fn guess(heads: usize, queries: usize) -> Guess {
    let names = ClassNames::parse("person\nbicycle\ncar\nmotorcycle\nairplane\n", "names").unwrap();
    Guess { heads: Some(heads), queries: Some(queries), class_names: Some(names), ..Guess::default() }
}

#[test]
fn the_original_names_lead_to_the_same_networks() {
    let small = Guess { resize: Some(Resize::Stretch { height: 64, width: 96 }), ..guess(4, 7) };
    for (name, theirs, guess) in [
        ("rt_detr", "rt_detr-levels", small),
        ("rt_detr_v2", "rt_detr_v2", guess(2, 9)),
        ("d_fine", "d_fine", guess(2, 9)),
        // As trained, which is what a DEIMv2 under transformers' names is computed as by default.
        ("deimv2-hybrid", "deimv2-hybrid", guess(2, 9)),
        ("deimv2-lite", "deimv2-lite-as-trained", guess(2, 9)),
    ] {
        let found = original(name, &guess).unwrap();
        let mut expected = family(theirs, &Guess::default());
        if let Architecture::RtDetr(config) = &mut expected.config {
            // No repository has another one.
            config.decoder.offset_scale = 0.5;
        }
        assert_eq!(found.config, expected.config, "{name}");
        assert_eq!(found.weights, expected.weights, "{name}");
        assert!(!found.guesses.iter().any(|guess| guess.contains("not part")), "{name}: {:?}", found.guesses);
    }
}

#[test]
fn what_an_original_file_does_not_say_is_told() {
    for (name, words) in [
        (
            "rt_detr",
            &["300 tokens", "8 attention heads in encoder and decoder", "relu", "2 of 2 decoder layers", "640", "no names", "divided by 255"][..],
        ),
        ("rt_detr_v2", &["300 tokens", "attention heads in the encoder", "relu", "--sampling discrete", "3 of 3 decoder layers", "anchors"]),
        ("d_fine", &["300 tokens", "DEIM's", "--activation", "anchors"]),
        ("deimv2-hybrid", &["attention heads in the encoder", "rows and columns", "anchors"]),
        ("deimv2-lite", &["300 tokens", "3 of 3", "anchors"]),
    ] {
        let found = original(name, &Guess::default()).unwrap();
        for word in words {
            assert!(found.guesses.iter().any(|guess| guess.contains(word)), "{name}, {word}: {:?}", found.guesses);
        }
        let size = if name == "rt_detr" { [640, 640] } else { [64, 96] };
        assert_eq!(rt_detr(&found).pixels.resize, Resize::Stretch { height: size[0], width: size[1] }, "{name}");
    }
    // Heads that the sampling points tell aren't assumed.
    assert_eq!(rt_detr(&original("deimv2-lite", &Guess::default()).unwrap()).decoder.self_attention.heads, 4);
}

#[test]
fn options_and_a_hub_config_go_before_what_was_published() {
    let guess = Guess { activation: Some(Activation::Silu), decoder_layers: Some(2), ..guess(2, 5) };
    let found = original("d_fine", &guess).unwrap();
    let net = rt_detr(&found);
    assert_eq!((net.decoder.layers, net.queries, net.decoder.activation, net.selection.activation), (2, 5, Activation::Silu, Activation::Silu));
    assert!(matches!(&net.neck, Neck::Hybrid(neck) if neck.ffn_activation == Activation::Gelu));
    let problem = original("d_fine", &Guess { decoder_layers: Some(4), ..Guess::default() }).unwrap_err();
    assert!(problem.contains("4 decoder layers") && problem.contains("it has 3"), "{problem}");

    // As PyTorchModelHubMixin saves what the modules were made with.
    let config = r#"{
        "HGNetv2": {"name": "B0", "return_idx": [2, 3]},
        "HybridEncoder": {"nhead": 2, "use_encoder_idx": [1], "enc_act": "relu", "act": "silu"},
        "DEIMTransformer": {"num_queries": 9, "eval_idx": 1, "cross_attn_method": "discrete", "mlp_act": "silu"},
        "PostProcessor": {"num_top_queries": 300}
    }"#;
    let bytes = std::fs::read(fixture("original-family/deimv2-hybrid.pth")).unwrap();
    let found = import(&[&bytes], &Beside { config: Some(config.into()), preprocessor: None }, "model.pth", &Guess::default()).unwrap();
    let net = rt_detr(&found);
    assert_eq!((net.queries, net.decoder.layers, net.decoder.method), (9, 2, detrim::backend::SamplingMethod::Discrete));
    assert!(matches!(&net.neck, Neck::Hybrid(neck) if neck.ffn_activation == Activation::Relu && neck.layers[0].self_attention.heads == 2));
    for stated in ["queries", "attention heads", "decoder layers"] {
        assert!(!found.guesses.iter().any(|guess| guess.contains(stated)), "{stated}: {:?}", found.guesses);
    }
}

#[test]
fn deimv2_is_computed_as_trained_unless_transformers_is_asked_for() {
    let exact = Guess { exact_transformers: true, ..Guess::default() };
    let (trained, stock) = (family("deimv2-hybrid", &Guess::default()), family("deimv2-hybrid", &exact));
    let computed = |checkpoint: &Checkpoint<Architecture>| {
        let net = rt_detr(checkpoint);
        (net.selection.output, net.selection.activation, net.decoder.position.once)
    };
    assert_eq!(computed(&trained), (false, Activation::Silu, true));
    assert_eq!(computed(&stock), (true, Activation::Relu, false));
    let told = |checkpoint: &Checkpoint<Architecture>| checkpoint.guesses.iter().any(|guess| guess.contains("--exact-transformers"));
    assert!(told(&trained) && !told(&stock));
    // The repository's names have one meaning only.
    let problem = original("deimv2-hybrid", &exact).unwrap_err();
    assert!(problem.contains("exact_transformers") && problem.contains("original"), "{problem}");
}

/// Names that kept their places in the ONNX file of a real DEIMv2-Femto.
#[test]
fn the_names_of_a_deployed_deimv2_are_those_of_the_fixture() {
    let state = original("deimv2-lite", &guess(2, 9)).unwrap();
    assert!(matches!(&rt_detr(&state).backbone, MultiScaleBackbone::Hgnetv2(net) if net.stages.len() == 3));
    let bytes = std::fs::read(fixture("original-family/deimv2-lite.pth")).unwrap();
    // Names stand in the file's pickle as they are. The fixture has fewer layers.
    let numberless = |text: &str| text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect::<String>();
    let text = numberless(&String::from_utf8_lossy(&bytes));
    let names = std::fs::read_to_string(fixture("original-family/deimv2-names.txt")).unwrap();
    assert!(names.lines().count() > 50);
    for line in names.lines() {
        let name = line.split(' ').next().unwrap();
        assert!(text.contains(&numberless(name)), "{name}");
    }
}

#[test]
fn a_checkpoint_of_a_related_project_says_what_it_is_and_what_to_do() {
    let file = |names: &[&str]| tiny::bytes(&names.iter().map(|name| (name.to_string(), vec![2, 2])).collect::<Shapes>());
    let ask = |bytes: &[u8]| import(&[bytes], &Beside::default(), "it", &Guess::default()).unwrap_err().to_string();
    let heads = ["model.decoder.enc_score_head.weight", "model.decoder.dec_score_head.0.weight", "model.decoder.decoder.layers.0.swish_ffn.w3.bias"];
    let with = |names: &[&'static str]| file(&[&heads, names].concat());
    for (bytes, words) in [
        (with(&["model.backbone.dinov3.blocks.0.attn.qkv.weight"]), &["DINOv3", "Atto, Femto, Pico and N"][..]),
        (with(&["model.encoder.bi_fusion.cv.conv_bn_fused.weight"]), &["convert_to_deploy", "give the checkpoint that was trained"]),
        (with(&["model.backbone.conv1.conv1_1.conv.weight", "model.backbone.res_layers.0.blocks.0.branch2a.conv.weight"]), &["variant"]),
        (with(&["model.backbone.layers.0.blocks.0.weight"]), &["model.backbone.layers.0.blocks.0.weight", "PResNet", "HGNetV2"]),
        (file(&["model.28.enc_score_head.weight", "model.0.stem1.conv.weight"]), &["ultralytics", "lyuwenyu/RT-DETR"]),
        (file(&["bbox_head.cls_branches.0.weight", "neck.convs.0.conv.weight"]), &["mmdetection", "own repository"]),
        (file(&["transformer.encoder.layers.0.attentions.0.attn.in_proj_weight"]), &["detrex", "own repository"]),
        (file(&["model.decoder_input_proj.0.0.weight", "model.enc_score_head.weight"]), &["config.json must lie beside it"]),
        (b"\x80\x04\x95}\x8c\x15numpy.core.multiarray\x8c\x0c_reconstruct".to_vec(), &["PaddlePaddle", ".pdparams", "lyuwenyu/RT-DETR"]),
    ] {
        let problem = ask(&bytes);
        assert!(words.iter().all(|word| problem.contains(word)), "{words:?}: {problem}");
    }
}

#[test]
fn a_missing_tensor_is_called_as_the_repository_calls_it() {
    let lines = std::fs::read_to_string(fixture("original-family/deimv2-names.txt")).unwrap();
    let shape = |text: &str| text.trim_matches(['[', ']']).split(", ").filter_map(|side| side.parse().ok()).collect::<Vec<usize>>();
    let mut shapes: Shapes =
        lines.lines().filter_map(|line| line.split_once(' ')).map(|(name, sides)| (format!("model.{name}"), shape(sides))).collect();
    shapes.insert("model.decoder.enc_score_head.weight".into(), vec![80, 96]);
    shapes.insert("model.decoder.dec_score_head.0.weight".into(), vec![80, 96]);
    let problem = import(&[&tiny::bytes(&shapes)], &Beside::default(), "it", &Guess::default()).unwrap_err().to_string();
    assert!(problem.contains("encoder.input_proj"), "{problem}");
}
