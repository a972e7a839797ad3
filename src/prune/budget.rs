//! What a trimmed network may cost.

use super::profile::Profile;
use crate::checkpoint::{Card, Storage, frame_bytes};
use crate::config::Architecture;
use crate::error::{Error, Result};
use crate::eval::cost::parameters;
use crate::eval::operations::operations;
use crate::image::typical_size;
use crate::layout::layout_of;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Limits; what is none is not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Parameters, as `-55%` or `4.5M`.
    pub params: Option<Limit>,
    /// Multiply-accumulates of one picture, as `-40%` or `1.2G`.
    pub macs: Option<Limit>,
    /// The file, as `4MB`.
    pub bytes: Option<Limit>,
    /// Time of one picture by a profile, as `1.65x` (faster) or `40ms`.
    pub latency: Option<Limit>,
}

/// A limit, absolute or a share of the whole network's costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Limit {
    /// Of what the whole network costs.
    Share(f64),
    Most(f64, Unit),
}

/// What an absolute limit is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Whatever the limit is on.
    Plain,
    Bytes,
    Milliseconds,
}

impl Limit {
    fn of(self, whole: f64) -> f64 {
        match self {
            Limit::Share(share) => share * whole,
            Limit::Most(most, _) => most,
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("{text:?} is no limit: expected a share less (-55%), a speed-up (1.65x), or an amount (4MB, 2.5M, 1.2G, 40ms)");
        let trimmed = text.trim();
        let number = |text: &str| text.trim().parse::<f64>().ok().filter(|x| x.is_finite()).ok_or_else(fail);
        if let Some(share) = trimmed.strip_suffix('%') {
            let less = -number(share)? / 100.0;
            return if (0.0..1.0).contains(&less) { Ok(Limit::Share(1.0 - less)) } else { Err(fail()) };
        }
        if let Some(times) = trimmed.strip_suffix(['x', '×']) {
            let times = number(times)?;
            return if times >= 1.0 { Ok(Limit::Share(1.0 / times)) } else { Err(fail()) };
        }
        let (rest, unit) = if let Some(rest) = trimmed.strip_suffix("ms") {
            (rest, Unit::Milliseconds)
        } else if let Some(rest) = trimmed.strip_suffix('B') {
            (rest, Unit::Bytes)
        } else {
            (trimmed, Unit::Plain)
        };
        let scales = [("k", 1e3), ("K", 1e3), ("M", 1e6), ("G", 1e9), ("", 1.0)];
        let (letter, scale) = scales.into_iter().find(|(letter, _)| rest.ends_with(letter)).ok_or_else(fail)?;
        let most = scale * number(&rest[..rest.len() - letter.len()])?;
        if most > 0.0 { Ok(Limit::Most(most, unit)) } else { Err(fail()) }
    }
}

impl TryFrom<String> for Limit {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Limit> for String {
    fn from(limit: Limit) -> Self {
        match limit {
            // (What the subtraction loses isn't shown.)
            Limit::Share(share) => format!("{}%", -(1e11 * (1.0 - share)).round() / 1e9),
            Limit::Most(most, Unit::Plain) => most.to_string(),
            Limit::Most(most, Unit::Bytes) => format!("{most}B"),
            Limit::Most(most, Unit::Milliseconds) => format!("{most}ms"),
        }
    }
}

/// What a network costs, in the order of [`Budget`]'s limits.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Costs {
    pub params: f64,
    pub macs: f64,
    /// Of the file, at most.
    pub bytes: f64,
    /// Milliseconds, where there is a profile.
    pub latency: Option<f64>,
}

/// What costs are counted with.
#[derive(Clone, Copy)]
pub struct Meter<'a> {
    storage: Storage,
    /// What a file has beside its tensors.
    frame: usize,
    pub profile: Option<&'a Profile>,
    /// Of the network that shares are counted from, if not of the one that is trimmed.
    whole: Option<Costs>,
}

impl<'a> Meter<'a> {
    /// For what is made of a network with this card, to be stored like that on the device of this profile.
    pub fn new(parent: &Architecture, card: &Card, storage: Storage, profile: Option<&'a Profile>) -> Result<Self> {
        /// What a trimming adds to the card: where the network comes from, and how it was rounded.
        const SENTENCES: usize = 1000;
        Ok(Self { storage, frame: frame_bytes(parent, card)? + SENTENCES, profile, whole: None })
    }

    /// Counts what limits are shares of from this network: the one that was whole before the first of several rounds.
    pub fn counted_from(mut self, whole: &Architecture) -> Result<Self> {
        self.whole = Some(self.costs(whole)?);
        Ok(self)
    }

    /// What limits are shares of, where this network is trimmed.
    pub fn whole(&self, parent: &Architecture) -> Result<Costs> {
        self.whole.map_or_else(|| self.costs(parent), Ok)
    }

    /// Of a network at the size of its input.
    pub fn costs(&self, config: &Architecture) -> Result<Costs> {
        // A search asks this thousands of times: both lists are made once.
        let (tensors, steps) = (layout_of(config), operations(config, typical_size(config.pixels().resize)?));
        Ok(Costs {
            params: tensors.iter().map(|tensor| parameters(tensor) as f64).sum(),
            macs: steps.iter().map(|step| step.operation.macs() as f64).sum(),
            bytes: (self.frame + tensors.iter().map(|tensor| self.storage.bytes(tensor)).sum::<usize>()) as f64,
            latency: self.profile.map(|profile| profile.sum(&steps)),
        })
    }
}

/// Which of the costs a limit is on.
type Of = fn(&Costs) -> f64;

/// The limits that are set: what each is called, the most, and which cost it is on.
pub struct Limits(Vec<(&'static str, f64, Of)>);

impl Budget {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// All limits, set or not, by their names.
    pub fn named(&self) -> [(&'static str, Option<Limit>); 4] {
        [("params", self.params), ("macs", self.macs), ("bytes", self.bytes), ("latency", self.latency)]
    }

    /// Refuses limits in what their costs aren't counted in.
    pub fn check(&self) -> Result<()> {
        for (name, limit) in self.named() {
            let wrong = match limit {
                Some(Limit::Most(_, Unit::Bytes)) if name != "bytes" => "bytes",
                Some(Limit::Most(_, Unit::Milliseconds)) if name != "latency" => "milliseconds",
                _ => continue,
            };
            return Err(Error::Config(format!("the limit on {name} is given in {wrong}")));
        }
        Ok(())
    }

    /// As the options of `detrim prune`: `--params -55% --latency 40ms`. A speed-up is a share less.
    pub fn options(&self) -> String {
        let option = |(name, limit): (&str, Option<Limit>)| {
            let limit = match limit? {
                Limit::Share(share) => format!("{:+.1}%", 100.0 * (share - 1.0)),
                most => String::from(most),
            };
            Some(format!("--{name} {limit}"))
        };
        self.named().into_iter().filter_map(option).collect::<Vec<_>>().join(" ")
    }

    /// Shares are of what the whole network costs.
    pub fn limits(&self, whole: &Costs) -> Result<Limits> {
        self.check()?;
        if self.latency.is_some() && whole.latency.is_none() {
            return Err(Error::Config("a limit on latency needs a profile of the device (see detrim bench --profile)".into()));
        }
        let all: [(_, _, Of); 4] = [
            ("parameters", self.params, |costs| costs.params),
            ("multiply-accumulates", self.macs, |costs| costs.macs),
            ("bytes", self.bytes, |costs| costs.bytes),
            ("milliseconds", self.latency, |costs| costs.latency.unwrap_or(0.0)),
        ];
        Ok(Limits(all.into_iter().filter_map(|(name, limit, of)| Some((name, limit?.of(of(whole)), of))).collect()))
    }
}

impl Limits {
    /// How much of a limit is exceeded, summed: 0 where all are kept to.
    pub fn excess(&self, costs: &Costs) -> f64 {
        self.0.iter().map(|(_, most, of)| (of(costs) / most - 1.0).max(0.0)).sum()
    }

    /// The first limit that is exceeded: its name, the most, and what it is.
    pub fn exceeded(&self, costs: &Costs) -> Option<(&'static str, f64, f64)> {
        self.0.iter().map(|(name, most, of)| (*name, *most, of(costs))).find(|(_, most, cost)| cost > most)
    }

    /// How far a change of costs goes towards the limits that are exceeded, each as a share of its excess.
    pub fn gain(&self, from: &Costs, to: &Costs) -> f64 {
        let gain = |(_, most, of): &(&str, f64, Of)| {
            let excess = of(from) - most;
            if excess > 0.0 { (of(from) - of(to)).min(excess) / excess } else { 0.0 }
        };
        self.0.iter().map(gain).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_nonsense_is_refused() {
        let read = |text: &str| text.parse::<Limit>();
        for (text, expected) in [
            ("-55%", Limit::Share(0.45)),
            ("1.6x", Limit::Share(0.625)),
            ("4MB", Limit::Most(4e6, Unit::Bytes)),
            ("300 kB", Limit::Most(3e5, Unit::Bytes)),
            ("2.5M", Limit::Most(2.5e6, Unit::Plain)),
            ("40ms", Limit::Most(40.0, Unit::Milliseconds)),
            ("1200", Limit::Most(1200.0, Unit::Plain)),
        ] {
            let found = read(text).unwrap();
            let same = |found: Limit| match (found, expected) {
                (Limit::Share(a), Limit::Share(b)) => (a - b).abs() < 1e-9,
                (a, b) => a == b,
            };
            assert!(same(found), "{text} {found:?}");
            assert!(same(read(&String::from(expected)).unwrap()), "{text}");
        }
        let budget = |name: &str, limit: &str| crate::prune::recipe::Recipe::parse(&format!("[budget]\n{name} = {limit:?}"), "mine.toml");
        assert!(budget("bytes", "4MB").is_ok() && budget("latency", "40ms").is_ok() && budget("macs", "1.2G").is_ok());
        for (name, limit, wrong) in [("latency", "4MB", "bytes"), ("params", "40ms", "milliseconds")] {
            let error = budget(name, limit).unwrap_err().to_string();
            assert!(error.contains("mine.toml") && error.contains(name) && error.contains(wrong), "{error}");
        }
        for text in ["", "B", "55%", "-100%", "0.5x", "many", "-4MB", "NaN", "infx"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
