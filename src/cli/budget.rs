//! How small and fast a network is to become, as options.

use anyhow::Result;
use detrim::prune::budget::{Budget, Limit};

/// Limits, each optional, that conflict with what is in the group `what` and take latencies from `--profile`.
#[derive(clap::Args)]
pub struct BudgetArguments {
    /// Fewer parameters: -55% of the model's, or at most 4.5M
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true, conflicts_with = "what")]
    params: Option<Limit>,
    /// Fewer multiply-accumulates: -40%, or at most 1.2G
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true, conflicts_with = "what")]
    macs: Option<Limit>,
    /// A smaller file: 4MB
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true, conflicts_with = "what")]
    bytes: Option<Limit>,
    /// A faster network by a device's profile: 1.65x, or at most 40ms a picture
    #[arg(long, value_name = "LIMIT", allow_hyphen_values = true, conflicts_with = "what", requires = "profile")]
    latency: Option<Limit>,
}

impl BudgetArguments {
    /// Empty where no limit is given.
    pub fn budget(&self) -> Result<Budget> {
        let Self { params, macs, bytes, latency } = *self;
        let budget = Budget { params, macs, bytes, latency };
        budget.check()?;
        Ok(budget)
    }
}
