// SPDX-License-Identifier: GPL-2.0-only
//! Measures Weft beside the stock kernel's DRBD and the bare disk.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{builder::PossibleValuesParser, Parser};
use weft_qemu_tests::bench::{plot, run, system::Lower, Plan, Report};

/// Measures Weft, the stock kernel's DRBD and the bare disk side by side, in two
/// emulated machines, in alternating rounds, and prints medians and ratios.
#[derive(Parser, Debug)]
#[command(name = "scripts/bench")]
struct Arguments {
    /// Short loads on RAM disks only: less than 10 minutes
    #[arg(long)]
    quick: bool,
    /// How often everything is measured; the tables show medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    rounds: u32,
    /// Only rows whose names begin like this; may be given several times
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Kind of disk below: ram or virtio [default: both; ram with --quick]
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(Lower::ALL.map(Lower::name)))]
    lower: Option<String>,
    /// Writes all values there, too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draws the ratios there, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Shows in which functions the machines' processors are during each load of fio
    #[arg(long)]
    profile: bool,
}

fn plan(arguments: &Arguments) -> Result<Plan> {
    let mut plan = match arguments.quick {
        true => Plan::quick(arguments.rounds),
        false => Plan::full(arguments.rounds),
    };
    if let Some(lower) = arguments.lower.as_deref().and_then(Lower::from_name) {
        plan.lowers = vec![lower];
    }
    plan.profile = arguments.profile;
    plan.keep(&arguments.only)
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    print!("{report}");
    if let Some(path) = &arguments.json {
        let text = report.to_json()?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &arguments.plot {
        let text = plot::svg(report)?;
        fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn bench(arguments: &Arguments) -> Result<()> {
    let (report, measured) = run::run(&plan(arguments)?)?;
    if measured.is_err() {
        println!("Not everything was measured:");
    }
    write(arguments, &report)?;
    measured
}

fn main() -> ExitCode {
    match bench(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
