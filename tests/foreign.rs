//! Checkpoints of other projects: how the architecture is found, and what is said about a file that doesn't fit.

use crate::tiny::{self, Shapes};
use detrim::HostTensor;
use detrim::backend::Backend as _;
use detrim::checkpoint::{Checkpoint, Guess, open};
use detrim::config::{Activation, Attention, Backbone, Resize};
use detrim::cpu::{self, Cpu};
use detrim::model::Detr;
use safetensors::SafeTensors;
use std::path::Path;

const CONFIG: &str = r#"{
    "model_type": "detr", "backbone": "resnet50", "backbone_config": null, "dilation": false, "d_model": 8, "num_queries": 3, "encoder_layers": 1,
    "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 4, "encoder_ffn_dim": 6, "decoder_ffn_dim": 6,
    "activation_function": "gelu", "id2label": {"0": "cat", "1": "dog", "2": "unicorn"}
}"#;

/// The tiny network's backbone is none that has a name.
fn config() -> String {
    CONFIG.replace(r#""resnet50""#, "null")
}

fn read(shapes: &Shapes, config: Option<&str>, guess: &Guess) -> Result<Checkpoint, String> {
    let directory = tempfile::tempdir().unwrap();
    tiny::save(directory.path(), shapes, config);
    open(directory.path(), guess).map_err(|error| error.to_string())
}

/// The error about a tiny network that was changed.
fn problem(change: impl FnOnce(&mut Shapes), config: Option<&str>) -> String {
    let mut shapes = tiny::hugging_face();
    change(&mut shapes);
    read(&shapes, config, &Guess::default()).err().unwrap()
}

fn change(shapes: &mut Shapes, name: &str, shape: &[usize]) {
    assert!(shapes.insert(name.into(), shape.to_vec()).is_some(), "{name} is a new name");
}

#[test]
fn config_json_tells_what_shapes_cannot() {
    let checkpoint = read(&tiny::hugging_face(), Some(&config()), &Guess::default()).unwrap();
    let net = &checkpoint.config;
    assert_eq!((net.encoder[0].self_attention.heads, net.decoder[0].cross_attention.heads, net.activation), (2, 4, Activation::Gelu));
    assert_eq!(net.labels[2].name, "unicorn");
    assert!(matches!(&net.backbone, Backbone::Resnet(net) if net.stages.len() == 4 && net.stages[1].blocks[0].projection));
    // Only the pixel rule is nowhere stated.
    assert!(checkpoint.guesses.len() == 2 && checkpoint.guesses.iter().all(|g| g.contains("pi")), "{:?}", checkpoint.guesses);
}

#[test]
fn without_config_json_every_assumption_is_told() {
    let checkpoint = read(&tiny::hugging_face(), None, &Guess::default()).unwrap();
    assert_eq!(checkpoint.config.encoder[0].self_attention, Attention { heads: 8, head_width: 1 });
    for assumed in ["heads", "dilated", "relu", "softmax", "no names", "resized", "normalised"] {
        assert!(checkpoint.guesses.iter().any(|guess| guess.contains(assumed)), "{assumed}: {:?}", checkpoint.guesses);
    }
}

#[test]
fn options_go_before_config_json() {
    let guess = Guess { heads: Some(1), activation: Some(Activation::Silu), dilation: Some(true), ..Guess::default() };
    let net = read(&tiny::hugging_face(), Some(&config()), &guess).unwrap().config;
    assert_eq!((net.encoder[0].self_attention.heads, net.activation), (1, Activation::Silu));
    let Backbone::Resnet(net) = net.backbone else { panic!("a ResNet was expected") };
    let last = &net.stages[3].blocks[0];
    assert_eq!((last.stride, last.dilation, last.second_dilation), (1, 1, Some(2)));
}

#[test]
fn preprocessor_config_tells_the_pixel_rule() {
    let directory = tempfile::tempdir().unwrap();
    tiny::save(directory.path(), &tiny::hugging_face(), Some(&config()));
    for (size, expected) in [
        (r#""size": {"shortest_edge": 480, "longest_edge": 640}"#, Resize::ShortestSide { short: 480, long: 640 }),
        (r#""size": 512, "max_size": 900"#, Resize::ShortestSide { short: 512, long: 900 }),
        (r#""size": {"height": 320, "width": 416}"#, Resize::Stretch { height: 320, width: 416 }),
    ] {
        let text = format!(r#"{{{size}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "do_pad": true}}"#);
        std::fs::write(directory.path().join("preprocessor_config.json"), text).unwrap();
        let checkpoint = open(directory.path(), &Guess::default()).unwrap();
        assert_eq!((checkpoint.config.pixels.resize, checkpoint.config.pixels.std), (expected, [0.25; 3]));
        assert_eq!(checkpoint.guesses, Vec::<String>::new());
    }
}

#[test]
fn trimmed_layers_keep_the_width_of_their_heads() {
    let mut shapes = tiny::hugging_face();
    for part in ["q_proj", "k_proj", "v_proj"] {
        change(&mut shapes, &format!("model.encoder.layers.0.self_attn.{part}.weight"), &[6, 8]);
        change(&mut shapes, &format!("model.encoder.layers.0.self_attn.{part}.bias"), &[6]);
    }
    change(&mut shapes, "model.encoder.layers.0.self_attn.out_proj.weight", &[8, 6]);
    change(&mut shapes, "model.decoder.layers.0.fc1.weight", &[10, 8]);
    change(&mut shapes, "model.decoder.layers.0.fc1.bias", &[10]);
    change(&mut shapes, "model.decoder.layers.0.fc2.weight", &[8, 10]);
    let guess = Guess { heads: Some(4), ..Guess::default() };
    let net = read(&shapes, None, &guess).unwrap().config;
    assert_eq!(net.encoder[0].self_attention, Attention { heads: 3, head_width: 2 });
    assert_eq!(net.decoder[0].self_attention, Some(Attention { heads: 4, head_width: 2 }));
    assert_eq!((net.encoder[0].ffn, net.decoder[0].ffn), (6, 10));
    // A list in config.json says it layer by layer.
    let text = config().replace(r#""encoder_attention_heads": 2"#, r#""encoder_attention_heads": [2]"#);
    let text = text.replace(r#""decoder_ffn_dim": 6"#, r#""decoder_ffn_dim": [10]"#);
    assert_eq!(read(&shapes, Some(&text), &Guess::default()).unwrap().config.encoder[0].self_attention, Attention { heads: 2, head_width: 3 });
}

#[test]
fn what_does_not_fit_is_named() {
    let missing = problem(|shapes| drop(shapes.remove("model.decoder.layers.0.encoder_attn.k_proj.bias")), None);
    assert!(missing.contains("model.safetensors: tensor model.decoder.layers.0.encoder_attn.k_proj.bias is missing"), "{missing}");
    let missing = problem(|shapes| drop(shapes.remove("model.backbone.conv_encoder.model.layer3.0.bn2.running_var")), None);
    assert!(missing.contains("tensor model.backbone.conv_encoder.model.layer3.0.bn2.running_var is missing"), "{missing}");
    let missing = problem(|shapes| drop(shapes.remove("model.input_projection.weight")), None);
    assert!(missing.contains("tensor model.input_projection.weight is missing"), "{missing}");
    let wrong = problem(|shapes| change(shapes, "model.backbone.conv_encoder.model.layer2.0.conv2.weight", &[4, 5, 3, 3]), None);
    assert!(wrong.contains("layer2.0.conv2.weight has shape [4, 5, 3, 3], expected [4, 4, 3, 3]"), "{wrong}");
    let wrong = problem(|shapes| change(shapes, "class_labels_classifier.weight", &[4]), None);
    assert!(wrong.contains("tensor class_labels_classifier.weight has shape [4], expected [4, 8]"), "{wrong}");
    let wrong = problem(|shapes| change(shapes, "model.input_projection.weight", &[]), None);
    assert!(wrong.contains("tensor model.input_projection.weight has an impossible shape"), "{wrong}");
    let none = problem(|shapes| shapes.retain(|name, _| !name.contains("backbone")), None);
    assert!(none.contains("no backbone"), "{none}");
    let learned = problem(|shapes| drop(shapes.insert("model.position_embedding.row_embeddings.weight".into(), vec![50, 4])), None);
    assert!(learned.contains("row_embeddings.weight: learned position embeddings are not supported"), "{learned}");
    let twice = problem(|shapes| drop(shapes.insert("model.encoder.layers.0.mlp.fc1.weight".into(), vec![6, 8])), None);
    assert!(twice.contains("the same part"), "{twice}");
}

#[test]
fn a_config_json_of_another_network_is_refused() {
    for (from, to, expected) in [
        (r#""encoder_layers": 1"#, r#""encoder_layers": 6"#, "encoder_layers is 6, but the tensors say 1"),
        (r#""d_model": 8"#, r#""d_model": 256"#, "d_model is 256, but the tensors say 8"),
        (r#""decoder_ffn_dim": 6"#, r#""decoder_ffn_dim": 2048"#, "decoder_ffn_dim is 2048, but the tensors say 6"),
        (r#""encoder_attention_heads": 2"#, r#""encoder_attention_heads": 3"#, "can't be divided into 3 heads"),
        (r#""encoder_attention_heads": 2"#, r#""encoder_attention_heads": 0"#, "heads"),
        (r#", "2": "unicorn""#, "", "names 2 classes"),
        (r#""backbone": null"#, r#""backbone": "resnet50""#, "the backbone is resnet50"),
        (r#""backbone": null"#, r#""backbone": "swin_tiny""#, "the backbone is swin_tiny, which is not supported"),
        (r#""model_type": "detr""#, r#""model_type": "deformable_detr""#, "deformable_detr"),
        (r#""dilation": false"#, r#""position_embedding_type": "learned""#, "learned"),
        (r#""d_model": 8"#, r#""d_model": "eight""#, "config.json: d_model: invalid type"),
        (r#""d_model": 8"#, r#""d_model": "#, "config.json"),
    ] {
        let text = config().replace(from, to);
        assert_ne!(text, config(), "{from} is not there");
        let problem = problem(|_| (), Some(&text));
        assert!(problem.contains(expected), "{to}: {problem}");
    }
}

#[test]
fn tensors_without_a_use_are_told() {
    let mut shapes = tiny::hugging_face();
    shapes.insert("mask_head.lay1.weight".into(), vec![2, 2]);
    shapes.insert("model.backbone.conv_encoder.model.bn1.num_batches_tracked".into(), vec![]);
    let checkpoint = read(&shapes, Some(&config()), &Guess::default()).unwrap();
    assert!(checkpoint.guesses.iter().any(|guess| guess == "tensor mask_head.lay1.weight is not part of the detector"), "{:?}", checkpoint.guesses);
}

/// Half of everything: the convolution's 0.5 becomes 0.5 · 0.5 / √(0.5 + ε), its bias 0.5 − 0.5 · 0.5 / √(0.5 + ε).
#[test]
fn batch_norm_is_folded() {
    let weights = read(&tiny::hugging_face(), Some(&config()), &Guess::default()).unwrap().weights;
    let scale = 0.5 / (0.5f64 + 1e-5).sqrt();
    let stem = &weights.tensors["backbone.stem.weight"];
    assert_eq!(stem.shape, [4, 7, 7, 3]);
    assert!(stem.to_f32().iter().all(|&x| x == (0.5 * scale) as f32));
    assert!(weights.tensors["backbone.stem.bias"].to_f32().iter().all(|&x| x == (0.5 - 0.5 * scale) as f32));
}

/// timm dilates the second convolution of a dilated stage's first basic block, but not the first. Made by `make_dilated_fixture.py`.
#[test]
fn dilated_basic_blocks_give_what_timm_gives() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dilated");
    let bytes = std::fs::read(directory.join("case.safetensors")).unwrap();
    let case = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = |name: &str| {
        let view = case.tensor(name).unwrap();
        HostTensor::f32(view.shape(), view.data().as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect())
    };
    let (pixels, expected) = (tensor("pixels"), tensor("features"));
    let model = open(&directory, &Guess::default()).unwrap();
    let network = Detr::load(&Cpu, &model.config, &model.weights).unwrap();
    let features = network.features(&Cpu, &Cpu.constant(&pixels).unwrap()).unwrap();
    let features = cpu::to_host(&features).unwrap();
    assert_eq!(features.shape, expected.shape);
    let difference = features.to_f32().iter().zip(&*expected.to_f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(difference < 1e-5, "{difference}");
    // Strided, its last stage couldn't add its input to its output.
    let problem = open(&directory, &Guess { dilation: Some(false), ..Guess::default() }).err().unwrap().to_string();
    assert!(problem.contains("impossible stride"), "{problem}");
}

#[test]
fn a_backbone_alone_is_what_a_new_detector_begins_with() {
    let whole = tiny::hugging_face();
    let bare: Shapes =
        whole.iter().filter_map(|(name, shape)| Some((name.strip_prefix("model.backbone.conv_encoder.model.")?.into(), shape.clone()))).collect();
    let directory = tempfile::tempdir().unwrap();
    tiny::save(directory.path(), &bare, None);
    let size = Resize::Stretch { height: 32, width: 64 };
    let guess = Guess { resize: Some(size), mean: Some([0.5; 3]), ..Guess::default() };
    let found = detrim::checkpoint::open_backbone(directory.path(), &guess).unwrap();
    let expected = read(&whole, None, &Guess::default()).unwrap();
    assert_eq!(found.config.backbone, expected.config.backbone);
    assert_eq!((found.config.pixels.resize, found.config.pixels.mean), (size, [0.5; 3]));
    assert!(found.weights.tensors.iter().all(|(name, tensor)| expected.weights.tensors.get(name) == Some(tensor)));
    assert_eq!(found.weights.tensors.len(), expected.weights.tensors.keys().filter(|name| name.starts_with("backbone.")).count());
    // No detector, of course.
    assert!(open(directory.path(), &Guess::default()).unwrap_err().to_string().contains("a backbone alone"));
    // A detector will do, too.
    tiny::save(directory.path(), &whole, None);
    assert_eq!(detrim::checkpoint::open_backbone(directory.path(), &Guess::default()).unwrap().weights, expected.weights);
}
