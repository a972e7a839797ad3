//! A DETR as small as can be, as Hugging Face would save it: for tests of reading.

use safetensors::{Dtype, View};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by name: their shapes; every number is a half.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// ResNet of four basic blocks of 4 channels, d_model 8, one encoder and one decoder layer, FFN 6, 3 queries, 4 logits.
pub fn hugging_face() -> Shapes {
    let mut shapes = Shapes::new();
    let mut put = |name: &str, shape: &[usize]| {
        shapes.insert(name.to_string(), shape.to_vec());
    };
    let mut convolution = |conv: &str, norm: &str, shape: &[usize]| {
        put(&format!("model.backbone.conv_encoder.model.{conv}.weight"), shape);
        for part in ["weight", "bias", "running_mean", "running_var"] {
            put(&format!("model.backbone.conv_encoder.model.{norm}.{part}"), &shape[..1]);
        }
    };
    convolution("conv1", "bn1", &[4, 3, 7, 7]);
    for stage in 1..=4 {
        convolution(&format!("layer{stage}.0.conv1"), &format!("layer{stage}.0.bn1"), &[4, 4, 3, 3]);
        convolution(&format!("layer{stage}.0.conv2"), &format!("layer{stage}.0.bn2"), &[4, 4, 3, 3]);
        if stage > 1 {
            convolution(&format!("layer{stage}.0.downsample.0"), &format!("layer{stage}.0.downsample.1"), &[4, 4, 1, 1]);
        }
    }
    let mut linear = |name: &str, shape: &[usize]| {
        put(&format!("{name}.weight"), shape);
        put(&format!("{name}.bias"), &shape[..1]);
    };
    linear("model.input_projection", &[8, 4, 1, 1]);
    for (layer, attentions) in [("model.encoder.layers.0", &["self_attn"][..]), ("model.decoder.layers.0", &["self_attn", "encoder_attn"])] {
        for attention in attentions {
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                linear(&format!("{layer}.{attention}.{part}"), &[8, 8]);
            }
            linear(&format!("{layer}.{attention}_layer_norm"), &[8]);
        }
        linear(&format!("{layer}.fc1"), &[6, 8]);
        linear(&format!("{layer}.fc2"), &[8, 6]);
        linear(&format!("{layer}.final_layer_norm"), &[8]);
    }
    linear("model.decoder.layernorm", &[8]);
    linear("class_labels_classifier", &[4, 8]);
    linear("bbox_predictor.layers.0", &[8, 8]);
    linear("bbox_predictor.layers.1", &[8, 8]);
    linear("bbox_predictor.layers.2", &[4, 8]);
    put("model.query_position_embeddings.weight", &[3, 8]);
    shapes
}

/// The file's bytes.
pub fn bytes(shapes: &Shapes) -> Vec<u8> {
    safetensors::serialize(shapes.iter().map(|(name, shape)| (name, Halves(shape))), None).unwrap()
}

/// Writes `model.safetensors` and, if given, `config.json` into a directory.
pub fn save(directory: &Path, shapes: &Shapes, config: Option<&str>) {
    std::fs::write(directory.join("model.safetensors"), bytes(shapes)).unwrap();
    if let Some(config) = config {
        std::fs::write(directory.join("config.json"), config).unwrap();
    }
}

struct Halves<'a>(&'a [usize]);

impl View for Halves<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0
    }

    fn data(&self) -> Cow<'_, [u8]> {
        0.5f32.to_le_bytes().repeat(self.0.iter().product()).into()
    }

    fn data_len(&self) -> usize {
        4 * self.0.iter().product::<usize>()
    }
}

/// The same network under the names of facebookresearch/detr.
pub fn original() -> Shapes {
    let mut shapes = Shapes::new();
    for (name, shape) in hugging_face() {
        let name = name.strip_prefix("model.").unwrap_or(&name);
        let name = name.replace("encoder.layers", "transformer.encoder.layers").replace("decoder.layers", "transformer.decoder.layers");
        let name = name.replace("backbone.conv_encoder.model.", "backbone.0.body.").replace("decoder.layernorm", "transformer.decoder.norm");
        let name = name.replace("encoder_attn.", "multihead_attn.").replace("fc1", "linear1").replace("fc2", "linear2");
        let (norms, last) = if name.contains("decoder") { (["norm1", "norm2"], "norm3") } else { (["norm1", "norm1"], "norm2") };
        let name = name.replace("self_attn_layer_norm", norms[0]).replace("encoder_attn_layer_norm", norms[1]).replace("final_layer_norm", last);
        let name = name.replace("input_projection", "input_proj").replace("class_labels_classifier", "class_embed");
        let name = name.replace("bbox_predictor", "bbox_embed").replace("query_position_embeddings", "query_embed");
        match name.split_once("q_proj.") {
            Some((before, part)) => drop(shapes.insert(format!("{before}in_proj_{part}"), [&[3 * shape[0]], &shape[1..]].concat())),
            None if name.contains("k_proj") || name.contains("v_proj") => {}
            None => drop(shapes.insert(name, shape)),
        }
    }
    shapes
}

/// What a `.pth` may hold.
pub enum Item<'a> {
    Dict(Vec<(&'a str, Item<'a>)>),
    /// An object of a class with these attributes.
    Object(&'a str, &'a str, Vec<(&'a str, Item<'a>)>),
    /// A dictionary of tensors whose numbers are this.
    Tensors(Shapes, f32),
    /// So many tensors of so many numbers each, which all lie in one storage.
    Shared(usize, usize),
    Int(i32),
    Bool(bool),
    Text(&'a str),
}

/// A file as `torch.save` wrote it before PyTorch 1.6: it is all of one piece.
pub fn pth(item: &Item) -> Vec<u8> {
    let mut writer = Pickler::default();
    writer.item(item);
    let storages = writer.storages;
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}(X\x0d\x00\x00\x00little_endian\x88u.";
    let mut file = [&magic[..], b"\x80\x02", &writer.bytes, b".\x80\x02]("].concat();
    for key in 0..storages.len() {
        text(&mut file, &key.to_string());
    }
    file.extend(b"e.");
    for (count, number) in storages {
        file.extend((count as u64).to_le_bytes());
        file.extend(number.to_le_bytes().repeat(count));
    }
    file
}

#[derive(Default)]
struct Pickler {
    bytes: Vec<u8>,
    /// Numbers of each storage, and which number.
    storages: Vec<(usize, f32)>,
}

impl Pickler {
    fn item(&mut self, item: &Item) {
        match item {
            Item::Dict(entries) => self.dict(entries),
            Item::Object(module, class, attributes) => {
                self.bytes.extend(format!("c{module}\n{class}\n)").bytes());
                self.bytes.push(0x81);
                self.dict(attributes);
                self.bytes.push(b'b');
            }
            Item::Tensors(shapes, number) => {
                self.bytes.extend(b"}(");
                for (name, shape) in shapes {
                    text(&mut self.bytes, name);
                    self.storages.push((shape.iter().product(), *number));
                    self.tensor(self.storages.len() - 1, shape);
                }
                self.bytes.push(b'u');
            }
            Item::Shared(tensors, numbers) => {
                self.storages.push((*numbers, 0.5));
                self.bytes.extend(b"}(");
                for tensor in 0..*tensors {
                    text(&mut self.bytes, &format!("tensor{tensor}"));
                    self.tensor(self.storages.len() - 1, &[*numbers]);
                }
                self.bytes.push(b'u');
            }
            Item::Int(number) => self.int(*number as usize),
            Item::Bool(value) => self.bytes.push(if *value { 0x88 } else { 0x89 }),
            Item::Text(value) => text(&mut self.bytes, value),
        }
    }

    fn dict(&mut self, entries: &[(&str, Item)]) {
        self.bytes.extend(b"}(");
        for (key, value) in entries {
            text(&mut self.bytes, key);
            self.item(value);
        }
        self.bytes.push(b'u');
    }

    fn tensor(&mut self, storage: usize, shape: &[usize]) {
        self.bytes.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut self.bytes, "storage");
        self.bytes.extend(b"ctorch\nFloatStorage\n");
        text(&mut self.bytes, &storage.to_string());
        text(&mut self.bytes, "cpu");
        self.int(self.storages[storage].0);
        self.bytes.extend(b"NtQK\x00(");
        shape.iter().for_each(|&side| self.int(side));
        self.bytes.extend(b"t(");
        (0..shape.len()).for_each(|axis| self.int(shape[axis + 1..].iter().product()));
        self.bytes.extend(b"t\x89NtR");
    }

    fn int(&mut self, number: usize) {
        self.bytes.push(b'J');
        self.bytes.extend((number as i32).to_le_bytes());
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.bytes());
}
