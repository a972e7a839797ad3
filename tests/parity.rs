//! Every stage of every fixture (see make_fixtures.py and make_rt_detr_fixtures.py), and of the model and cases in the folder
//! DETRIM_REFERENCE, against what PyTorch computed,
//! on each backend. How far a stage may be off stands in `src/forward/compare.rs`.

use detrim::HostTensor;
use detrim::checkpoint::{Guess, Storage, open, open_any, read_any, read_own, to_bytes};
use detrim::detector::Device;
use detrim::forward::{Case, Runner, compare};
use pollster::block_on;
use std::path::{Path, PathBuf};

/// What shapes can't tell and the original repository's files don't say.
pub fn guess(fixture: &str) -> Guess {
    match fixture {
        "original-zip" => Guess { heads: Some(4), ..Guess::default() },
        "original-legacy" => Guess { heads: Some(3), dilation: Some(true), ..Guess::default() },
        // The one DEIMv2 whose case is transformers' own computation.
        "family/deimv2-hybrid" => Guess { exact_transformers: true, ..Guess::default() },
        _ => Guess::default(),
    }
}

/// RT-DETR and its descendants.
pub const FAMILY: [&str; 8] = [
    "family/rt_detr",
    "family/rt_detr_v2",
    "family/rt_detr_v2-discrete",
    "family/d_fine",
    "family/deimv2-hybrid",
    "family/deimv2-lite-as-trained",
    "family/rt_detr-levels",
    "family/rt_detr_v2-pre-norm",
];

/// The checkpoint in a folder, and its cases.
pub fn files(folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    let stem = |path: &PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let model = all.iter().find(|path| stem(path) == "model").unwrap_or_else(|| panic!("no model in {}", folder.display())).clone();
    let is_case = |path: &PathBuf| stem(path).starts_with("case_") || ["plain", "masked", "even", "case"].contains(&&*stem(path));
    (model, all.into_iter().filter(|path| is_case(path)).collect())
}

/// Runs all cases of a folder and gives what is too far off, a line each.
fn check(folder: &Path, guess: &Guess, device: Device) -> Vec<String> {
    let (model, cases) = files(folder);
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    let checkpoint = open_any(&model, guess).unwrap();
    let mut runner = block_on(Runner::load(&checkpoint, device)).unwrap();
    let mut problems = Vec::new();
    for path in cases {
        let name = format!("{}/{}", folder.file_name().unwrap().display(), path.file_stem().unwrap().display());
        let case = Case::read(&std::fs::read(&path).unwrap(), &name).unwrap();
        let stages = block_on(runner.run(&case)).unwrap();
        // A case that expects less than what is computed could hide a mistake.
        assert_eq!(stages.len(), case.expected.len(), "{name}: every stage is expected");
        let differences = compare(&stages, &case.expected).unwrap();
        let worst = differences.iter().map(|d| d.absolute / d.allowed).fold(0.0, f32::max);
        eprintln!("{name} on {device:?}: at most {worst:.3} of what is allowed");
        problems.extend(differences.iter().filter(|d| !d.fits()).map(|d| format!("{name} on {device:?}: {d:?}")));
        assert_eq!(runner.gpu_info().is_some_and(|info| info.dispatches > 0), device == Device::Gpu);
    }
    problems
}

fn check_fixtures(device: Device) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let names = ["basic", "bottleneck-dc5", "lite0", "native", "native-basic", "original-legacy", "original-zip", "trimmed"];
    let problems: Vec<String> = names.iter().chain(&FAMILY).flat_map(|name| check(&folder.join(name), &guess(name), device)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The same int8 weights on both: on the GPU they are never expanded.
#[test]
fn int8_is_the_same_on_the_gpu_as_on_the_cpu() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["lite0", "basic", "trimmed"] {
        let (model, cases) = files(&fixtures.join(name));
        let whole = open(&model, &guess(name)).unwrap();
        let int8 = read_own(&to_bytes(&whole, Storage::Int8).unwrap(), name).unwrap();
        let load = |checkpoint, device| block_on(Runner::load(checkpoint, device)).unwrap();
        let (mut cpu, mut gpu) = (load(&int8, Device::Cpu), load(&int8, Device::Gpu));
        for path in cases {
            let case = Case::read(&std::fs::read(&path).unwrap(), name).unwrap();
            let (found, expected) = (block_on(gpu.run(&case)).unwrap(), block_on(cpu.run(&case)).unwrap());
            let problems: Vec<_> = compare(&found, &expected).unwrap().into_iter().filter(|d| !d.fits()).collect();
            assert!(problems.is_empty(), "{name}: {problems:?}");
        }
        // What the numbers take in the file, but for groups of four that aren't full.
        let (device, host) = (gpu.gpu_info().unwrap().weight_bytes, int8.weights.tensors.values().map(HostTensor::bytes).sum::<usize>());
        assert!(device * 10 < host * 11, "{name}: {device} bytes on the device, {host} on the host");
    }
}

/// Our own file holds all that the network needs, in each type that numbers are stored in.
#[test]
fn the_family_is_stored_in_files_of_ours() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in FAMILY {
        let (model, cases) = files(&fixtures.join(name));
        let whole = open_any(&model, &guess(name)).unwrap();
        let case = Case::read(&std::fs::read(&cases[0]).unwrap(), name).unwrap();
        let run = |checkpoint: &detrim::checkpoint::Checkpoint<detrim::Architecture>| {
            block_on(block_on(Runner::load(checkpoint, Device::Cpu)).unwrap().run(&case)).unwrap()
        };
        let expected = run(&whole);
        let stored = |storage| read_any(&to_bytes(&whole, storage).unwrap(), name).unwrap();
        let again = stored(Storage::F32);
        assert_eq!((&again.config, &again.weights), (&whole.config, &whole.weights), "{name}");
        assert_eq!(run(&again), expected, "{name}");
        // What is stored smaller gives nearly the same features.
        for (storage, allowed) in [(Storage::F16, 2e-3), (Storage::Int8, 0.1)] {
            let (smaller, found) = (to_bytes(&whole, storage).unwrap().len(), run(&stored(storage)));
            assert!(smaller < to_bytes(&whole, Storage::F32).unwrap().len() * 3 / 4, "{name}");
            let encoder = |stages: &detrim::forward::Stages| stages.iter().find(|(name, _)| name == "encoder_0").unwrap().1.to_f32().into_owned();
            let (found, expected) = (encoder(&found), encoder(&expected));
            let length = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
            let off = length(&mut found.iter().zip(&expected).map(|(f, e)| f - e)) / length(&mut expected.iter().copied());
            assert!(off < allowed, "{name} as {storage:?}: {off}");
        }
    }
}

/// A folder with a larger model, cases and pictures of PyTorch's than the repository has. Tests that need it are left out unless they are asked
/// for, and then fail without it: one that finds nothing to compare has not passed.
pub fn reference() -> PathBuf {
    PathBuf::from(std::env::var_os("DETRIM_REFERENCE").expect("DETRIM_REFERENCE must name a folder with a model, cases and pictures"))
}

fn check_reference(device: Device) {
    let problems = check(&reference(), &Guess::default(), device);
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn fixtures_on_the_cpu() {
    check_fixtures(Device::Cpu);
}

#[test]
fn fixtures_on_the_gpu() {
    check_fixtures(Device::Gpu);
}

#[test]
#[ignore = "needs the folder DETRIM_REFERENCE"]
fn reference_on_the_cpu() {
    check_reference(Device::Cpu);
}

#[test]
#[ignore = "needs the folder DETRIM_REFERENCE"]
fn reference_on_the_gpu() {
    check_reference(Device::Gpu);
}
