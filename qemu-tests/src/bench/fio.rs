// SPDX-License-Identifier: GPL-2.0-only
//! Loads that fio makes, and what it reports of them.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use serde_json::Value;

use crate::{guest::USUAL_LIMIT, Command, Machine};

/// The part of a device that loads use, in MiB: what the smallest device has after
/// metadata, and little enough to be hot.
const SPAN_MIB: u64 = 128;

/// Requests of one kind, as many at a time as said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// What fio calls the pattern: "randwrite", ...
    pub pattern: &'static str,
    /// Bytes of a request, in KiB.
    pub block_kib: u32,
    /// Requests that are under way at a time, of each job.
    pub depth: u32,
    /// Processes that make them.
    pub jobs: u32,
    /// Whether every write is followed by fsync.
    pub syncs: bool,
}

/// What became of a load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Outcome {
    /// Requests per second, reads and writes.
    pub(super) requests_per_second: f64,
    /// Bytes per second, reads and writes.
    pub(super) bytes_per_second: f64,
    /// Writes that were completed; reads if the load has no writes.
    pub(super) requests: f64,
    /// Completion time that half of them took at most, in microseconds.
    pub(super) median_us: f64,
    /// And 99 of 100.
    pub(super) slow_us: f64,
}

/// How long a load goes on.
#[derive(Clone, Copy, Debug)]
pub(super) enum Extent {
    Time(Duration),
    Requests(u64),
}

/// Makes the load on a device of a machine.
pub(super) fn run(machine: &Machine, device: &str, load: &Load, extent: Extent) -> Result<Outcome> {
    let script = command(device, load, extent);
    let limit = match extent {
        Extent::Time(time) => USUAL_LIMIT + time,
        Extent::Requests(_) => USUAL_LIMIT,
    };
    let output = machine.succeed(&Command::shell(&script).limit(limit))?;
    parse(&output).with_context(|| format!("{}: {script}", machine.name()))
}

fn command(device: &str, load: &Load, extent: Extent) -> String {
    let Load {
        pattern,
        block_kib,
        depth,
        jobs,
        syncs,
    } = load;
    let mut text = format!(
        "fio --name=load --filename={device} --direct=1 --ioengine=libaio --rw={pattern} \
         --bs={block_kib}k --iodepth={depth} --numjobs={jobs} --thread --group_reporting \
         --size={SPAN_MIB}m --randrepeat=0 --norandommap --output-format=json"
    );
    if *syncs {
        text += " --fsync=1";
    }
    match extent {
        Extent::Time(time) => {
            text += &format!(" --time_based --runtime={}ms", time.as_millis());
        }
        Extent::Requests(count) => text += &format!(" --number_ios={count}"),
    }
    text
}

/// Reads fio's JSON; before it there may be notes.
fn parse(output: &str) -> Result<Outcome> {
    let json = output.find('{').and_then(|begin| output.get(begin..));
    let json = json.context("fio printed no JSON")?;
    let all: Value = serde_json::from_str(json).context("fio's JSON")?;
    let job = all.pointer("/jobs/0").context("fio reports no job")?;
    ensure!(job["error"] == 0, "fio met error {}", job["error"]);
    let of = |direction: &str, name: &str| job.pointer(&format!("/{direction}/{name}"));
    let number = |direction: &str, name: &str| {
        let found = of(direction, name).and_then(Value::as_f64);
        found.with_context(|| format!("fio does not report {direction}/{name}"))
    };
    let main = match number("write", "total_ios")? > 0.0 {
        true => "write",
        false => "read",
    };
    Ok(Outcome {
        requests_per_second: number("read", "iops")? + number("write", "iops")?,
        bytes_per_second: number("read", "bw_bytes")? + number("write", "bw_bytes")?,
        requests: number(main, "total_ios")?,
        median_us: number(main, "clat_ns/percentile/50.000000")? / 1000.0,
        slow_us: number(main, "clat_ns/percentile/99.000000")? / 1000.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"note: something
        {"jobs": [{"error": 0,
          "read":  {"total_ios": 0, "iops": 0.0, "bw_bytes": 0},
          "write": {"total_ios": 300, "iops": 150.5, "bw_bytes": 616448,
            "clat_ns": {"percentile": {"50.000000": 6000000, "99.000000": 9500000}}}}]}"#;

    #[test]
    fn a_report_is_read() {
        let expected = Outcome {
            requests_per_second: 150.5,
            bytes_per_second: 616_448.0,
            requests: 300.0,
            median_us: 6000.0,
            slow_us: 9500.0,
        };
        assert_eq!(parse(REPORT).unwrap(), expected);
    }

    #[test]
    fn a_load_without_writes_is_judged_by_its_reads() {
        let swapped = REPORT.replace("read", "_").replace("write", "read");
        let report = swapped.replace("\"_\"", "\"write\"");
        assert_eq!(parse(&report).unwrap().requests, 300.0);
    }

    #[test]
    fn a_report_that_lacks_something_or_tells_of_an_error_is_refused() {
        assert!(parse("fio: no such device").is_err());
        assert!(parse("{}").is_err());
        assert!(parse(&REPORT.replace("\"error\": 0", "\"error\": 5")).is_err());
        let error = parse(&REPORT.replace("bw_bytes", "bandwidth")).unwrap_err();
        assert!(format!("{error:#}").contains("read/bw_bytes"));
    }

    #[test]
    fn the_command_line_says_what_the_load_is() {
        let load = Load {
            pattern: "randrw",
            block_kib: 4,
            depth: 1,
            jobs: 2,
            syncs: true,
        };
        let line = command("/dev/ram0", &load, Extent::Requests(9));
        for part in [
            "--rw=randrw",
            "--bs=4k",
            "--numjobs=2",
            "--fsync=1",
            "--number_ios=9",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
        assert!(!line.contains("--runtime"));
    }
}
