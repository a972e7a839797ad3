//! Broken and hostile checkpoints: an error that names the file and the tensor, never a panic.

use crate::entries::{ENTRIES, Entry, MODEL};
use crate::tiny;
use detrim::checkpoint::{Guess, Storage, open, read_own, to_bytes};
use proptest::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;

static OWN: LazyLock<Vec<u8>> = LazyLock::new(|| to_bytes(&MODEL, Storage::F16).unwrap());
static INT8: LazyLock<Vec<u8>> = LazyLock::new(|| to_bytes(&MODEL, Storage::Int8).unwrap());

static FOREIGN: LazyLock<Vec<u8>> = LazyLock::new(|| tiny::bytes(&tiny::hugging_face()));

/// A file's tensors by name: type, shape, bytes.
type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn inspect(path: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_detrim")).arg("inspect").arg(path).args(more).output().unwrap()
}

/// The command's complaint about a file; it must exit with 1.
fn complaint(path: &Path) -> String {
    let output = inspect(path, &[]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&*path.file_name().unwrap().to_string_lossy()), "{text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn a_broken_file_is_named_and_exits_with_1() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broken.safetensors");
    let write = |bytes: &[u8]| std::fs::write(&file, bytes).unwrap();
    for bytes in [&OWN[..], &FOREIGN[..]] {
        write(bytes);
        assert!(inspect(&file, &["--heads", "2"]).status.success());
        write(&bytes[..bytes.len() - 2]);
        let text = complaint(&file);
        assert!(text.contains("cut off in tensor "), "{text}");
        write(&bytes[..100]);
        assert!(complaint(&file).contains("cut off inside its header"));
    }
    write(b"");
    complaint(&file);
    write(b"not a checkpoint at all");
    assert!(complaint(&file).contains("not a checkpoint"));
    assert!(complaint(&directory.path().join("absent.safetensors")).contains("No such file"));
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(complaint(&empty).contains("model.safetensors"));
}

#[test]
fn inspect_prints_every_part_and_json() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tiny.safetensors");
    std::fs::write(&file, &*OWN).unwrap();
    let text = String::from_utf8(inspect(&file, &["--tensors", "--size", "64x96"]).stdout).unwrap();
    for expected in ["backbone.stage4", "heads 2 × 3, FFN 6", "decoder.0", "64 × 96", "encoder.0.self_attention.query.weight", "[6, 8]", "f16"] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    std::fs::write(&file, &*INT8).unwrap();
    let text = String::from_utf8(inspect(&file, &["--tensors"]).stdout).unwrap();
    let row = |tensor: &str| text.lines().find(|line| line.contains(tensor)).unwrap_or_else(|| panic!("{tensor} is missing in\n{text}"));
    assert!(row("encoder.0.self_attention.query.weight").contains("i8") && row("class_head.weight").contains("f16"), "{text}");
    let huge = inspect(&file, &["--size", "65536x65536"]);
    assert!(huge.status.success(), "{}", String::from_utf8_lossy(&huge.stderr));
    assert!(!inspect(&file, &["--size", "65537x1"]).status.success());
    let json: serde_json::Value = serde_json::from_slice(&inspect(&file, &["--json"]).stdout).unwrap();
    let bytes: u64 = json["parts"].as_array().unwrap().iter().map(|part| part["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["total"]["bytes"].as_u64(), Some(bytes));
    assert_eq!(json["config"]["d_model"], 8);
}

#[test]
fn writing_leaves_no_half_file() {
    let directory = tempfile::tempdir().unwrap();
    let (file, out) = (directory.path().join("tiny.safetensors"), directory.path().join("no/such/place.safetensors"));
    std::fs::write(&file, &*OWN).unwrap();
    let convert = |out: &Path| Command::new(env!("CARGO_BIN_EXE_detrim")).arg("convert").arg(&file).arg("--out").arg(out).output().unwrap();
    let failed = convert(&out);
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8(failed.stderr).unwrap().contains("place.safetensors"));
    // In place, and the same again.
    assert!(convert(&file).status.success());
    assert_eq!(std::fs::read(&file).unwrap(), *OWN);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn convert_keeps_the_index_true() {
    let directory = tempfile::tempdir().unwrap();
    let (file, out, index) = (directory.path().join("tiny.safetensors"), directory.path().join("m.safetensors"), directory.path().join("index.json"));
    std::fs::write(&file, &*OWN).unwrap();
    let convert = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_detrim"));
        command.arg("convert").arg(&file).arg("--out").arg(&out).arg("--index").arg(&index).args(["--name", "m"]).args(more);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let entries: serde_json::Value = serde_json::from_slice(&std::fs::read(&index).unwrap()).unwrap();
        assert_eq!(entries.as_array().unwrap().len(), 1);
        entries[0].clone()
    };
    let first = convert(&["--metric", "AP50=39.2", "--measured-on", "some pictures"]);
    let second = convert(&["--dtype", "f32", "--threshold", "0.5"]);
    assert_eq!((&first["threshold"], second["threshold"].as_f64()), (&serde_json::Value::Null, Some(0.5)));
    assert_eq!(second["bytes"].as_u64(), Some(std::fs::metadata(&out).unwrap().len()));
    assert_ne!(first["sha256"], second["sha256"]);
    // What was measured stays until something else is.
    assert_eq!((&second["metrics"], second["metrics"]["AP50"].as_f64()), (&first["metrics"], Some(39.2)));
    assert_eq!(second["labels"], serde_json::json!(["cat", "dog"]));
}

/// A header that claims more than any network has must be refused before it is believed.
#[test]
fn impossible_configs_are_refused() {
    let length = usize::try_from(u64::from_le_bytes(*OWN.first_chunk().unwrap())).unwrap();
    let header = std::str::from_utf8(&OWN[8..8 + length]).unwrap();
    for (from, to) in [
        (r#"\"queries\":3"#, r#"\"queries\":18446744073709551615"#),
        (r#"\"heads\":2"#, r#"\"heads\":9223372036854775807"#),
        (r#"\"d_model\":8"#, r#"\"d_model\":0"#),
        (r#"\"stride\":2"#, r#"\"stride\":0"#),
        (r#"\"dilation\":1"#, r#"\"dilation\":4294967296"#),
        (r#"\"long\":1333"#, r#"\"long\":13333333333"#),
        (r#"\"version\":1"#, r#"\"version\":2"#),
        (r#"\"ffn\":5"#, r#"\"ffn\":7"#),
        (r#"\"inner\":[4]"#, r#"\"inner\":[]"#),
        (r#"\"inner\":[4]"#, r#"\"inner\":[4,4,4]"#),
        (r#"\"projection\":true"#, r#"\"projection\":false"#),
        (r#"\"channels\":4"#, r#"\"channels\":5"#),
        (r#"\"classes\":3"#, r#"\"classes\":4"#),
        ("decoder.norm.bias", "decoder.norm.bios"),
    ] {
        assert!(header.contains(from), "{from} is not in {header}");
        let header = header.replace(from, to);
        let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &OWN[8 + length..]].concat();
        let problem = read_own(&file, "x.safetensors").unwrap_err().to_string();
        assert!(problem.starts_with("x.safetensors: "), "{to}: {problem}");
    }
}

/// An int8 weight and its scales must go together.
#[test]
fn broken_int8_is_named() {
    let file = SafeTensors::deserialize(&INT8).unwrap();
    let (_, header) = SafeTensors::read_metadata(&INT8).unwrap();
    let (weight, scale) = ("encoder.0.ffn1.weight", "encoder.0.ffn1.weight.scale");
    let whole = |name: &str| {
        let tensor = file.tensor(name).unwrap();
        (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec())
    };
    let read = |edit: &dyn Fn(&mut Tensors)| {
        let mut tensors: Tensors = file.names().into_iter().map(|name| (name.to_string(), whole(name))).collect();
        edit(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
        read_own(&safetensors::serialize(views, header.metadata().clone()).unwrap(), "x.safetensors").map_err(|error| error.to_string())
    };
    assert_eq!(read(&|_| ()), read_own(&INT8, "x.safetensors").map_err(|error| error.to_string()));
    let (floats, halves) = (|x: f32| x.to_le_bytes().repeat(6), vec![0; 12]);
    let replaced = |name: &'static str, dtype: Dtype, shape: &'static [usize], data: Vec<u8>| {
        move |tensors: &mut Tensors| {
            tensors.insert(name.into(), (dtype, shape.into(), data.clone()));
        }
    };
    type Edit = Box<dyn Fn(&mut Tensors)>;
    let cases: [(Edit, &str); 13] = [
        (Box::new(|tensors| drop(tensors.remove(scale))), "tensor encoder.0.ffn1.weight.scale is missing (expected shape [6])"),
        (Box::new(replaced(scale, Dtype::F32, &[6, 1], floats(1.0))), "tensor encoder.0.ffn1.weight.scale has shape [6, 1], expected [6]"),
        (Box::new(replaced(scale, Dtype::F32, &[1], vec![0; 4])), "tensor encoder.0.ffn1.weight.scale has shape [1], expected [6]"),
        (Box::new(replaced(scale, Dtype::F16, &[6], halves)), "tensor encoder.0.ffn1.weight.scale is not f32"),
        (Box::new(replaced(scale, Dtype::F32, &[6], floats(f32::NAN))), "tensor encoder.0.ffn1.weight.scale holds NaN for channel 0"),
        (Box::new(replaced(scale, Dtype::F32, &[6], floats(f32::INFINITY))), "tensor encoder.0.ffn1.weight.scale holds inf"),
        (Box::new(replaced(scale, Dtype::F32, &[6], floats(-1e-3))), "tensor encoder.0.ffn1.weight.scale holds -0.001"),
        (Box::new(replaced(weight, Dtype::I8, &[8, 6], vec![1; 48])), "tensor encoder.0.ffn1.weight has shape [8, 6], expected [6, 8]"),
        (Box::new(replaced(weight, Dtype::U8, &[6, 8], vec![1; 48])), "tensor encoder.0.ffn1.weight is none of f32, f16 and int8"),
        // Scales of what isn't int8, or of nothing.
        (Box::new(replaced(weight, Dtype::F16, &[6, 8], vec![0; 96])), "tensor encoder.0.ffn1.weight.scale is not part of the architecture"),
        (Box::new(replaced("scale", Dtype::F32, &[6], floats(1.0))), "tensor scale is not part of the architecture"),
        (Box::new(replaced("class_head.weight", Dtype::I8, &[3, 8], vec![1; 24])), "tensor class_head.weight is int8"),
        (Box::new(replaced("decoder.norm.bias", Dtype::I8, &[8], vec![1; 8])), "tensor decoder.norm.bias is int8"),
    ];
    for (edit, expected) in cases {
        let problem = read(&*edit).unwrap_err();
        assert!(problem.starts_with("x.safetensors: ") && problem.contains(expected), "{problem} (expected: {expected})");
    }
}

/// Every way in takes the files that it is for, and survives some thousand changes to them: bytes set, cut out, doubled, cut off, mixed with
/// another file's. Always the same ones; `fuzz/` looks for more.
#[test]
fn every_entry_survives_what_is_thrown_at_it() {
    /// Of each entry.
    const CHANGED: usize = 1500;
    for Entry { name, call, seeds } in &ENTRIES {
        let seeds = seeds();
        // Some seeds are there for the way to their refusal.
        let outcomes: Vec<_> = seeds.iter().map(|seed| call(seed)).collect();
        assert!(outcomes.iter().any(Result::is_ok), "{name}: {outcomes:?}");
        let mut random = fastrand::Rng::with_seed(1);
        let mut refused = 0;
        for _ in 0..CHANGED {
            let changed = change(&mut random, &seeds);
            refused += usize::from(call(&changed).is_err());
        }
        // What is never refused isn't looked at.
        assert!(refused > CHANGED / 20, "{name}: {refused} refused");
    }
}

/// One of the files with a few changes.
fn change(random: &mut fastrand::Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.choice(seeds).unwrap().clone();
    for _ in 0..random.usize(1..5) {
        if bytes.is_empty() {
            break;
        }
        // Headers are where most can go wrong.
        let within = if random.bool() { bytes.len() } else { bytes.len().min(400) };
        let at = random.usize(..within);
        let end = (at + random.usize(1..20)).min(bytes.len());
        match random.u8(..8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            3 => {
                let other = random.choice(seeds).unwrap();
                let from = random.usize(..other.len());
                bytes.splice(at..end, other[from..(from + end - at).min(other.len())].to_vec());
            }
            4 => bytes[at] = *random.choice(b"\0\x01\x7f\x80\xff0129-.eE\"{}[],:*/\n").unwrap(),
            5 => bytes[at] ^= 1 << random.u8(..8),
            6 => {
                let number = random.choice([0u64, 1, 255, 65_536, 1 << 31, 1 << 32, u64::MAX]).unwrap();
                number.to_le_bytes().iter().zip(&mut bytes[at..]).for_each(|(new, byte)| *byte = *new);
            }
            _ => bytes[at] = random.u8(..),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens to our file, reading it ends without a panic; a byte among the numbers may even go unnoticed.
    #[test]
    fn own_survives_mutations(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), header in any::<bool>(), int8 in any::<bool>(), length in any::<prop::sample::Index>()) {
        let mut bytes = if int8 { INT8.clone() } else { OWN.clone() };
        let within = if header { 3000.min(bytes.len()) } else { bytes.len() };
        for (place, byte) in edits {
            bytes[place.index(within)] = byte;
        }
        let _ = read_own(&bytes, "mutated");
        bytes.truncate(length.index(bytes.len()));
        prop_assert!(read_own(&bytes, "mutated").is_err());
    }

    #[test]
    fn foreign_survives_mutations(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = FOREIGN.clone();
        let header = 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
        for (place, byte) in edits {
            bytes[place.index(header)] = byte;
        }
        let file = tempfile::Builder::new().suffix(".safetensors").tempfile().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let _ = open(file.path(), &Guess { heads: Some(2), ..Guess::default() });
    }
}
