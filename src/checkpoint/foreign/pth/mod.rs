//! Reads the tensors of a `.pth` file as `torch.save` writes it, in either of its formats.
//!
//! Such a file is a pickle: a program that builds objects. Ours builds inert values only: a tensor's place and shape is understood,
//! everything else (a training checkpoint holds an `argparse.Namespace`, say) is a value without content, and nothing is ever
//! executed. Every size is checked against the file before anything is allocated for it.

mod archive;
mod content;
mod legacy;
mod machine;
mod pickle;
mod value;
mod zip;

use super::Contents;
use crate::checkpoint::tensors::RawTensor;
use pickle::Pickle;
use std::collections::HashMap;
use value::{StorageRef, TensorRef, Value};

/// The bytes of a file's storages, by their keys.
type Storages<'a> = HashMap<&'a [u8], &'a [u8]>;

/// Whether the bytes begin as a file of `torch.save` does.
pub fn is_pth(bytes: &[u8]) -> bool {
    zip::is_archive(bytes) || legacy::is_legacy(bytes)
}

/// Reads all tensors that have names. An error says what is wrong, but not in which file.
pub fn read(bytes: &[u8]) -> Result<Contents<'_>, String> {
    let (pickle, storages) = if zip::is_archive(bytes) { archive::read(bytes)? } else { legacy::read(bytes)? };
    let mut contents = Contents { options: content::options(&pickle), containers: content::containers(&pickle), ..Contents::default() };
    for (name, tensor) in content::tensors(&pickle)? {
        let raw = place(&pickle, tensor, &storages);
        contents.tensors.insert(name, raw);
    }
    if contents.tensors.is_empty() {
        let keys: Vec<String> = content::keys(&pickle).into_iter().take(5).map(|key| key.escape_debug().take(40).collect()).collect();
        let keys = if keys.is_empty() { "it is no dictionary".into() } else { format!("its keys are {}", keys.join(", ")) };
        return Err(format!(
            "it holds no tensors under names ({keys}; the state dict of a model was expected: torch.save(model.state_dict(), FILE))"
        ));
    }
    Ok(contents)
}

/// A tensor's bytes.
fn place<'a>(pickle: &Pickle<'a>, tensor: &TensorRef, storages: &Storages<'a>) -> Result<RawTensor<'a>, String> {
    let Value::Storage(StorageRef { key, dtype, elements, start }) = pickle.value(tensor.storage) else {
        return Err("it lies in no storage".into());
    };
    let key_name = String::from_utf8_lossy(key);
    let bytes = *storages.get(key).ok_or_else(|| format!("its storage {key_name} is missing (is the file cut off?)"))?;
    let size = elements.checked_mul(dtype.size()).ok_or("its storage has an impossible size")?;
    if bytes.len() < size {
        return Err(format!("its storage {key_name} holds {} bytes instead of {size}", bytes.len()));
    }
    let first = start.checked_add(tensor.offset).and_then(|first| first.checked_mul(dtype.size()));
    let bytes = first.and_then(|first| bytes[..size].get(first..)).ok_or("it begins beyond the end of its storage")?;
    RawTensor::strided(*dtype, tensor.shape.clone(), tensor.strides.clone(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Made by `tests/make_pth_fixtures.py`.
    const FIXTURES: [(&str, &[u8]); 6] = [
        ("state, zip", include_bytes!("../../../../tests/fixtures/pth/state_zip.pth")),
        ("state, legacy", include_bytes!("../../../../tests/fixtures/pth/state_legacy.pth")),
        ("training, zip", include_bytes!("../../../../tests/fixtures/pth/training_zip.pth")),
        ("training, legacy", include_bytes!("../../../../tests/fixtures/pth/training_legacy.pth")),
        ("protocol 4, zip", include_bytes!("../../../../tests/fixtures/pth/protocol4_zip.pth")),
        ("protocol 5, legacy", include_bytes!("../../../../tests/fixtures/pth/protocol5_legacy.pth")),
    ];

    /// Of the state dict, wherever it lies.
    fn tensors(bytes: &[u8]) -> Result<BTreeMap<String, RawTensor<'_>>, String> {
        let named = read(bytes)?.tensors.into_iter();
        named
            .map(|(name, tensor)| {
                Ok((name.strip_prefix("model.").unwrap_or(&name).into(), tensor.map_err(|problem| format!("tensor {name}: {problem}"))?))
            })
            .collect()
    }

    fn floats(numbers: impl Iterator<Item = usize>) -> Vec<f32> {
        numbers.map(|n| n as f32).collect()
    }

    #[test]
    fn every_kind_of_file_gives_the_same_tensors() {
        for (kind, bytes) in FIXTURES {
            assert!(is_pth(bytes), "{kind}");
            let tensors = tensors(bytes).unwrap_or_else(|problem| panic!("{kind}: {problem}"));
            assert_eq!(tensors.len(), 10, "{kind}");
            let check = |name: &str, shape: &[usize], numbers: Vec<f32>| {
                assert_eq!((&tensors[name].shape[..], tensors[name].to_f32().unwrap()), (shape, numbers), "{kind}: {name}");
            };
            check("plain", &[2, 3], vec![0.0, 0.5, 1.0, 1.5, 2.0, 2.5]);
            check("half", &[6], vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.25]);
            check("brain", &[6], vec![-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]);
            check("double", &[4], vec![0.0, 1.0 / 3.0, 2.0 / 3.0, 1.0]);
            check("transposed", &[4, 2, 3], floats((0..4).flat_map(|k| (0..6).map(move |ij| ij * 4 + k))));
            check("view", &[3, 2], floats((0..3).flat_map(|row| [11 + row * 4, 12 + row * 4])));
            check("scalar", &[], vec![0.5]);
            check("empty", &[0, 3], vec![]);
            check("parameter", &[3], vec![0.25, 1.25, 2.25]);
            assert!(tensors["count"].to_f32().is_none(), "{kind}: a whole number is no weight");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_says_so() {
        for (kind, bytes) in FIXTURES {
            for length in 1..bytes.len() {
                let problem = tensors(&bytes[..length]).err();
                // Behind the last storage there may be padding or nothing that matters.
                assert!(problem.is_some() || length + 8 > bytes.len(), "{kind} cut to {length}");
            }
        }
        let (_, legacy) = FIXTURES[1];
        let problem = tensors(&legacy[..legacy.len() - 20]).unwrap_err();
        assert!(problem.contains("tensor ") && problem.contains("storage"), "{problem}");
    }

    /// A pickle made of instructions, followed by the end.
    fn pickle(program: &[&[u8]]) -> Vec<u8> {
        [b"\x80\x02", &program.concat()[..], b"."].concat()
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        // ((((…)))) and [[[[…]]]], a million deep
        for (open, close) in [(&b"("[..], &b"t"[..]), (b"]", b"a")] {
            let program = pickle(&[&open.repeat(1_000_000), &b"]"[..usize::from(close == b"a")], &close.repeat(1_000_000)]);
            assert!(Pickle::load(&program).is_ok());
        }
    }

    #[test]
    fn copying_a_dictionary_again_and_again_is_refused() {
        // A list of twenty thousand pairs, made into an OrderedDict two thousand times
        let list = [&b"](K\x01K\x02\x86q\x01"[..], &b"h\x01".repeat(20_000), b"e\x85q\x02"].concat();
        let calls = b"ccollections\nOrderedDict\nh\x02R0".repeat(2_000);
        let problem = Pickle::load(&pickle(&[&list, &calls, b"N"])).err().unwrap();
        assert!(problem.contains("too many values"), "{problem}");
    }

    /// The same with a list that holds no pairs, of which nothing is copied but all is looked at.
    #[test]
    fn looking_through_a_list_again_and_again_is_refused() {
        let list = [&b"]("[..], &b"N".repeat(20_000), b"e\x85q\x02"].concat();
        let calls = b"ccollections\nOrderedDict\nh\x02R0".repeat(2_000);
        let problem = Pickle::load(&pickle(&[&list, &calls, b"N"])).err().unwrap();
        assert!(problem.contains("too many values"), "{problem}");
    }

    /// A dictionary that holds itself twice over, level by level, has as many paths as leaves of a tree of that depth; a cycle has no end.
    #[test]
    fn shared_and_circular_dictionaries_are_walked_through_once() {
        let mut program = b"}q\x00".to_vec();
        for level in 1..=100u8 {
            program.extend([&b"}q"[..], &[level], b"(U\x01ah", &[level - 1], b"U\x01bh", &[level - 1], b"u"].concat());
        }
        let nested = pickle(&[&program]);
        assert!(content::tensors(&Pickle::load(&nested).unwrap()).unwrap().is_empty());
        let circular = pickle(&[b"}q\x00U\x01ah\x00s"]);
        assert!(content::tensors(&Pickle::load(&circular).unwrap()).unwrap().is_empty());
    }

    #[test]
    fn options_of_a_training_program_are_read() {
        for (kind, bytes) in FIXTURES {
            let options = read(bytes).unwrap().options;
            let expected = if kind.starts_with("state") { 0 } else { 4 };
            assert_eq!(options.len(), expected, "{kind}: {options:?}");
            if expected > 0 {
                assert_eq!((&options["backbone"], &options["masks"], &options["lr"]), (&"resnet50".into(), &false.into(), &1e-4.into()), "{kind}");
            }
        }
    }

    /// torch names the archive's folder after the file: no name of it may matter.
    #[test]
    fn an_archive_may_be_called_anything() {
        let (_, bytes) = FIXTURES[0];
        let archive = zip::Archive::read(bytes).unwrap();
        let entries: Vec<(&str, &[u8])> =
            archive.names().map(|name| (std::str::from_utf8(name).unwrap(), archive.entry(name).unwrap().unwrap())).collect();
        let expected = tensors(bytes).unwrap();
        for length in 1..=64 {
            let folder = "d".repeat(length);
            let renamed: Vec<(String, &[u8])> =
                entries.iter().map(|(name, data)| (format!("{folder}/{}", name.split_once('/').unwrap().1), *data)).collect();
            let file = zip::tests::archive(&renamed.iter().map(|(name, data)| (&name[..], *data)).collect::<Vec<_>>(), false);
            assert_eq!(tensors(&file).unwrap(), expected, "{length}");
        }
    }

    #[test]
    fn archives_that_torch_did_not_save_are_named() {
        for (entries, word) in [
            (&[("m/data.pkl", &b"N."[..]), ("m/code/__torch__.py", b"")][..], "TorchScript"),
            (&[("config.json", b""), ("model.weights.h5", b"")], "Keras"),
            (&[("a.npy", b"")], "NumPy"),
            (&[("model/model.safetensors", b"")], "unpack"),
            (&[("a.txt", b"")], "a.txt"),
        ] {
            let problem = read(&zip::tests::archive(entries, false)).err().unwrap();
            assert!(problem.contains(word), "{problem}");
        }
    }

    #[test]
    fn nothing_is_called() {
        let program = pickle(&[b"cos\nsystem\nX\x04\x00\x00\x00true\x85R"]);
        let pickle = Pickle::load(&program).unwrap();
        assert_eq!(*pickle.value(pickle.root), Value::Inert);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever happens to a file, reading it ends without a panic.
        #[test]
        fn survives_mutations(which in 0..FIXTURES.len(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = FIXTURES[which].1.to_vec();
            for (place, byte) in edits {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(contents) = read(&bytes) {
                contents.tensors.values().flatten().for_each(|tensor| drop(tensor.to_f32()));
            }
        }

        #[test]
        fn survives_noise(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Pickle::load(&noise);
            let _ = read(&[b"PK\x03\x04", &noise[..]].concat());
        }
    }
}
