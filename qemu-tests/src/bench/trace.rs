// SPDX-License-Identifier: GPL-2.0-only
//! Counters inside the machines' kernels, by histograms of their tracing: system
//! calls, and the bytes that go through the two functions with which the kernel
//! copies to and from programs, sockets' buffers and pipes. What a module copies
//! from page to page by itself is not seen.

use anyhow::{Context, Result};

use super::fio::{self, Extent, Load};
use crate::{Cluster, Machine};

const TRACING: &str = "/sys/kernel/tracing";
const SYSTEM_CALLS: &str = "events/raw_syscalls/sys_enter";
const COPIES: [&str; 2] = ["events/weftbench/to_iter", "events/weftbench/from_iter"];
/// By processor, so that there are few entries.
const COUNT: &str = "hist:keys=common_cpu";
const SUM: &str = "hist:keys=common_cpu:vals=bytes";

/// What was counted in both machines.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Traced {
    pub(super) system_calls: f64,
    pub(super) copied_bytes: f64,
}

/// Makes the machines able to count.
pub(super) fn prepare(cluster: &Cluster) -> Result<()> {
    cluster.each(|machine| {
        let script = format!(
            "mountpoint -q {TRACING} || mount -t tracefs tracefs {TRACING}
             cd {TRACING}
             echo 'p:weftbench/to_iter _copy_to_iter bytes=%si:u64' >>kprobe_events
             echo 'p:weftbench/from_iter _copy_from_iter bytes=%si:u64' >>kprobe_events"
        );
        machine.sh(&format!("set -e\n{script}")).map(drop)
    })
}

impl Traced {
    /// Counts while `act` happens.
    pub(super) fn of<T>(cluster: &Cluster, act: impl FnOnce() -> Result<T>) -> Result<(T, Self)> {
        cluster.each(begin)?;
        let done = act()?;
        let mut sum = Self::default();
        for machine in cluster.nodes() {
            let found = end(machine)?;
            sum.system_calls += found.system_calls;
            sum.copied_bytes += found.copied_bytes;
        }
        Ok((done, sum))
    }

    /// What is counted of a load that consists of a single request.
    pub(super) fn fixed(cluster: &Cluster, device: &str, load: &Load) -> Result<Self> {
        let single = || fio::run(cluster.node(0), device, load, Extent::Requests(1));
        Ok(Self::of(cluster, single)?.1)
    }

    /// What falls to each of so many requests beyond what is fixed.
    pub(super) fn each(self, fixed: Self, requests: f64) -> Self {
        let share = |whole: f64, fixed: f64| (whole - fixed).max(0.0) / requests.max(1.0);
        Self {
            system_calls: share(self.system_calls, fixed.system_calls),
            copied_bytes: share(self.copied_bytes, fixed.copied_bytes),
        }
    }
}

fn begin(machine: &Machine) -> Result<()> {
    let [to, from] = COPIES;
    let script = format!(
        "set -e; cd {TRACING}
         echo '{COUNT}' >{SYSTEM_CALLS}/trigger
         echo '{SUM}' >{to}/trigger; echo '{SUM}' >{from}/trigger"
    );
    machine.sh(&script).map(drop)
}

/// Reads the counters and stops counting.
fn end(machine: &Machine) -> Result<Traced> {
    let [to, from] = COPIES;
    let script = format!(
        "set -e; cd {TRACING}
         cat {SYSTEM_CALLS}/hist; echo copies; cat {to}/hist {from}/hist
         echo '!{SUM}' >{from}/trigger; echo '!{SUM}' >{to}/trigger
         echo '!{COUNT}' >{SYSTEM_CALLS}/trigger"
    );
    parse(&machine.sh(&script)?).with_context(|| machine.name().to_owned())
}

fn parse(text: &str) -> Result<Traced> {
    let parts = text.split_once("copies\n");
    let (calls, copies) = parts.context("the kernel has no histograms")?;
    Ok(Traced {
        system_calls: sum(calls, "hitcount:"),
        copied_bytes: sum(copies, "bytes:"),
    })
}

/// Adds up the numbers that follow a word, in the lines of entries.
fn sum(histogram: &str, word: &str) -> f64 {
    let entries = histogram.lines().filter(|line| line.starts_with('{'));
    let numbers = entries.filter_map(|line| {
        let (_, rest) = line.split_once(word)?;
        rest.split_whitespace().next()?.parse::<f64>().ok()
    });
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn histograms_are_added_up() {
        let text = "# event histogram\n\
            { common_cpu:          0 } hitcount:        120\n\
            { common_cpu:          1 } hitcount:         30\n\
            Totals:\n    Hits: 150\ncopies\n\
            { common_cpu:          0 } hitcount:          3  bytes:      12288\n\
            { common_cpu:          1 } hitcount:          1  bytes:        100\n\
            Totals:\n    Hits: 4\n\
            { common_cpu:          0 } hitcount:          1  bytes:          1\n";
        let expected = Traced {
            system_calls: 150.0,
            copied_bytes: 12389.0,
        };
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_kernel_without_histograms_is_noticed() {
        assert!(parse("cat: hist: No such file").is_err());
    }
}
