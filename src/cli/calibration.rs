//! What the commands about trimming begin with: pictures to choose and repair by, and recipes.

use super::bars::Bars;
use super::complain;
use super::photos::expand;
use anyhow::Result;
use detrim::config::Pixels;
use detrim::progress::Progress;
use detrim::prune::inputs::Inputs;
use detrim::prune::recipe::Recipe;
use std::path::PathBuf;

/// Pictures that a result is measured on, beside those it is made with.
pub const HELD_OUT: usize = 64;

/// So many pictures of some folders, and so many others, with a progress bar. What can't be read is told of.
pub fn read(folders: &[PathBuf], pictures: usize, held_out: usize, seed: u64, pixels: &Pixels, bars: &Bars) -> Result<(Inputs, Inputs)> {
    let files = expand(folders)?.files;
    bars.begin("reading pictures", (pictures + held_out).min(files.len()));
    let mut problems = Vec::new();
    let inputs = Inputs::open(&files, pictures + held_out, seed, pixels, &|| bars.step(), &mut |_, error| problems.push(error.to_string()));
    bars.end();
    complain("pictures", "could not be read", &problems);
    Ok(inputs?.split(pictures))
}

/// What a card says of a network that was rounded to int8 by pictures.
pub fn rounded(inputs: &Inputs) -> String {
    format!("rounded to int8 on {} pictures ({})", inputs.len(), inputs.hash)
}

/// A recipe, without what there is no profile for.
pub fn open_recipe(name: &str, profiled: bool) -> Result<Recipe> {
    let mut recipe = Recipe::open(name)?;
    if !profiled && recipe.leave_out_latency(name)? {
        eprintln!("warning: without --profile the limit on latency of {name} is left out; detrim bench MODEL --profile FILE measures a device");
    }
    Ok(recipe)
}
