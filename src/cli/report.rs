//! `detrim report`

use super::bars::Bars;
use super::calibration::{self, HELD_OUT, open_recipe};
use super::model::ModelArguments;
use super::outputs::plan_beside;
use super::print;
use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use detrim::checkpoint::{Checkpoint, Guess, Storage, open};
use detrim::config::Architecture;
use detrim::detector::Device;
use detrim::eval::coco::dataset::Dataset;
use detrim::eval::pace::pace;
use detrim::eval::profile::Profile;
use detrim::hash::sha256;
use detrim::output::write;
use detrim::progress::Progress;
use detrim::prune::budget::{Limit, Meter};
use detrim::prune::calibrate::Relevance;
use detrim::prune::difference::look_on;
use detrim::prune::importance::Importance;
use detrim::prune::recipe::{PRESETS, Recipe};
use detrim::prune::repair::Side;
use detrim::prune::report::make::{Pair, Workshop, fatal, word};
use detrim::prune::report::measure::{Judge, Labelled, costs};
use detrim::prune::report::show::{line, markdown};
use detrim::prune::report::{Browsers, Claim, Compared, Curve, Point, Quality, Report, Row, plot_curves, verdicts};
use detrim::prune::survey::Surveyor;
use detrim::prune::trim::Method;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Trim a detector by every recipe, with and without repair, and measure what each achieves beside what is claimed for it.
///
/// Writes report.md, report.json, curves.svg and every trimmed network with its plan. A report that was interrupted goes on: what is
/// in the folder by the same settings isn't made again.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    detrim report base.safetensors --images photos --out report\n  \
    detrim report base.safetensors --images photos --annotations val.json --photos val --limit 2000 --out report\n  \
    detrim report base.safetensors --images photos --recipe layers --recipe mine.toml --no-curves --out report")]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Folder of pictures like those that the detector is for: to choose and repair by
    #[arg(long, value_name = "DIR", required = true)]
    images: Vec<PathBuf>,
    /// Pictures to use of them
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::count)]
    pictures: usize,
    /// True boxes in COCO's format, to measure average precision with
    #[arg(long, value_name = "JSON", requires = "photos")]
    annotations: Option<PathBuf>,
    /// Folder that the annotations' file names are in
    #[arg(long, value_name = "DIR", requires = "annotations")]
    photos: Option<PathBuf>,
    /// Use only the first N annotated pictures
    #[arg(long, value_name = "N", requires = "annotations", value_parser = super::count)]
    limit: Option<usize>,
    /// layers, heads, channels, article, combined, speed, or a recipe's TOML file; may be given several times [default: all six]
    #[arg(long = "recipe", value_name = "NAME")]
    recipes: Vec<String>,
    /// A recipe's network after fine-tuning, as layers=healed.safetensors; may be given several times
    #[arg(long, value_name = "NAME=FILE", value_parser = name_file)]
    healed: Vec<(String, PathBuf)>,
    /// What `detrim bench --profile` measured: recipes' limits on latency go by it
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Methods to carry out every recipe by, to be compared with obs: taylor, magnitude, attention, random
    #[arg(long, value_name = "METHOD", value_delimiter = ',', value_enum)]
    beside: Vec<Importance>,
    /// Methods to draw curves of: obs, taylor, magnitude, attention, random
    #[arg(long, value_name = "METHOD", value_delimiter = ',', default_value = "obs,magnitude,random", value_enum)]
    importance: Vec<Importance>,
    /// Limits of multiply-accumulates to draw curves through
    #[arg(long, value_name = "LIMIT", value_delimiter = ',', default_value = "-10%,-20%,-30%,-40%", allow_hyphen_values = true)]
    limits: Vec<String>,
    /// Only the recipes
    #[arg(long)]
    no_curves: bool,
    /// Runs of which the median time is taken
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = super::count)]
    runs: usize,
    /// Times in a browser that `node tests/browser/report.js` measured for this folder
    #[arg(long, value_name = "JSON")]
    browser: Option<PathBuf>,
    /// Resampled sets of pictures behind an interval
    #[arg(long, default_value_t = 1000)]
    resamples: usize,
    /// Chooses the pictures: the same seed gives the same networks
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Folder for everything that is made
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn name_file(text: &str) -> Result<(String, PathBuf)> {
    let (name, file) = text.split_once('=').context("expected NAME=FILE, as layers=healed.safetensors")?;
    Ok((name.into(), file.into()))
}

pub fn run(arguments: Arguments) -> Result<()> {
    // Whatever can be wrong with what was asked for, before anything that takes long.
    let Arguments { out, annotations, photos, seed, .. } = &arguments;
    let profile = arguments.profile.as_deref().map(Profile::open).transpose()?;
    let recipes = recipes(&arguments.recipes, profile.is_some())?;
    let limits = arguments.limits.iter().map(|text| Ok((text.clone(), text.parse::<Limit>()?))).collect::<Result<Vec<_>, String>>();
    let limits = limits.map_err(|error| anyhow::anyhow!("--limits: {error}"))?;
    let healed: BTreeMap<&str, &Path> = arguments.healed.iter().map(|(name, file)| (&**name, &**file)).collect();
    for (name, file) in &healed {
        ensure!(recipes.iter().any(|(recipe, _)| recipe == name), "--healed {name}={}: no recipe of that name is in the report", file.display());
        open(file, &Guess::default())?;
    }
    if out.is_dir() {
        let files = arguments.recipes.iter().map(Path::new);
        let given: Vec<&Path> = files.chain([&*arguments.model.model]).chain(arguments.profile.as_deref()).collect();
        for name in recipes.iter().flat_map(|(name, _)| [name.clone(), format!("{name}-unrepaired")]) {
            plan_beside(&out.join(format!("{name}.safetensors")), &given)?;
        }
    }
    let browsers = arguments.browser.as_deref().map(Browsers::open).transpose()?;
    let path = &arguments.model.model;
    let checkpoint = arguments.model.open()?;
    let config = &Architecture::from(checkpoint.config.clone());
    let parent_sha256 = super::model::sha256(path)?;
    let (dataset, annotations_sha256) = match annotations {
        Some(path) => {
            let name = path.display().to_string();
            let mut dataset = super::open_annotations(&name, path)?;
            dataset.truncate(arguments.limit.unwrap_or(usize::MAX));
            ensure!(!dataset.images.is_empty(), "{name}: there are no pictures");
            super::relate(&name, &dataset, config.labels(), "none of them can be found")?;
            if let Some(photos) = photos {
                super::locate(&mut dataset, photos);
            }
            (dataset, sha256(&std::fs::read(path).with_context(|| path.display().to_string())?))
        }
        None => (Dataset::default(), String::new()),
    };
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;

    let bars = Bars::default();
    let (inputs, held_out) = calibration::read(&arguments.images, arguments.pictures, HELD_OUT, *seed, config.pixels(), &bars)?;
    let relevance = Relevance::of(&look_on(config, &checkpoint.weights, &inputs, &bars)?);
    let side = Side { config, weights: &checkpoint.weights, inputs: &inputs, relevance: &relevance };
    // What one recipe had to know of the parent, the next needn't measure again.
    let surveyors: Vec<Surveyor> = Importance::value_variants()
        .iter()
        .map(|&importance| Surveyor::new(&side, Method { importance, repair: true, seed: *seed, fold: true }, &bars))
        .collect();
    let by = |importance: Importance| surveyors.iter().find(|surveyor| surveyor.method.importance == importance).context("no such method");
    let workshop = Workshop {
        parent: &side,
        card: &checkpoint.card,
        sha256: &parent_sha256,
        meter: Meter::new(config, &checkpoint.card, Storage::F16, profile.as_ref())?,
        folder: out,
        progress: &bars,
    };
    let labelled =
        photos.as_ref().map(|photos| Labelled { dataset: &dataset, photos, sha256: annotations_sha256, resamples: arguments.resamples, seed: *seed });
    let parent_file = out.join(workshop.parent()?);
    let times = |name: &str, file: &Path| -> Result<_> {
        let sha256 = sha256(&std::fs::read(file).with_context(|| file.display().to_string())?);
        Ok(browsers.as_ref().map_or(Ok(None), |browsers| browsers.of(name, &sha256)))
    };
    let parent_times = times("parent", &parent_file)?.map_err(|problem| {
        let file = arguments.browser.clone().unwrap_or_default();
        anyhow::anyhow!("{}: {problem}", file.display())
    })?;
    let (judge, quality) = Judge::new(&parent_file, labelled, &held_out, out, &bars)?;
    let parent = open(&parent_file, &Guess::default())?;
    let mut report = Report {
        parent: checkpoint.card.name.clone(),
        parent_sha256: parent_sha256.clone(),
        pictures: inputs.len(),
        calibration: inputs.hash.clone(),
        held_out: held_out.len(),
        annotated: annotations.as_ref().map(|_| dataset.images.len()),
        browsers: browsers.clone(),
        rows: vec![Row {
            name: "parent".into(),
            costs: costs(&parent, bytes(&parent_file)?)?,
            pace: None,
            unrepaired: Some(quality),
            repaired: None,
            healed: None,
            browser: parent_times,
            claim: None,
            verdicts: vec![],
        }],
        methods: vec![],
        curves: vec![],
        problems: vec![],
    };

    for (name, recipe) in &recipes {
        match fatal(workshop.recipe(name, recipe, by(Importance::Obs)?))? {
            Err(error) => {
                bars.end();
                eprintln!("warning: {name} can't be made: {error}");
                report.problems.push(format!("{name}: {error}"));
            }
            Ok(pair) => {
                let mut row = measure(name, &pair, &judge, &parent, &arguments, &bars)?;
                match times(name, &out.join(&pair.repaired))? {
                    Ok(times) => row.browser = times,
                    Err(problem) => report.problems.push(format!("{name}: {problem}")),
                }
                if let Some(file) = healed.get(&**name) {
                    row.healed = Some(judge.judge(file, true)?);
                    let parameters = costs(&open(file, &Guess::default())?, 0)?.parameters;
                    if parameters != row.costs.parameters {
                        let problem = format!("the healed network has {parameters} parameters, the trimmed one {}", row.costs.parameters);
                        report.problems.push(format!("{name}: {problem}: {} isn't what became of it", file.display()));
                    }
                }
                // Claims are for the presets, not for a file that is called like one.
                let preset = arguments.recipes.is_empty() || arguments.recipes.iter().any(|given| given == name);
                row.claim = Claim::of(name).filter(|_| preset);
                row.verdicts = row.claim.map_or(vec![], |claim| verdicts(&claim, &row, &report.rows[0]));
                bars.end();
                print(&line(&row, &report.rows[0]))?;
                report.rows.push(row);
            }
        }
        save(&report, out)?;
    }
    for &importance in arguments.beside.iter().filter(|importance| **importance != Importance::Obs) {
        for (name, recipe) in &recipes {
            let pair = fatal(workshop.recipe(name, recipe, by(importance)?))?;
            match pair {
                Err(error) => report.problems.push(format!("{name} by {}: {error}", word(importance))),
                Ok(pair) => {
                    let [unrepaired, repaired] = [pair.unrepaired, pair.repaired].map(|file| judge.judge(&judge.file(&file), false));
                    report.methods.push(Compared { recipe: name.clone(), importance, unrepaired: unrepaired?, repaired: repaired? });
                }
            }
            bars.end();
            save(&report, out)?;
        }
        print(&format!("recipes by {} are measured\n", word(importance)))?;
    }
    if !arguments.no_curves {
        for &importance in &arguments.importance {
            let pairs = workshop.limits(by(importance)?, &limits)?;
            draw(&mut report, importance, pairs, &limits, &judge)?;
            bars.end();
            print(&format!("curves by {} are measured\n", word(importance)))?;
            save(&report, out)?;
        }
    }
    print(&format!("\n{}wrote {}\n", save(&report, out)?, out.join("report.md").display()))
}

/// The recipes by their names in the report.
fn recipes(given: &[String], profiled: bool) -> Result<Vec<(String, Recipe)>> {
    let names: Vec<String> = if given.is_empty() { PRESETS.map(|(name, _)| name.to_string()).into() } else { given.to_vec() };
    let mut recipes: Vec<(String, Recipe)> = Vec::new();
    for name in names {
        let recipe = open_recipe(&name, profiled)?;
        let short = Path::new(&name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if short == "parent" || recipes.iter().any(|(other, _)| *other == short) {
            bail!("--recipe {name}: the report has a {short} already");
        }
        recipes.push((short, recipe));
    }
    Ok(recipes)
}

/// A trimmed network's row, without healing and claims.
fn measure(name: &str, pair: &Pair, judge: &Judge, parent: &Checkpoint, arguments: &Arguments, bars: &Bars) -> Result<Row> {
    let file = arguments.out.join(&pair.repaired);
    let trimmed = open(&file, &Guess::default())?;
    let unrepaired = judge.judge(&arguments.out.join(&pair.unrepaired), true)?;
    let repaired = judge.judge(&file, true)?;
    bars.begin(&format!("timing {name} and the parent"), arguments.runs);
    let pace = pace(parent, &trimmed, Device::Cpu, arguments.runs, &|| bars.step())?;
    Ok(Row {
        name: name.into(),
        costs: costs(&trimmed, bytes(&file)?)?,
        pace: Some(pace),
        unrepaired: Some(unrepaired),
        repaired: Some(repaired),
        healed: None,
        browser: None,
        claim: None,
        verdicts: vec![],
    })
}

/// Measures what a method has made.
fn draw(report: &mut Report, importance: Importance, pairs: Vec<detrim::Result<Pair>>, limits: &[(String, Limit)], judge: &Judge) -> Result<()> {
    let whole = report.rows[0].costs;
    let mut curves = [true, false].map(|repair| Curve { importance, repair, points: vec![] });
    for (pair, (limit, _)) in pairs.into_iter().zip(limits) {
        let pair = match pair {
            Ok(pair) => pair,
            Err(error) => {
                report.problems.push(format!("{}, MACs {limit}: {error}", word(importance)));
                continue;
            }
        };
        for (curve, file) in curves.iter_mut().zip([pair.repaired, pair.unrepaired]) {
            let file = judge.file(&file);
            let quality: Quality = judge.judge(&file, false)?;
            let costs = costs(&open(&file, &Guess::default())?, bytes(&file)?)?;
            let (macs, parameters) = (costs.macs as f64 / whole.macs as f64, costs.parameters as f64 / whole.parameters as f64);
            curve.points.push(Point { limit: limit.clone(), macs, parameters, quality });
        }
    }
    report.curves.extend(curves);
    Ok(())
}

/// Writes the report as far as it is; gives its text.
fn save(report: &Report, out: &Path) -> Result<String> {
    let parent_ap = report.rows[0].unrepaired.as_ref().and_then(|quality| quality.ap);
    let mut plots = Vec::new();
    if let Some(svg) = plot_curves(&report.curves, parent_ap)? {
        write(&out.join("curves.svg"), svg.as_bytes())?;
        plots.push(("Methods".to_string(), "curves.svg".to_string()));
    }
    let text = markdown(report, &plots);
    write(&out.join("report.json"), &serde_json::to_vec_pretty(report)?)?;
    write(&out.join("report.md"), text.as_bytes())?;
    Ok(text)
}

fn bytes(file: &Path) -> Result<usize> {
    Ok(std::fs::metadata(file).with_context(|| file.display().to_string())?.len() as usize)
}
