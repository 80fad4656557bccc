// SPDX-License-Identifier: GPL-2.0-only
//! What a run has found: as tables for people, as JSON for programs.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    plan::Step,
    statistics::{median, ratio, spread, Better},
    system::{Lower, System},
    workload::{Figure, Kind, Workload},
};

/// Where and how something was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Circumstances {
    /// Day of the run, UTC.
    pub date: String,
    /// Release of the machines' kernel.
    pub kernel: String,
    /// What runs the machines: "kvm" or "tcg".
    pub accelerator: String,
    /// Processors of the host.
    pub host: String,
    /// Its load averages when the run began: on a busy host, rates say little.
    pub host_load: String,
    /// Version of the kernel's DRBD; empty if it took no part.
    pub drbd: String,
    /// How often everything was measured.
    pub rounds: u32,
    /// How long loads went on.
    pub load_seconds: f64,
    /// Size of every lower disk.
    pub disk_mib: u64,
}

/// All values of a figure of a workload on disks of one kind.
#[derive(Clone, Debug)]
pub struct Row {
    /// The disks below.
    pub lower: Lower,
    /// What was done.
    pub workload: Workload,
    /// What was measured.
    pub figure: Figure,
    values: BTreeMap<System, Vec<f64>>,
}

/// What a run has found.
#[derive(Clone, Debug)]
pub struct Report {
    circumstances: Circumstances,
    rows: Vec<Row>,
}

impl Report {
    /// Nothing yet.
    pub fn new(circumstances: Circumstances) -> Self {
        Self {
            circumstances,
            rows: Vec::new(),
        }
    }

    /// Takes a value in. A rate under tracing says nothing and is left out.
    pub fn add(&mut self, step: &Step, figure: Figure, value: f64) {
        let (lower, workload) = (step.volume.lower, step.workload);
        if figure == Figure::Rate && matches!(workload.kind, Kind::Traced(_)) {
            return;
        }
        let is_it =
            |row: &&mut Row| row.lower == lower && row.workload == workload && row.figure == figure;
        let system = step.volume.system;
        if let Some(row) = self.rows.iter_mut().find(is_it) {
            row.values.entry(system).or_default().push(value);
            return;
        }
        self.rows.push(Row {
            lower,
            workload,
            figure,
            values: BTreeMap::from([(system, vec![value])]),
        });
    }

    /// All rows with figures of one kind.
    pub fn rows(&self, is_rate: bool) -> impl Iterator<Item = &Row> {
        let rows = self.rows.iter();
        rows.filter(move |row| (row.figure == Figure::Rate) == is_rate)
    }

    /// Everything, for programs.
    ///
    /// # Errors
    /// Never; serialisation could fail in theory.
    pub fn to_json(&self) -> serde_json::Result<String> {
        let rows: Vec<_> = self.rows.iter().map(Row::to_json).collect();
        serde_json::to_string_pretty(&serde_json::json!({
            "circumstances": self.circumstances,
            "rows": rows,
        }))
    }

    fn has(&self, system: System) -> bool {
        self.rows.iter().any(|row| row.values.contains_key(&system))
    }
}

impl Row {
    /// What it is, in one line.
    pub fn title(&self) -> String {
        match self.figure.title() {
            None => format!("{}, {}", self.workload.title, self.workload.unit),
            Some(figure) => format!("{}: {figure}", self.workload.title),
        }
    }

    /// Median of a system's values.
    pub fn median(&self, system: System) -> Option<f64> {
        median(self.values.get(&system)?)
    }

    /// How much better one system is than another; above 1 is better.
    pub fn ratio(&self, ours: System, theirs: System) -> Option<f64> {
        ratio(
            self.median(ours)?,
            self.median(theirs)?,
            self.figure.better(),
        )
    }

    /// Largest distance of a value from its median, of the two that are compared.
    fn spread(&self) -> Option<f64> {
        let of = |system| spread(self.values.get(&system)?);
        Some(of(System::Weft)?.max(of(System::Drbd)?))
    }

    fn to_json(&self) -> serde_json::Value {
        let medians: BTreeMap<_, _> = System::ALL
            .into_iter()
            .filter_map(|system| Some((system.name(), self.median(system)?)))
            .collect();
        let values: BTreeMap<_, _> = self
            .values
            .iter()
            .map(|(system, values)| (system.name(), values))
            .collect();
        serde_json::json!({
            "lower": self.lower,
            "row": self.workload.name,
            "title": self.title(),
            "figure": self.figure,
            "better": match self.figure.better() {
                Better::Higher => "higher",
                Better::Lower => "lower",
            },
            "values": values,
            "medians": medians,
            "weft_to_drbd": self.ratio(System::Weft, System::Drbd),
            "weft_to_raw": self.ratio(System::Weft, System::Raw),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Circumstances {
            date,
            kernel,
            accelerator,
            host,
            host_load,
            drbd,
            rounds,
            load_seconds,
            disk_mib,
        } = &self.circumstances;
        writeln!(
            f,
            "{date}, kernel {kernel}, DRBD {drbd}, two machines on {accelerator}, host {host}, its load at the beginning {host_load}\n\
             medians of {rounds} rounds, loads of {load_seconds} s, disks of {disk_mib} MiB\n\
             Ratios above 1 say that Weft is better, of rates and of costs.\n\
             Weft has payload checksums, which cannot be switched off yet; DRBD has none."
        )?;
        for lower in Lower::ALL {
            for (is_rate, name) in [(true, "speed"), (false, "cost")] {
                let rows: Vec<_> = self
                    .rows(is_rate)
                    .filter(|row| row.lower == lower)
                    .collect();
                if !rows.is_empty() {
                    writeln!(f, "\n{name} on {} disks", lower.name())?;
                    self.write_table(f, &rows)?;
                }
            }
        }
        Ok(())
    }
}

impl Report {
    fn write_table(&self, f: &mut fmt::Formatter<'_>, rows: &[&Row]) -> fmt::Result {
        let systems: Vec<_> = System::ALL
            .into_iter()
            .filter(|system| self.has(*system))
            .collect();
        let width = rows.iter().map(|row| row.title().len()).max().unwrap_or(0);
        write!(f, "{:width$}", "")?;
        for system in &systems {
            write!(f, "{:>10}", system.name())?;
        }
        writeln!(f, "{:>11}{:>10}{:>8}", "weft/drbd", "weft/raw", "spread")?;
        for row in rows {
            write!(f, "{:width$}", row.title())?;
            for system in &systems {
                write!(f, "{:>10}", number(row.median(*system)))?;
            }
            let (to_drbd, to_raw) = (
                row.ratio(System::Weft, System::Drbd),
                row.ratio(System::Weft, System::Raw),
            );
            let percent = row.spread().map(|part| format!("{:.0} %", part * 100.0));
            writeln!(
                f,
                "{:>11}{:>10}{:>8}",
                two_digits(to_drbd),
                two_digits(to_raw),
                percent.unwrap_or_else(nothing)
            )?;
        }
        Ok(())
    }
}

fn nothing() -> String {
    "-".to_owned()
}

/// About three digits.
fn number(value: Option<f64>) -> String {
    value.map_or_else(nothing, |value| match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    })
}

fn two_digits(value: Option<f64>) -> String {
    value.map_or_else(nothing, |value| format!("{value:.2}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Plan;

    fn report() -> Report {
        let plan = Plan::quick(3).keep(&["write-qd1".to_owned()]).unwrap();
        let mut report = Report::new(Circumstances {
            date: "2026-01-01".to_owned(),
            kernel: "7.3".to_owned(),
            accelerator: "tcg".to_owned(),
            host: "2 x something".to_owned(),
            host_load: "0.10 0.20 0.30".to_owned(),
            drbd: "8.4.11".to_owned(),
            rounds: 3,
            load_seconds: 2.0,
            disk_mib: 160,
        });
        for step in plan.steps() {
            let (rate, cost) = match step.volume.system {
                System::Raw => (1000.0, 1.0),
                System::Weft => (150.0 + f64::from(step.round), 8.0),
                _ => (100.0, 4.0),
            };
            report.add(&step, Figure::Rate, rate);
            report.add(&step, Figure::Switches, cost);
        }
        report
    }

    #[test]
    fn ratios_are_those_of_the_medians() {
        let report = report();
        let rate = report.rows(true).next().unwrap();
        assert_eq!(rate.median(System::Weft), Some(151.0));
        assert_eq!(rate.ratio(System::Weft, System::Drbd), Some(1.51));
        let cost = report.rows(false).next().unwrap();
        assert_eq!(cost.ratio(System::Weft, System::Drbd), Some(0.5));
    }

    #[test]
    fn the_table_shows_every_system_and_both_ratios() {
        let text = report().to_string();
        let line = text.lines().find(|line| line.contains("IOPS")).unwrap();
        let words: Vec<_> = line.split_whitespace().rev().take(7).collect();
        assert_eq!(words, ["%", "1", "0.15", "1.51", "100", "151", "1000"]);
        assert!(!text.contains("drbd-crc"));
    }

    #[test]
    fn the_plot_has_every_rate_and_its_ratio() {
        let text = crate::bench::plot::svg(&report()).unwrap();
        assert!(text.starts_with("<svg") && text.contains("random write, depth 1"));
        assert!(text.contains("1.51"));
    }

    #[test]
    fn json_has_all_values_and_says_which_way_is_better() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json().unwrap()).unwrap();
        assert_eq!(json["rows"][0]["values"]["weft"][2], 152.0);
        assert_eq!(json["rows"][0]["better"], "higher");
        assert_eq!(json["rows"][1]["better"], "lower");
        assert_eq!(json["circumstances"]["kernel"], "7.3");
    }
}
