//! A report for people: a table in Markdown, the claims beside it.

use super::claims::percent;
use super::make::word;
use super::{Browsers, Curve, Quality, Report, Row, Time, Turns};
use crate::eval::coco::bootstrap::{Interval, Intervals};
use crate::prune::importance::Importance;
use comfy_table::{Table, presets};
use std::collections::BTreeSet;

/// The whole report. `plots` are files beside it, by what they show.
pub fn markdown(report: &Report, plots: &[(String, String)]) -> String {
    let Report { parent, parent_sha256, pictures, calibration, held_out, .. } = report;
    let mut text = format!("# {parent}, trimmed\n\n");
    text += &format!(
        "Parent: {parent} (sha256 {parent_sha256}). Trimmed and repaired on {pictures} pictures ({calibration}), without labels or training. "
    );
    text += &timing(report);
    match report.annotated {
        Some(count) => {
            text += &format!(
                "AP and AP50 on {count} annotated pictures; behind them how much more or less that is than the parent's, and its 95% interval (paired bootstrap). "
            );
        }
        None => text += "There were no annotations: AP wasn't measured. ",
    }
    text += &format!("Difference: of the outputs from the parent's on {held_out} other pictures (0: none, 1: as if nothing were found).\n\n");
    text += &table(report);
    text += "\n\n## Claims\n\nBy the healed network, where there is one, else by the repaired one.\n\n";
    text += &claims(report);
    if !report.methods.is_empty() {
        text += "\n\n## Methods in each recipe\n\n";
        text += &methods(report);
    }
    for (what, file) in plots {
        text += &format!("\n\n## {what}\n\n![{what}]({file})\n\n");
        text += &curves(&report.curves);
    }
    if !report.problems.is_empty() {
        text += "\n\n## Not done\n";
        report.problems.iter().for_each(|problem| text += &format!("\n- {problem}"));
    }
    text + "\n"
}

/// How times were taken.
fn timing(report: &Report) -> String {
    let native = report.rows.iter().find_map(|row| Some(row.pace?.runs));
    let native = native.map(|runs| format!("natively on the CPU, {runs} runs"));
    let in_browser = report.browsers.iter().flat_map(|Browsers { browser, wasm, webgpu }| {
        let rounds = |turns: &Turns| format!("{} rounds", turns.rounds);
        let wasm = wasm.as_ref().map(|turns| format!("as wasm on the CPU in {browser}, {}", rounds(turns)));
        let webgpu = webgpu.as_ref().map(|turns| {
            let program = if turns.software { ": **a program on the processor, whose times say nothing about graphics processors**" } else { "" };
            format!("on WebGPU in {browser}, {} ({}{program})", rounds(turns), turns.adapter)
        });
        [wasm, webgpu]
    });
    let places: Vec<String> = [native].into_iter().chain(in_browser).flatten().collect();
    if places.is_empty() {
        return String::new();
    }
    format!("Time: the median latency ratio to the parent, of runs in turns, and the median of the network alone; {}. ", places.join("; "))
}

/// A row for each network. Columns that nothing is known for are left out.
pub fn table(report: &Report) -> String {
    let Some(parent) = report.rows.first() else { return String::new() };
    let more = [("unrepaired", 0), ("repaired", 1), ("healed", 2)];
    let mut columns: Vec<(String, Vec<String>)> = Vec::new();
    let mut column = |name: &str, cell: &dyn Fn(&Row) -> String| columns.push((name.into(), report.rows.iter().map(cell).collect()));
    let of = |part: f64, whole: f64| format!("{:.1}%", 100.0 * part / whole.max(1.0));
    column("", &|row| row.name.clone());
    let size = |[height, width]: [usize; 2]| format!("{height}×{width}");
    column("input", &|row| size(row.costs.size));
    column("parameters", &|row| format!("{:.2} M", row.costs.parameters as f64 / 1e6));
    column("of parent", &|row| of(row.costs.parameters as f64, parent.costs.parameters as f64));
    column("f16", &|row| megabytes(row.costs.f16_bytes));
    column("int8", &|row| megabytes(row.costs.int8_bytes));
    column("MACs", &|row| of(row.costs.macs as f64, parent.costs.macs as f64));
    // One decimal more than clocks deserve, so that ratios can be told apart.
    let time = |ms: f64, ratio: f64| format!("{ratio:.3} ({ms:.1} ms)");
    column("time native", &|row| row.pace.map_or(String::new(), |pace| time(pace.ms, pace.ratio)));
    let software = report.browsers.as_ref().and_then(|found| found.webgpu.as_ref()).is_some_and(|turns| turns.software);
    let webgpu = if software { "time WebGPU (software)" } else { "time WebGPU" };
    let browser = |found: Option<Time>| found.map_or(String::new(), |found| time(found.ms, found.ratio));
    column("time wasm", &|row| browser(row.browser.and_then(|times| times.wasm)));
    column(webgpu, &|row| browser(row.browser.and_then(|times| times.webgpu)));
    type Of = (&'static str, fn(&Quality) -> Option<f64>, fn(&Intervals) -> Interval);
    let measures: [Of; 2] = [("AP", |q| q.ap, |i| i.ap), ("AP50", |q| q.ap50, |i| i.ap50)];
    for (name, value, interval) in measures {
        let base = parent.unrepaired.as_ref().and_then(value);
        for (state, which) in more {
            column(&format!("{name} {state}"), &|row| {
                let Some(quality) = qualities(row)[which] else { return String::new() };
                value(quality).map_or(String::new(), |ap| accuracy(ap, base, quality.against_parent.as_ref().map(interval)))
            });
        }
    }
    for (state, which) in more {
        column(&format!("difference {state}"), &|row| thousandths(qualities(row)[which].and_then(|q| q.difference)));
    }
    columns.retain(|(name, cells)| name.is_empty() || cells.iter().any(|cell| !cell.is_empty()));
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(columns.iter().map(|(name, _)| name));
    for (i, _) in report.rows.iter().enumerate() {
        table.add_row(columns.iter().map(|(_, cells)| &cells[i]));
    }
    table.to_string()
}

/// What is claimed for each row, and whether it is so.
pub fn claims(report: &Report) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["", "of", "claimed", "measured", "met"]);
    for row in &report.rows {
        let Some(claim) = &row.claim else { continue };
        for (of, claimed) in [("parameters", claim.parameters), ("speed", claim.speed), ("AP", claim.ap)] {
            let unit = if of == "AP" { "" } else { "%" };
            let show = |x: f64| format!("{x:+.1}{unit}");
            let found = row.verdicts.iter().find(|verdict| verdict.of == of);
            let met = found.map_or("not measured", |verdict| if verdict.met { "yes" } else { "no" });
            table.add_row([row.name.clone(), of.into(), show(claimed), found.map_or(String::new(), |v| show(v.measured)), met.into()]);
        }
    }
    table.to_string()
}

/// What each method makes of each recipe: `obs` as in the first table, then the others.
fn methods(report: &Report) -> String {
    let mut table = Table::new();
    let header = ["", "method", "AP unrepaired", "AP repaired", "difference unrepaired", "difference repaired"];
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    for row in &report.rows[1..] {
        let obs = row.unrepaired.as_ref().zip(row.repaired.as_ref()).map(|(unrepaired, repaired)| (Importance::Obs, unrepaired, repaired));
        let others = report.methods.iter().filter(|other| other.recipe == row.name);
        let others = others.map(|other| (other.importance, &other.unrepaired, &other.repaired));
        for (importance, unrepaired, repaired) in obs.into_iter().chain(others) {
            let [ap, repaired_ap] = [unrepaired, repaired].map(|quality| points(quality.ap));
            let [difference, repaired] = [unrepaired, repaired].map(|quality| thousandths(quality.difference));
            table.add_row([row.name.clone(), word(importance), ap, repaired_ap, difference, repaired]);
        }
    }
    table.to_string()
}

fn points(share: Option<f64>) -> String {
    share.map_or(String::new(), |share| format!("{:.1}", 100.0 * share))
}

fn thousandths(difference: Option<f64>) -> String {
    difference.map_or(String::new(), |difference| format!("{difference:.3}"))
}

fn curves(curves: &[Curve]) -> String {
    let limits: BTreeSet<&str> = curves.iter().flat_map(|curve| curve.points.iter().map(|point| &*point.limit)).collect();
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(["method", "limit", "MACs", "parameters", "AP", "AP50", "difference"]);
    for limit in limits {
        for curve in curves {
            for point in curve.points.iter().filter(|point| point.limit == limit) {
                let share = |x: f64| format!("{:.1}%", 100.0 * x);
                let difference = thousandths(point.quality.difference);
                let [ap, ap50] = [point.quality.ap, point.quality.ap50].map(points);
                table.add_row([curve.name(), limit.into(), share(point.macs), share(point.parameters), ap, ap50, difference]);
            }
        }
    }
    table.to_string()
}

impl Curve {
    /// As the legend has it.
    pub fn name(&self) -> String {
        word(self.importance) + if self.repair { ", repaired" } else { "" }
    }
}

fn qualities(row: &Row) -> [Option<&Quality>; 3] {
    [row.unrepaired.as_ref(), row.repaired.as_ref(), row.healed.as_ref()]
}

/// AP, and how far it is from the parent's.
fn accuracy(ap: f64, base: Option<f64>, interval: Option<Interval>) -> String {
    let value = format!("{:.1}", 100.0 * ap);
    match (base, interval) {
        (Some(base), Some(Interval { low, high })) => {
            let [by, low, high] = [ap - base, low, high].map(|x| format!("{:+.1}", 100.0 * x));
            format!("{value} ({by}; {low} to {high})")
        }
        _ => value,
    }
}

fn megabytes(bytes: usize) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// A row in a few words, for whoever watches.
pub fn line(row: &Row, parent: &Row) -> String {
    let less = |ours: f64, theirs: f64| format!("{:+.1}%", percent(ours / theirs.max(1.0)));
    let parameters = less(row.costs.parameters as f64, parent.costs.parameters as f64);
    let mut text = format!("{}: parameters {parameters}, MACs {}", row.name, less(row.costs.macs as f64, parent.costs.macs as f64));
    if let Some(pace) = row.pace {
        text += &format!(", time ×{:.3}", pace.ratio);
    }
    if let Some(ap) = row.healed.as_ref().or(row.repaired.as_ref()).and_then(|q| q.ap) {
        text += &format!(", AP {:.1}", 100.0 * ap);
    }
    text + "\n"
}
