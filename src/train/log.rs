//! A run's log: a CSV file with a row for each stretch of steps and for each measurement on held-out pictures.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::path::Path;

/// A row. Losses are means over the steps since the row before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Steps done.
    pub step: u64,
    /// Of work on this run, over all its processes.
    pub seconds: f64,
    pub rate: Option<f64>,
    /// The weighted sum of everything.
    pub loss: Option<f32>,
    /// The last decoder layer's parts, unweighted.
    pub class: Option<f32>,
    pub l1: Option<f32>,
    pub giou: Option<f32>,
    pub denoising: Option<f32>,
    pub dense: Option<f32>,
    /// All that a teacher's answers and hints give.
    pub teacher: Option<f32>,
    /// The relative squared error of the neck's maps against a teacher's.
    #[serde(default)]
    pub features: Option<f32>,
    /// The mean of the further groups of queries.
    pub groups: Option<f32>,
    pub gradient_norm: Option<f64>,
    pub pictures_per_second: Option<f64>,
    /// Of the mean weights, on the held-out pictures; 0..1.
    pub ap: Option<f64>,
    pub ap50: Option<f64>,
}

impl Row {
    /// The loss and what parts it has, for people. (They don't add up to it: class, l1 and giou are one layer's of several.)
    pub fn losses(&self) -> String {
        let parts = [
            ("class", self.class),
            ("l1", self.l1),
            ("giou", self.giou),
            ("denoising", self.denoising),
            ("dense", self.dense),
            ("teacher", self.teacher),
            ("features", self.features),
            ("groups", self.groups),
        ];
        let there = parts.into_iter().filter_map(|(name, part)| Some((name, part.filter(|part| *part != 0.0)?)));
        let parts: Vec<String> = there.map(|(name, part)| format!("{name} {}", short(part))).collect();
        format!("loss {}: {}", short(self.loss.unwrap_or_default()), parts.join(" · "))
    }
}

/// A small number with more digits.
fn short(x: f32) -> String {
    if x.abs() < 0.1 { format!("{x:.4}") } else { format!("{x:.2}") }
}

/// An open log.
pub struct Log {
    writer: csv::Writer<File>,
    name: String,
    rows: Vec<Row>,
}

impl Log {
    /// Reads the rows up to `step` that are there, leaves them alone in the file, and goes on behind them: what a run did after its last
    /// saved state it does again. A last row that broke off is dropped; any other that can't be understood is an error.
    pub fn open(path: &Path, step: u64) -> Result<Self> {
        let name = path.display().to_string();
        let mut rows = Vec::new();
        if path.exists() {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Io { file: name.clone(), source })?;
            let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
            for row in csv::Reader::from_reader(whole.as_bytes()).deserialize() {
                rows.push(row.map_err(|error| problem(&name, error))?);
            }
            rows.retain(|row: &Row| row.step <= step);
        }
        let mut writer = csv::Writer::from_writer(Vec::new());
        rows.iter().try_for_each(|row| writer.serialize(row)).map_err(|error| problem(&name, error))?;
        let kept = writer.into_inner().map_err(|error| Error::Run { file: name.clone(), problem: error.to_string() })?;
        crate::output::write(path, &kept)?;
        let file = OpenOptions::new().append(true).open(path).map_err(|source| Error::Io { file: name.clone(), source })?;
        let writer = csv::WriterBuilder::new().has_headers(rows.is_empty()).from_writer(file);
        Ok(Self { writer, name, rows })
    }

    /// All rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    pub fn add(&mut self, row: Row) -> Result<()> {
        self.writer.serialize(row).map_err(|error| problem(&self.name, error))?;
        self.rows.push(row);
        self.writer.flush().map_err(|source| Error::Io { file: self.name.clone(), source })
    }
}

fn problem(file: &str, error: csv::Error) -> Error {
    Error::Run { file: file.into(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_parts_that_there_are_are_told() {
        let row = Row { loss: Some(14.25), class: Some(0.28), giou: Some(0.3), denoising: Some(4.2), teacher: Some(0.0), ..Row::default() };
        assert_eq!(row.losses(), "loss 14.25: class 0.28 · giou 0.30 · denoising 4.20");
    }

    #[test]
    fn rows_after_the_state_and_a_broken_one_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.csv");
        let row = |step| Row { step, seconds: 0.5 * step as f64, loss: Some(2.5), ..Row::default() };
        let mut log = Log::open(&path, 0).unwrap();
        assert!(log.rows().is_empty());
        for step in [10, 20, 30] {
            log.add(row(step)).unwrap();
        }
        drop(log);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"40,12").unwrap();
        let mut log = Log::open(&path, 40).unwrap();
        assert_eq!(log.rows(), [10, 20, 30].map(row));
        log.add(Row { ap: Some(0.25), ..row(35) }).unwrap();
        drop(log);
        assert_eq!(Log::open(&path, 20).unwrap().rows(), [10, 20].map(row));
    }
}
