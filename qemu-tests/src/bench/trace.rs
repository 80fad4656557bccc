// SPDX-License-Identifier: GPL-2.0-only
//! System calls, counted by the machines' kernels with a histogram of their tracing.
//!
//! Bytes that the processors copy are not counted: the kernel's copying functions
//! (`_copy_to_iter`, `_copy_from_iter`) refuse probes, and nothing else sees all of it.

use anyhow::{Context, Result};

use crate::{Cluster, Machine};

const TRACING: &str = "/sys/kernel/tracing";
const SYSTEM_CALLS: &str = "events/raw_syscalls/sys_enter";
/// By processor, so that there are few entries.
const COUNT: &str = "hist:keys=common_cpu";

/// Makes the machines able to count.
pub(super) fn prepare(cluster: &Cluster) -> Result<()> {
    let script =
        format!("mountpoint -q {TRACING} || mount -t tracefs tracefs {TRACING}; ls {TRACING}/{SYSTEM_CALLS}/hist");
    cluster.each(|machine| machine.sh(&script).map(drop))
}

/// How many system calls there are in all machines while `act` happens.
pub(super) fn system_calls<T>(
    cluster: &Cluster,
    act: impl FnOnce() -> Result<T>,
) -> Result<(T, f64)> {
    cluster.each(begin)?;
    let done = act()?;
    let mut sum = 0.0;
    for machine in cluster.nodes() {
        sum += end(machine)?;
    }
    Ok((done, sum))
}

fn begin(machine: &Machine) -> Result<()> {
    let script = format!("echo '{COUNT}' >{TRACING}/{SYSTEM_CALLS}/trigger");
    machine.sh(&script).map(drop)
}

/// Reads the counter and stops counting.
fn end(machine: &Machine) -> Result<f64> {
    let event = format!("{TRACING}/{SYSTEM_CALLS}");
    let script = format!("cat {event}/hist && echo '!{COUNT}' >{event}/trigger");
    parse(&machine.sh(&script)?).with_context(|| machine.name().to_owned())
}

/// Adds up the entries of a histogram.
fn parse(histogram: &str) -> Result<f64> {
    let entries = histogram.lines().filter(|line| line.starts_with('{'));
    let mut counts = entries
        .filter_map(|line| line.split_once("hitcount:"))
        .peekable();
    counts.peek().context("the kernel has no histogram")?;
    let mut sum = 0.0;
    for (_, count) in counts {
        sum += count.trim().parse::<f64>().context("histogram")?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_added_up() {
        let text = "# event histogram\n\
            { common_cpu:          0 } hitcount:        120\n\
            { common_cpu:          1 } hitcount:         30\n\
            Totals:\n    Hits: 150\n";
        assert_eq!(parse(text).unwrap(), 150.0);
    }

    #[test]
    fn a_kernel_without_histogram_is_noticed() {
        assert!(parse("cat: hist: No such file").is_err());
    }
}
