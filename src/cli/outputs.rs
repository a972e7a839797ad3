//! Where a trimmed model and its plan go: not over what they are made of.

use anyhow::{Result, ensure};
use std::path::{Path, PathBuf};

/// Refuses what no file can be written to, before anything that takes long.
pub fn writable(out: &Path) -> Result<()> {
    let is_folder = out.is_dir() || out.to_string_lossy().ends_with(std::path::is_separator);
    ensure!(!is_folder, "{} is a directory, not a file to write: give it a name, as {}", out.display(), out.join("model.safetensors").display());
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    ensure!(folder.is_none_or(Path::is_dir), "{}: its folder isn't there", out.display());
    Ok(())
}

/// The plan's file beside a model that is to be written to `out`. Refuses, before anything that takes long, what could not be written, and
/// what would be written over one of the files that are `given`.
pub fn plan_beside(out: &Path, given: &[&Path]) -> Result<PathBuf> {
    let plan = out.with_extension("toml");
    ensure!(plan != out, "{}: the plan goes there; call the model NAME.safetensors", out.display());
    for path in [out, &plan] {
        writable(path)?;
        let same = |given: &&&Path| path == **given || path.canonicalize().is_ok_and(|path| given.canonicalize().is_ok_and(|given| given == path));
        if let Some(given) = given.iter().find(same) {
            anyhow::bail!("{} would be written over {}: give the result another name", path.display(), given.display());
        }
    }
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_over_what_it_is_made_of() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["base.safetensors", "mine.toml"] {
            std::fs::write(path(name), "").unwrap();
        }
        std::fs::create_dir(path("folder")).unwrap();
        let (base, recipe) = (path("base.safetensors"), path("mine.toml"));
        let ask = |out: &str| plan_beside(&path(out), &[&base, &recipe]).map_err(|error| error.to_string());
        assert_eq!(ask("small.safetensors"), Ok(path("small.toml")));
        for (out, problem) in [
            ("mine.safetensors", "mine.toml"),
            ("folder/../base.safetensors", "another name"),
            ("small.toml", "NAME.safetensors"),
            ("folder", "directory"),
            ("absent/small.safetensors", "folder isn't there"),
        ] {
            assert!(ask(out).unwrap_err().contains(problem), "{out}: {:?}", ask(out));
        }
        assert!(plan_beside(Path::new("small.safetensors"), &[]).is_ok());
    }
}
