//! What is claimed for the presets, and whether it holds.

use super::Row;
use crate::eval::pace::Pace;
use serde::Serialize;

/// Changes in percent; of AP in points.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Claim {
    pub parameters: f64,
    pub speed: f64,
    pub ap: f64,
}

impl Claim {
    /// The claim for a preset.
    pub fn of(preset: &str) -> Option<Self> {
        let (parameters, speed, ap) = match preset {
            "layers" => (-22.0, 30.0, -1.2),
            "heads" => (-15.0, 20.0, -0.8),
            "channels" => (-40.0, 45.0, -2.5),
            "article" | "combined" | "speed" => (-55.0, 65.0, -3.2),
            _ => return None,
        };
        Some(Self { parameters, speed, ap })
    }
}

/// One claim beside what was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    pub of: &'static str,
    pub claimed: f64,
    pub measured: f64,
    pub met: bool,
}

/// What is claimed for a row beside what the row shows; what wasn't measured is left out. AP is the healed network's, else the repaired one's.
pub fn verdicts(claim: &Claim, row: &Row, parent: &Row) -> Vec<Verdict> {
    let parameters = percent(row.costs.parameters as f64 / parent.costs.parameters.max(1) as f64);
    let speed = row.pace.map(|Pace { ratio, .. }| percent(1.0 / ratio));
    let quality = row.healed.as_ref().or(row.repaired.as_ref());
    let ap = quality.and_then(|q| q.ap).zip(parent.unrepaired.as_ref().and_then(|q| q.ap)).map(|(ours, theirs)| 100.0 * (ours - theirs));
    // No digit beyond those of the claim decides.
    let rounded = |x: f64| (10.0 * x).round() / 10.0;
    let all = [
        Some(("parameters", claim.parameters, parameters, rounded(parameters) <= claim.parameters)),
        speed.map(|speed| ("speed", claim.speed, speed, rounded(speed) >= claim.speed)),
        ap.map(|ap| ("AP", claim.ap, ap, rounded(ap) >= claim.ap)),
    ];
    all.into_iter().flatten().map(|(of, claimed, measured, met)| Verdict { of, claimed, measured, met }).collect()
}

/// A ratio as a change.
pub fn percent(ratio: f64) -> f64 {
    100.0 * (ratio - 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::{Costs, Quality};
    use super::*;

    fn row(parameters: usize, ratio: f64, repaired: f64, healed: Option<f64>) -> Row {
        let quality = |ap| Quality { ap: Some(ap), ..Quality::default() };
        Row {
            name: String::new(),
            costs: Costs { size: [64, 64], parameters, macs: 1, f16_bytes: 1, int8_bytes: 1 },
            pace: Some(Pace { parent_ms: 1.0, ms: ratio, ratio, runs: 1 }),
            unrepaired: Some(quality(repaired)),
            repaired: Some(quality(repaired)),
            healed: healed.map(quality),
            browser: None,
            claim: None,
            verdicts: vec![],
        }
    }

    #[test]
    fn a_claim_is_met_by_what_the_healed_network_does() {
        let (parent, claim) = (row(1000, 1.0, 0.40, None), Claim::of("layers").unwrap());
        let met = |row: &Row| verdicts(&claim, row, &parent).iter().map(|v| v.met).collect::<Vec<_>>();
        assert_eq!(met(&row(780, 1.0 / 1.3, 0.388, None)), [true, true, true]);
        assert_eq!(met(&row(790, 0.8, 0.30, None)), [false, false, false]);
        assert_eq!(met(&row(700, 0.7, 0.30, Some(0.395))), [true, true, true]);
        let costs_only = Row { pace: None, repaired: None, ..row(700, 1.0, 0.0, None) };
        assert_eq!(met(&costs_only), [true]);
        assert_eq!(Claim::of("mine"), None);
    }
}
