// SPDX-License-Identifier: GPL-2.0-only
//! What a load costs besides time: context switches in both machines, and processor
//! time of the processes that emulate them.

use std::time::Duration;

use anyhow::{Context, Result};

use super::fio::{self, Extent, Load};
use crate::{bench::statistics::median, Cluster, Machine};

/// How often the fixed cost of a load is measured.
const BASELINE_ROUNDS: usize = 3;

/// Costs up to a moment, or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    pub(super) switches: f64,
    pub(super) host_us: f64,
}

impl Cost {
    /// What both machines have cost since they were switched on.
    fn so_far(cluster: &Cluster) -> Result<Self> {
        let mut sum = Self::default();
        for machine in cluster.nodes() {
            sum.switches += switches(machine)?;
            sum.host_us += micros(machine.processor_time()?);
        }
        Ok(sum)
    }

    /// What `act` costs, the two looks at the counters included.
    pub(super) fn of<T>(cluster: &Cluster, act: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        let before = Self::so_far(cluster)?;
        let done = act()?;
        let after = Self::so_far(cluster)?;
        let cost = Self {
            switches: after.switches - before.switches,
            host_us: after.host_us - before.host_us,
        };
        Ok((done, cost))
    }

    /// What a load costs that consists of a single request: the start of fio and the
    /// looks at the counters. Everything else grows with the number of requests.
    pub(super) fn fixed(cluster: &Cluster, device: &str, load: &Load) -> Result<Self> {
        let mut all = Vec::new();
        for _ in 0..BASELINE_ROUNDS {
            let single = || fio::run(cluster.node(0), device, load, Extent::Requests(1));
            all.push(Self::of(cluster, single)?.1);
        }
        let middle = |figure: fn(&Self) -> f64| {
            median(&all.iter().map(figure).collect::<Vec<_>>()).unwrap_or_default()
        };
        Ok(Self {
            switches: middle(|cost| cost.switches),
            host_us: middle(|cost| cost.host_us),
        })
    }

    /// What each of so many requests costs beyond what is fixed.
    pub(super) fn each(self, fixed: Self, requests: f64) -> Self {
        let share = |whole: f64, fixed: f64| (whole - fixed).max(0.0) / requests.max(1.0);
        Self {
            switches: share(self.switches, fixed.switches),
            host_us: share(self.host_us, fixed.host_us),
        }
    }
}

fn switches(machine: &Machine) -> Result<f64> {
    parse_switches(&machine.sh("cat /proc/stat")?)
}

fn parse_switches(stat: &str) -> Result<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
    let line = line.context("/proc/stat does not count context switches")?;
    Ok(line.trim().parse()?)
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_switches_are_found_among_other_counters() {
        let stat = "cpu 1 2 3\nintr 5 0\nctxt 12345\nbtime 1\n";
        assert_eq!(parse_switches(stat).unwrap(), 12345.0);
        assert!(parse_switches("cpu 1\n").is_err());
    }

    #[test]
    fn a_share_leaves_out_what_is_fixed_and_is_never_negative() {
        let whole = Cost {
            switches: 500.0,
            host_us: 50.0,
        };
        let fixed = Cost {
            switches: 100.0,
            host_us: 90.0,
        };
        let each = whole.each(fixed, 200.0);
        assert_eq!((each.switches, each.host_us), (2.0, 0.0));
    }
}
