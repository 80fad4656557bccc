// SPDX-License-Identifier: GPL-2.0-only
//! Where the machines' processors are while a load runs: their program counters, looked at again
//! and again from outside, by function of the kernel and its modules.
//!
//! The machines do not notice it, so that a profile shows what a load does and not what looking costs.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{anyhow, Context, Result};

use crate::{Cluster, Machine};

/// Time between two looks at a machine.
const PERIOD: Duration = Duration::from_millis(20);
/// Functions that are listed.
const LISTED: usize = 60;
/// Where the kernel's half of the addresses begins.
const KERNEL: u64 = 1 << 63;
/// What idle processors do, by the beginning of the function's name.
const IDLE: [&str; 4] = [
    "pv_native_safe_halt",
    "default_idle",
    "cpu_idle",
    "acpi_idle",
];

/// The functions of a kernel, by where they begin.
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    fn of(machine: &Machine) -> Result<Self> {
        Ok(Self::parse(&machine.sh("cat /proc/kallsyms")?))
    }

    fn parse(kallsyms: &str) -> Self {
        let line = |line: &str| {
            let mut words = line.split_ascii_whitespace();
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let kind = words.next()?;
            let name = format!("{:#}", rustc_demangle::demangle(words.next()?));
            let owner = words.next().map(|owner| format!(" {owner}"));
            let is_code = kind.eq_ignore_ascii_case("t") || kind.eq_ignore_ascii_case("w");
            is_code.then(|| (address, name + &owner.unwrap_or_default()))
        };
        Self(kallsyms.lines().filter_map(line).collect())
    }

    fn name(&self, address: u64) -> &str {
        if address < KERNEL {
            return "(programs)";
        }
        let found = self.0.range(..=address).next_back();
        found.map_or("(unknown)", |(_, name)| name)
    }
}

/// Looks at machines.
pub(super) struct Profiler<'a>(Vec<(&'a Machine, Symbols)>);

/// How often a machine's processors were found in each function.
#[derive(Default)]
pub(super) struct Profile(BTreeMap<String, u64>);

impl<'a> Profiler<'a> {
    /// Learns where the functions of the machines' kernels are, and of the modules that they have by now.
    pub(super) fn new(cluster: &'a Cluster) -> Result<Self> {
        let nodes = cluster.nodes().iter();
        let known = nodes.map(|machine| Ok((machine, Symbols::of(machine)?)));
        known.collect::<Result<_>>().map(Self)
    }

    /// Looks at the machines while `act` runs; one profile for each.
    pub(super) fn during<T: Send>(
        &self,
        act: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(T, Vec<Profile>)> {
        std::thread::scope(|scope| {
            let act = scope.spawn(act);
            let profiles = self.until(|| act.is_finished());
            let done = act.join().map_err(|_| anyhow!("the load panicked"))??;
            Ok((done, profiles?))
        })
    }

    fn until(&self, is_over: impl Fn() -> bool) -> Result<Vec<Profile>> {
        let mut profiles: Vec<_> = self.0.iter().map(|_| Profile::default()).collect();
        while !is_over() {
            let next = Instant::now() + PERIOD;
            for ((machine, symbols), profile) in self.0.iter().zip(&mut profiles) {
                for address in machine.program_counters().context("a look at a machine")? {
                    let name = symbols.name(address).to_owned();
                    *profile.0.entry(name).or_default() += 1;
                }
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(profiles)
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_idle = |name: &str| IDLE.iter().any(|idle| name.starts_with(idle));
        let all: u64 = self.0.values().sum();
        let mut busy: Vec<_> = self.0.iter().filter(|(name, _)| !is_idle(name)).collect();
        busy.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let sum: u64 = busy.iter().map(|(_, count)| **count).sum();
        let share = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        writeln!(f, "  busy {:.0} % of {all} looks", share(sum, all))?;
        for (name, count) in busy.into_iter().take(LISTED) {
            writeln!(f, "  {:5.1} %  {name}", share(*count, sum))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "ffffffff81000000 T start\n\
        ffffffff81000100 t helper\n\
        ffffffff81000180 d data\n\
        ffffffffc0000000 t _RNvC4weft4work\t[weft]\n";

    #[test]
    fn an_address_belongs_to_the_function_that_begins_before_it() {
        let symbols = Symbols::parse(KALLSYMS);
        assert_eq!(symbols.name(0xffff_ffff_8100_00ff), "start");
        assert_eq!(symbols.name(0xffff_ffff_8100_0190), "helper");
        assert_eq!(symbols.name(0xffff_ffff_c000_0010), "weft::work [weft]");
        assert_eq!(symbols.name(0xffff_ffff_8000_0000), "(unknown)");
        assert_eq!(symbols.name(0x55d0_0000_1000), "(programs)");
    }

    #[test]
    fn shares_are_those_of_the_busy_time() {
        let found = [("pv_native_safe_halt", 60), ("start", 30), ("helper", 10)];
        let found = found.map(|(name, count)| (name.to_owned(), count));
        let text = Profile(BTreeMap::from(found)).to_string();
        let lines = ["busy 40 % of 100 looks", "75.0 %  start", "25.0 %  helper"];
        for (line, wanted) in text.lines().zip(lines) {
            assert_eq!(line.trim(), wanted);
        }
        assert_eq!(text.lines().count(), lines.len());
    }
}
