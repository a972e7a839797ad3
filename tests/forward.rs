//! `detrim forward`: what it writes, what it compares, and what it refuses.

use safetensors::SafeTensors;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn forward(model: &Path, case: &Path, options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_detrim")).arg("forward").args([model, case]).args(options).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Asserts exit code 1 and an error that says all of these.
fn assert_refused(output: &Output, says: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(says.iter().all(|part| error.contains(part)) && !error.contains("panicked"), "{error}");
}

#[test]
fn writes_every_stage_as_pytorch_lays_it_out() {
    let folder = tempfile::tempdir().unwrap();
    for backend in ["cpu", "gpu"] {
        let out = folder.path().join(format!("{backend}.safetensors"));
        let options = ["--backend", backend, "--out", out.to_str().unwrap(), "--compare"];
        let output = forward(&fixture("native"), &fixture("native/masked.safetensors"), &options);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let table = text(&output.stdout);
        assert!(table.contains("encoder_layer1") && !table.contains("too far"), "{table}");
        let (found, expected) = (std::fs::read(&out).unwrap(), std::fs::read(fixture("native/masked.safetensors")).unwrap());
        let (found, expected) = (SafeTensors::deserialize(&found).unwrap(), SafeTensors::deserialize(&expected).unwrap());
        assert_eq!(found.len() + 2, expected.len(), "all but pixel_values and pixel_mask");
        for (name, tensor) in found.tensors() {
            assert_eq!(tensor.shape(), expected.tensor(&name).unwrap().shape(), "{name}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn fails_where_a_stage_is_too_far_off() {
    // Its training's options say 4 heads; what is said on the command line goes before.
    let (model, case) = (fixture("original-zip/model.pth"), fixture("original-zip/plain.safetensors"));
    let output = forward(&model, &case, &["--compare", "--heads", "8"]);
    assert_refused(&output, &["assumed: ", "stages differ by more than is allowed"]);
    let table = text(&output.stdout);
    let row = |stage: &str| table.lines().find(|line| line.trim_start().starts_with(stage)).unwrap_or_else(|| panic!("no {stage} in {table}"));
    assert!(row("encoder_layer0").contains("too far") && !row("projected").contains("too far"), "{table}");
    assert!(forward(&model, &case, &["--compare"]).status.success());
}

#[test]
fn refuses_what_is_not_a_case() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.safetensors");
    let options = ["--out", out.to_str().unwrap()];
    assert_refused(&forward(&fixture("native"), &folder.path().join("absent.safetensors"), &options), &["absent.safetensors"]);
    let model = fixture("native/model.safetensors");
    assert_refused(&forward(&fixture("native"), &model, &options), &["model.safetensors: tensor pixel_values is missing"]);
    let whole = std::fs::read(fixture("native/plain.safetensors")).unwrap();
    let cut = folder.path().join("cut.safetensors");
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    assert_refused(&forward(&fixture("native"), &cut, &options), &["cut.safetensors: the file is cut off"]);
    assert!(!out.exists());
}
