//! Where bytes from the wild come in: a function for each kind of file, which must return whatever it is given, and name the file where it
//! refuses it. The tests try some thousand changed files on them, the fuzz targets (`fuzz/`) as many as there is time for.

use crate::tiny;
use ::safetensors::SafeTensors;
use detrim::Config;
use detrim::checkpoint::{Card, Checkpoint, Guess, Storage, open, random, read_own, to_bytes};
use detrim::config::{Attention, Backbone, DecoderLayer, EncoderLayer, Label, Pixels, ResNet, Resize};
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::coco::detections::read_detections;
use detrim::eval::coco::metrics::Evaluation;
use detrim::image;
use detrim::prune::budget::Meter;
use detrim::prune::plan::Plan;
use detrim::prune::recipe::Recipe;
use detrim::train::data::Pictures;
use detrim::train::run::State;
use detrim::train::state;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// What came of a file: a sentence if it was refused.
pub type Outcome = Result<(), String>;

/// A way in: its name, what is called with the bytes, and files to begin with.
pub struct Entry {
    pub name: &'static str,
    pub call: fn(&[u8]) -> Outcome,
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub static ENTRIES: [Entry; 8] = [
    Entry { name: "own", call: own, seeds: own_seeds },
    Entry { name: "safetensors", call: safetensors, seeds: safetensors_seeds },
    Entry { name: "config", call: config, seeds: config_seeds },
    Entry { name: "pickle", call: pickle, seeds: pickle_seeds },
    Entry { name: "image", call: picture, seeds: picture_seeds },
    Entry { name: "coco", call: coco, seeds: coco_seeds },
    Entry { name: "plan", call: plan, seeds: plan_seeds },
    Entry { name: "training_state", call: training_state, seeds: training_state_seeds },
];

/// Divides what is given into several files.
const DIVIDER: u8 = 0;

/// A small model of ours.
pub static MODEL: LazyLock<Checkpoint> = LazyLock::new(|| {
    let mut config = Config::detr(Backbone::Resnet(ResNet { stem: 4, stages: ResNet::of_depth(18, false).unwrap().stages }));
    let Backbone::Resnet(net) = &mut config.backbone else { unreachable!() };
    for stage in &mut net.stages {
        stage.channels = 4;
        stage.blocks.truncate(1);
        stage.blocks[0].inner = vec![4];
    }
    let attention = Attention { heads: 2, head_width: 3 };
    config.d_model = 8;
    config.encoder = vec![EncoderLayer { self_attention: attention, ffn: 6 }];
    config.decoder = vec![DecoderLayer { self_attention: Some(attention), cross_attention: attention, ffn: 5 }];
    config.classes = 3;
    config.labels = ["cat", "dog"].map(|name| Label { id: 1, name: name.into() }).into();
    config.queries = 3;
    random(config, "tiny", 1)
});

static OWN: LazyLock<Vec<u8>> = LazyLock::new(|| to_bytes(&MODEL, Storage::F16).unwrap());
/// 7 pixels by 3.
static PICTURE: LazyLock<Vec<u8>> = LazyLock::new(|| fixture("pictures/noise_7x3.png"));

/// A folder of one's own, in memory where there is one.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("detrim-entry-");
        Self(if memory.is_dir() { builder.tempdir_in(memory) } else { builder.tempdir() }.unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// The outcome of reading a file, which an error must name.
fn outcome<T, E: ToString>(result: Result<T, E>, name: &str) -> Result<T, String> {
    let result = result.map_err(|error| error.to_string());
    if let Err(problem) = &result {
        assert!(problem.contains(name), "an error that doesn't name {name}: {problem}");
    }
    result
}

/// Our own file. What is read can be written again, and is then the same.
fn own(bytes: &[u8]) -> Outcome {
    let checkpoint = outcome(read_own(bytes, "wild.safetensors"), "wild.safetensors")?;
    // Numbers that aren't finite are read but not written.
    if let Ok(again) = to_bytes(&checkpoint, Storage::F32) {
        let again = read_own(&again, "again").expect("what was written");
        assert_eq!((again.config, again.card), (checkpoint.config, checkpoint.card));
    }
    Ok(())
}

fn own_seeds() -> Vec<Vec<u8>> {
    [Storage::F16, Storage::Int8].map(|storage| to_bytes(&MODEL, storage).unwrap()).into()
}

fn guess() -> Guess {
    Guess { heads: Some(2), ..Guess::default() }
}

/// A `.safetensors` file of another project.
fn safetensors(bytes: &[u8]) -> Outcome {
    let folder = Folder::new();
    outcome(open(&folder.write("wild.safetensors", bytes), &guess()), "wild.safetensors").map(drop)
}

fn safetensors_seeds() -> Vec<Vec<u8>> {
    vec![tiny::bytes(&tiny::hugging_face())]
}

/// A header's config of ours, or what lies beside a checkpoint of Hugging Face's: its config and, divided from it, its preprocessor's.
fn config(bytes: &[u8]) -> Outcome {
    let folder = Folder::new();
    let mut parts = bytes.splitn(2, |byte| *byte == DIVIDER);
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if let (None, Ok(text)) = (second, std::str::from_utf8(first)) {
        let file = SafeTensors::deserialize(&OWN).unwrap();
        let file = ::safetensors::serialize(file.tensors(), Some([("detrim".to_string(), text.to_string())].into())).unwrap();
        return own(&file);
    }
    folder.write("config.json", first);
    folder.write("preprocessor_config.json", second.unwrap_or_default());
    let model = folder.write("model.safetensors", &tiny::bytes(&tiny::hugging_face()));
    open(model.parent().unwrap(), &Guess::default()).map(drop).map_err(|error| error.to_string())
}

fn config_seeds() -> Vec<Vec<u8>> {
    let beside = r#"{"model_type": "detr", "d_model": 8, "num_queries": 3, "encoder_layers": 1, "decoder_layers": 1,
        "encoder_attention_heads": 2, "decoder_attention_heads": [2], "encoder_ffn_dim": 6, "decoder_ffn_dim": 6, "activation_function": "relu",
        "position_embedding_type": "sine", "dilation": false, "num_labels": 3, "id2label": {"0": "N/A", "1": "cat", "2": "dog"},
        "backbone_config": {"model_type": "resnet", "depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 4, 4], "embedding_size": 4,
        "layer_type": "basic", "hidden_act": "relu", "downsample_in_first_stage": false}}"#;
    let preprocessors = [
        r#"{"size": {"shortest_edge": 480, "longest_edge": 800}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#,
        r#"{"size": {"height": 64, "width": 96}, "do_resize": true, "do_normalize": true, "do_rescale": true, "rescale_factor": 0.00392156862745098}"#,
        r#"{"size": 480, "max_size": 800}"#,
    ];
    let (_, header) = SafeTensors::read_metadata(&OWN).unwrap();
    let own = header.metadata().as_ref().unwrap()["detrim"].clone().into_bytes();
    let beside = |preprocessor: &str| [beside.as_bytes(), &[DIVIDER], preprocessor.as_bytes()].concat();
    preprocessors.into_iter().map(beside).chain([own]).collect()
}

/// A file of `torch.save`.
fn pickle(bytes: &[u8]) -> Outcome {
    let folder = Folder::new();
    outcome(open(&folder.write("wild.pth", bytes), &guess()), "wild.pth").map(drop)
}

/// The tests and the fuzz targets are compiled in different folders.
fn fixture(name: &str) -> Vec<u8> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("tests/fixtures"));
    let fixtures = folders.into_iter().find(|folder| folder.is_dir()).expect("tests/fixtures");
    std::fs::read(fixtures.join(name)).unwrap()
}

fn pickle_seeds() -> Vec<Vec<u8>> {
    let small = ["state_zip", "state_legacy", "training_zip", "training_legacy", "protocol4_zip", "protocol5_legacy"];
    let whole = ["original-zip/model.pth", "original-legacy/model.pth"].map(String::from);
    small.map(|name| format!("pth/{name}.pth")).into_iter().chain(whole).map(|name| fixture(&name)).collect()
}

/// A picture, through the resize to a network's input.
fn picture(bytes: &[u8]) -> Outcome {
    let folder = Folder::new();
    let picture = outcome(image::open(&folder.write("wild.jpg", bytes)), "wild.jpg")?;
    for resize in [Resize::ShortestSide { short: 48, long: 96 }, Resize::Stretch { height: 40, width: 56 }] {
        if let Ok(input) = image::prepare(&picture, &Pixels { resize, ..Pixels::detr() }) {
            assert!(input.to_f32().iter().all(|x| x.is_finite()));
        }
    }
    Ok(())
}

fn picture_seeds() -> Vec<Vec<u8>> {
    let names = [
        "alpha.png",
        "alpha.webp",
        "bits.png",
        "cmyk.jpg",
        "grey.jpg",
        "grey16.png",
        "orientation_6.jpg",
        "palette.png",
        "progressive.jpg",
        "rgb.webp",
    ];
    names.map(|name| fixture(&format!("pictures/{name}"))).into()
}

/// Labels in COCO's format and, divided from them, detections: as `eval` and as `train` read them.
fn coco(bytes: &[u8]) -> Outcome {
    let folder = Folder::new();
    let mut parts = bytes.splitn(2, |byte| *byte == DIVIDER);
    let labels = folder.write("wild.json", parts.next().unwrap_or_default());
    let detections = folder.write("found.json", parts.next().unwrap_or(b"[]"));
    folder.write("1.png", &PICTURE);
    let pictures = Pictures::open(std::slice::from_ref(&labels), folder.0.path(), &MODEL.config.labels, false, false)
        .map(drop)
        .map_err(|error| error.to_string());
    let dataset = outcome(Dataset::open(&labels), "wild.json")?;
    let _ = dataset.categories_of(&MODEL.config.labels);
    let (detections, _) = outcome(read_detections(&detections), "found.json")?;
    let _ = dataset.strays(&detections);
    let metrics = Evaluation::new(&dataset, &detections).metrics();
    assert!(metrics.named().iter().all(|(_, value)| value.is_none_or(|value| (0.0..=1.0).contains(&value))), "{:?}", metrics.named());
    pictures
}

fn coco_seeds() -> Vec<Vec<u8>> {
    let labels = r#"{"info": {"year": 2024}, "images": [{"id": 1, "file_name": "1.png", "width": 7, "height": 3}, {"id": 2, "file_name": "2.png", "width": 640, "height": 480}],
        "categories": [{"id": 1, "name": "cat", "supercategory": "animal"}, {"id": 2, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3.5, 2], "area": 7, "iscrowd": 0, "segmentation": [[1, 1, 4.5, 1, 4.5, 3]]},
        {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 7, 3], "area": 21, "iscrowd": 1, "segmentation": {"size": [3, 7], "counts": [0, 21]}}]}"#;
    let found = r#"[{"image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 2], "score": 0.9}, {"image_id": 2, "category_id": 2, "bbox": [5, 5, 20.5, 10], "score": 0.25}]"#;
    vec![labels.into(), [labels.as_bytes(), &[DIVIDER], found.as_bytes()].concat()]
}

/// A recipe and a plan: what is read is held against a network.
fn plan(bytes: &[u8]) -> Outcome {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let config = &MODEL.config.clone().into();
    let recipe = outcome(Recipe::parse(text, "wild.toml"), "wild.toml").and_then(|recipe| {
        let meter = Meter::new(config, &Card::default(), Storage::F16, None).map_err(|error| error.to_string())?;
        recipe.check(config, &meter, true).map_err(|error| error.to_string())
    });
    let plan = outcome(Plan::parse(text, "wild.toml"), "wild.toml").and_then(|plan| {
        plan.check(config).map_err(|error| error.to_string())?;
        let trimmed = plan.config(config);
        trimmed.check().map_err(|error| error.to_string())?;
        let again = Plan::parse(&plan.to_toml().expect("a plan can be written"), "again").expect("what was written");
        assert_eq!(again, plan);
        Ok(())
    });
    recipe.or(plan)
}

fn plan_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "[layers]\ndecoder = 1\n\n[keep]\n\"*.ffn\" = 0.5\nqueries = \"used\"\n\n[total]\n\"*_attention\" = 0.75\n",
        "multiple = 8\nkeep_size = true\n\n[budget]\nparams = \"-20%\"\nmacs = \"1.2G\"\nbytes = \"4MB\"\n",
        "drop_encoder = []\nfold = true\n\n[resize]\nrule = \"stretch\"\nheight = 64\nwidth = 96\n\n[keep]\n\"encoder.0.ffn\" = 3\n\"decoder.0.ffn\" = [0, 2]\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

/// The state of a training run, opened as a detector.
fn training_state(bytes: &[u8]) -> Outcome {
    let folder = Folder::new();
    let file = folder.write("wild.safetensors", bytes);
    let read = outcome(state::read(&file), "wild.safetensors").map(drop);
    let opened = open(&file, &guess()).map(drop).map_err(|error| error.to_string());
    read.and(opened)
}

fn training_state_seeds() -> Vec<Vec<u8>> {
    let folder = Folder::new();
    let (whole, compact) = (folder.write("whole", b""), folder.write("compact", b""));
    let mut run = State::new(MODEL.weights.clone());
    run.step = 7;
    run.provenance = vec!["made up".into()];
    state::write(&whole, &MODEL.config, &run).unwrap();
    state::write_compact(&compact, &MODEL.config, &run).unwrap();
    [whole, compact].map(|file| std::fs::read(file).unwrap()).into()
}
