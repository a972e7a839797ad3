use super::*;
use crate::config::{Backbone, EfficientNetLite, ResNet};
use crate::eval::operations::Kind;
use crate::structure::{Place, of_detr};
use fastrand::Rng;

fn lite() -> Config {
    Config::detr(Backbone::EfficientNetLite(EfficientNetLite::lite0()))
}

fn entry(kind: Kind, rows: &[usize], inputs: &[usize], outputs: &[usize], mut time: impl FnMut(f64, f64, f64) -> f64) -> Entry {
    let mut ms = Vec::new();
    for &row in rows {
        for &input in inputs {
            ms.extend(outputs.iter().map(|&output| time(row as f64, input as f64, output as f64)));
        }
    }
    Entry { kind, rows: rows.into(), inputs: inputs.into(), outputs: outputs.into(), ms }
}

fn profile(entries: Vec<Entry>) -> Profile {
    Profile { device: "a test".into(), size: [384, 384], network: 1.0, measured: Measured::Operations { scale: 2.0, entries } }
}

fn reread(profile: &Profile) -> Result<Profile> {
    Profile::parse(&serde_json::to_string(profile).unwrap(), "profile.json")
}

const LINEAR: Kind = Kind::Linear { residual: false };

fn linear(rows: usize, inputs: usize, outputs: usize) -> Operation {
    Operation { kind: LINEAR, map: [1, rows], inputs, outputs }
}

#[test]
fn between_measurements_a_products_time_is_exact() {
    let time = |rows: f64, inputs: f64, outputs: f64| 0.1 + rows * (0.001 + 0.002 * inputs + 0.003 * outputs + 0.004 * inputs * outputs);
    let entries = [entry(LINEAR, &[50, 100], &[64, 128, 256], &[32, 256], time)];
    for (rows, inputs, outputs) in [(50, 64, 32), (100, 256, 256), (75, 100, 99), (51, 255, 33)] {
        let (found, expected) = (grid::predict(&entries, &linear(rows, inputs, outputs)), time(rows as f64, inputs as f64, outputs as f64));
        assert!((found / expected - 1.0).abs() < 1e-9, "{rows} {inputs} {outputs}: {found} instead of {expected}");
    }
}

#[test]
fn what_was_never_measured_is_scaled_by_its_work() {
    let entries = [
        entry(LINEAR, &[100], &[256], &[256], |_, _, _| 4.0),
        entry(LINEAR, &[1000], &[256], &[256], |_, _, _| 20.0),
        entry(Kind::Depthwise { kernel: 3, stride: 1 }, &[100], &[64], &[1], |_, _, _| 9.0),
    ];
    let at = |operation| grid::predict(&entries, &operation);
    assert_eq!(at(linear(100, 512, 768)), 24.0);
    // Nearer to 100 rows, and nearer to 1000.
    assert_eq!((at(linear(50, 256, 256)), at(linear(500, 256, 256))), (2.0, 10.0));
    // Half of the time is there however few the channels.
    assert_eq!(at(linear(100, 128, 256)), 3.0);
    let map = [10, 10];
    assert_eq!(at(Operation { kind: Kind::Linear { residual: true }, map, inputs: 256, outputs: 256 }), 4.0);
    assert_eq!(at(Operation { kind: Kind::Conv { kernel: 3, stride: 2, residual: true }, map, inputs: 256, outputs: 256 }), 36.0);
    assert_eq!(at(Operation { kind: Kind::Depthwise { kernel: 5, stride: 2 }, map, inputs: 64, outputs: 1 }), 25.0);
    // Nothing of its sort at all: the least of all times by the work.
    let attention = at(Operation { kind: Kind::Attention { head_width: 32 }, map: [10, 10], inputs: 8, outputs: 1 });
    assert!((attention / (64.0 * 800.0 * 20.0 / (1000.0 * 256.0 * 256.0)) - 1.0).abs() < 1e-9);
}

#[test]
fn of_overlapping_entries_the_least_time_counts() {
    let entries = [entry(LINEAR, &[100], &[8, 64], &[8, 64], |_, i, o| i * o), entry(LINEAR, &[100], &[64, 256], &[64, 256], |_, i, o| 0.5 * i * o)];
    assert_eq!(grid::predict(&entries, &linear(100, 16, 16)), 256.0);
    assert_eq!(grid::predict(&entries, &linear(100, 128, 128)), 0.5 * 128.0 * 128.0);
}

/// Noise and all: whatever is measured, a wider network is never predicted to be faster.
#[test]
fn more_channels_never_take_less() {
    let mut rng = Rng::with_seed(5);
    let parent = lite();
    for trial in 0..20 {
        let mut entries = Vec::new();
        for step in operations(&shrunk::random(&parent, &mut rng), [384, 384]) {
            let Operation { kind, inputs, outputs, .. } = step.operation;
            let axis = |last: usize| if last > 3 { vec![last / 4, last / 2, last] } else { vec![last] };
            entries.push(entry(kind, &[step.operation.rows()], &axis(inputs), &axis(outputs), |_, i, o| i * o * (0.2 + rng.f64())));
        }
        let rates = Rates { operation: rng.f64(), linear: rng.f64(), numbers: rng.f64(), ..Rates::default() };
        let mut profile =
            if trial % 2 == 0 { profile(entries) } else { Profile { measured: Measured::Networks { networks: 9, rates }, ..profile(entries) } };
        profile.settle("a test").unwrap();
        let small = shrunk::random(&parent, &mut rng);
        let before = profile.latency(&small, [384, 384]);
        for structure in of_detr(&small).into_iter().filter(|structure| structure.place != Place::Queries) {
            let mut wider = small.clone();
            structure.place.set_in_detr(&mut wider, structure.units + 1 + rng.usize(..40));
            let after = profile.latency(&wider, [384, 384]);
            assert!(after >= before && after.is_finite(), "{}: {before} → {after}", structure.name);
        }
    }
}

#[test]
fn a_profile_is_for_any_network() {
    let profile = profile(vec![entry(LINEAR, &[100], &[64, 256], &[64, 256], |_, i, o| i * o / 1e5)]);
    for config in [lite(), Config::detr(Backbone::Resnet(ResNet::of_depth(50, true).unwrap()))] {
        let (small, large) = (profile.latency(&config, [64, 96]), profile.latency(&config, [384, 384]));
        assert!(0.0 < small && small < large && large.is_finite(), "{small} {large}");
    }
}

#[test]
fn a_profile_is_read_as_it_was_written() {
    let kinds = [Kind::Conv { kernel: 3, stride: 2, residual: true }, Kind::Attention { head_width: 32 }, Kind::Norm];
    let entries = kinds.map(|kind| entry(kind, &[10, 20], &[8, 16], &[1], |r, i, _| r * i / 8.0));
    let profile = profile(entries.to_vec());
    assert_eq!(reread(&profile).unwrap(), profile);
    let rates = Rates { picture: 0.5, ..Rates::default() };
    let profile = Profile { measured: Measured::Networks { networks: 3, rates }, ..profile };
    assert_eq!(reread(&profile).unwrap(), profile);
}

#[test]
fn noise_is_smoothed_when_a_profile_is_read() {
    let mut entry = entry(LINEAR, &[1, 2], &[8, 16], &[8, 16], |_, _, _| 1.0);
    entry.ms = vec![5.0, 4.0, 6.0, 7.0, 1.0, 9.0, 2.0, 8.0];
    let Measured::Operations { entries, .. } = reread(&profile(vec![entry])).unwrap().measured else { panic!() };
    assert_eq!(entries[0].ms, [5.0, 5.0, 6.0, 7.0, 5.0, 9.0, 6.0, 9.0]);
}

#[test]
fn a_bad_profile_is_refused_by_name() {
    let whole = entry(LINEAR, &[1, 2], &[8], &[8, 16], |r, _, o| r * o);
    let with = |change: &dyn Fn(&mut Entry)| {
        let mut entry = whole.clone();
        change(&mut entry);
        serde_json::to_string(&profile(vec![whole.clone(), entry])).unwrap()
    };
    let rates = |rates: Rates| serde_json::to_string(&Profile { measured: Measured::Networks { networks: 1, rates }, ..profile(vec![]) }).unwrap();
    let good = with(&|_| ());
    assert!(Profile::parse(&good, "profile.json").is_ok());
    for (text, problem) in [
        (String::new(), "not a profile"),
        ("[]".into(), "not a profile"),
        ("{}".into(), "missing field"),
        (good.replace("\"scale\":2.0", "\"scale\":-2.0"), "scale"),
        (good.replace("\"scale\":2.0", "\"scale\":0"), "scale"),
        (good.replace("\"scale\":2.0", "\"scale\":NaN"), "not a profile"),
        (good.replace("\"scale\":2.0", "\"scale\":1e999"), "not a profile"),
        (good.replace("linear", "quadratic"), "quadratic"),
        (good.replace("\"rows\":[1,2]", "\"rows\":[1,-2]"), "not a profile"),
        (serde_json::to_string(&profile(vec![])).unwrap(), "no entries"),
        (with(&|entry| entry.ms[1] = -1.0), "entry 1: a time must be"),
        (with(&|entry| entry.ms[2] = 0.0), "entry 1: a time must be"),
        (with(&|entry| entry.ms[1] = f64::NAN), "not a profile"),
        (with(&|entry| entry.ms.truncate(3)), "entry 1: 3 times don't fill"),
        (with(&|entry| entry.rows = vec![2, 1]), "entry 1: rows"),
        (with(&|entry| entry.rows = vec![0, 1]), "entry 1: rows"),
        (with(&|entry| entry.inputs = vec![]), "entry 1: inputs"),
        (with(&|entry| entry.outputs = vec![8, 8]), "entry 1: outputs"),
        (rates(Rates::default()), "all zero"),
        (rates(Rates { linear: -1.0, picture: 1.0, ..Rates::default() }), "negative"),
    ] {
        let error = Profile::parse(&text, "profile.json").unwrap_err().to_string();
        assert!(error.starts_with("profile.json: ") && error.contains(problem), "{problem}: {error}");
    }
}

#[test]
fn shrunk_networks_can_be_built() {
    let mut rng = Rng::with_seed(1);
    for depth in [18, 50] {
        let parent = Config::detr(Backbone::Resnet(ResNet::of_depth(depth, false).unwrap()));
        for _ in 0..20 {
            shrunk::random(&parent, &mut rng).check().unwrap();
        }
        assert_eq!(shrunk::shrunk(&parent, |_| 1.0), parent);
    }
}

#[test]
fn a_tiny_network_is_measured_and_its_profile_adds_up_to_it() {
    let mut config = lite();
    config.encoder.truncate(1);
    config.decoder.truncate(1);
    config.queries = 5;
    let mut told = 0;
    let checkpoint = crate::checkpoint::random(config.clone(), "tiny", 0);
    let profile = pollster::block_on(Profile::measure(&checkpoint, Device::Cpu, Some([32, 32]), &mut |_, done, of| {
        assert!(done < of);
        told += 1;
    }));
    let profile = profile.unwrap();
    assert!(told > 0 && (profile.latency(&config, [32, 32]) / profile.network - 1.0).abs() < 1e-3);
    assert_eq!(reread(&profile).unwrap(), profile);
}
