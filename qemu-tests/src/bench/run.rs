// SPDX-License-Identifier: GPL-2.0-only
//! Measures what a plan says.

use std::{
    collections::{btree_map::Entry, BTreeMap},
    time::Duration,
};

use anyhow::{Context, Result};

use super::{
    cost::Cost,
    database,
    fio::{self, Extent, Load, Outcome},
    machines::{self, DISK_MIB},
    plan::{Plan, Step},
    profile::Profiler,
    progress::Progress,
    report::{Circumstances, Report},
    resync::Mirror,
    stop::Stop,
    system::Volume,
    trace,
    workload::{Figure, Kind},
};
use crate::{qemu, Cluster, Machine};

const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;
/// Blocks that are written while a peer is away: 1 % of a disk's blocks of 4 KiB.
const CHANGES: u64 = DISK_MIB * 256 / 100;
const CHANGE: Load = Load {
    pattern: "randwrite",
    block_kib: 4,
    depth: 8,
    jobs: 1,
    syncs: false,
};

/// What of a load does not depend on its length, by jobs.
#[derive(Default)]
struct Fixed {
    cost: BTreeMap<u32, Cost>,
    system_calls: f64,
}

struct Bench<'a> {
    cluster: &'a Cluster,
    plan: &'a Plan,
    fixed: Fixed,
    profiler: Option<Profiler<'a>>,
}

/// Boots machines, measures and returns what was found, also if something failed on the
/// way: then with the error.
///
/// # Errors
/// If no machine boots or nothing can be prepared.
pub fn run(plan: &Plan) -> Result<(Report, Result<()>)> {
    let stop = Stop::new()?;
    let steps = plan.steps();
    let mut progress = Progress::new(steps.len());
    let host_load = host_load()?;
    progress.say("booting two machines");
    let cluster = machines::describe(plan).boot("bench").context("booting")?;
    let done = stop.watch(&cluster, || {
        machines::prepare(&cluster, plan, |text| progress.say(text))?;
        let mut report = Report::new(circumstances(cluster.node(0), plan, host_load)?);
        let measured = measure(&cluster, plan, &steps, &mut progress, &mut report);
        let measured = measured.and_then(|()| cluster.check_kernel_logs());
        Ok((report, measured))
    });
    if stop.check().is_ok() && !matches!(&done, Ok((_, Ok(())))) {
        let kept = cluster.keep_artefacts()?;
        eprintln!("logs of both machines: {}", kept.display());
    }
    match done {
        Ok((report, measured)) => Ok((report, stop.check().and(measured))),
        Err(error) => Err(stop.check().err().unwrap_or(error)),
    }
}

fn measure(
    cluster: &Cluster,
    plan: &Plan,
    steps: &[Step],
    progress: &mut Progress,
    report: &mut Report,
) -> Result<()> {
    progress.say("what starting a load costs");
    let bench = Bench {
        cluster,
        plan,
        fixed: Fixed::measure(cluster, plan)?,
        profiler: plan.profile.then(|| Profiler::new(cluster)).transpose()?,
    };
    progress.begin_steps();
    for step in steps {
        let figures = bench.step(step).with_context(|| {
            let Step {
                volume, workload, ..
            } = step;
            format!("{} on {}", workload.name, volume.resource())
        })?;
        progress.step(step, figures.first().map_or(0.0, |(_, found)| *found));
        for (figure, found) in figures {
            report.add(step, figure, found);
        }
    }
    Ok(())
}

fn circumstances(machine: &Machine, plan: &Plan, host_load: String) -> Result<Circumstances> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model
        .unwrap_or("unknown")
        .trim_start_matches([' ', '\t', ':']);
    Ok(Circumstances {
        date: machine.sh("date --utc +%Y-%m-%d")?,
        kernel: machine.boot.release.clone(),
        accelerator: qemu::accelerator(&machine.boot)?.to_owned(),
        host: format!("{} x {model}", std::thread::available_parallelism()?),
        host_load,
        drbd: machine.sh("cat /sys/module/drbd/version 2>/dev/null || true")?,
        rounds: plan.rounds,
        load_seconds: plan.load_time.as_secs_f64(),
        disk_mib: DISK_MIB,
    })
}

/// Load averages of one, five and fifteen minutes.
fn host_load() -> Result<String> {
    let all = std::fs::read_to_string("/proc/loadavg")?;
    let averages: Vec<_> = all.split_whitespace().take(3).collect();
    Ok(averages.join(" "))
}

impl Fixed {
    fn measure(cluster: &Cluster, plan: &Plan) -> Result<Self> {
        let mut fixed = Self::default();
        let Some(volume) = plan.volumes().first().copied() else {
            return Ok(fixed);
        };
        for workload in &plan.workloads {
            match workload.kind {
                Kind::Requests(load) | Kind::Bytes(load) => {
                    if let Entry::Vacant(unknown) = fixed.cost.entry(load.jobs) {
                        unknown.insert(Cost::fixed(cluster, &volume.device(), &load)?);
                    }
                }
                Kind::Traced(load) => {
                    let single = || {
                        fio::run(
                            cluster.node(0),
                            &volume.device(),
                            &load,
                            Extent::Requests(1),
                        )
                    };
                    fixed.system_calls = trace::system_calls(cluster, single)?.1;
                }
                Kind::Database | Kind::FullResync | Kind::PartialResync => {}
            }
        }
        Ok(fixed)
    }
}

type Figures = Vec<(Figure, f64)>;

impl Bench<'_> {
    /// Does one step; its rate comes first.
    fn step(&self, step: &Step) -> Result<Figures> {
        let volume = step.volume;
        match step.workload.kind {
            Kind::Requests(load) => self.load(volume, &load, |outcome| outcome.requests_per_second),
            Kind::Bytes(load) => self.load(volume, &load, |outcome| outcome.bytes_per_second / MB),
            Kind::Traced(load) => self.traced(volume, &load),
            Kind::Database => {
                let (machine, commits) = (self.cluster.node(0), self.plan.commits);
                let rate = database::commits_per_second(machine, &volume.device(), commits)?;
                Ok(vec![(Figure::Rate, rate)])
            }
            Kind::FullResync => {
                let time = self.mirror(volume)?.resync_all()?;
                Ok(rate(DISK_MIB as f64 * MIB, time))
            }
            Kind::PartialResync => {
                let time = self.mirror(volume)?.resync_after(|source| {
                    let extent = Extent::Requests(CHANGES);
                    fio::run(source, &volume.device(), &CHANGE, extent).map(drop)
                })?;
                Ok(rate(CHANGES as f64 * 4096.0, time))
            }
        }
    }

    fn load(&self, volume: Volume, load: &Load, rate: fn(&Outcome) -> f64) -> Result<Figures> {
        let (outcome, cost) = Cost::of(self.cluster, || self.fio(volume, load))?;
        let fixed = self.fixed.cost.get(&load.jobs).copied().unwrap_or_default();
        let each = cost.each(fixed, outcome.requests);
        Ok(vec![
            (Figure::Rate, rate(&outcome)),
            (Figure::MedianLatency, outcome.median_us),
            (Figure::SlowLatency, outcome.slow_us),
            (Figure::Switches, each.switches),
            (Figure::HostProcessors, each.host_us),
        ])
    }

    fn traced(&self, volume: Volume, load: &Load) -> Result<Figures> {
        let (outcome, calls) = trace::system_calls(self.cluster, || self.fio(volume, load))?;
        let calls = (calls - self.fixed.system_calls).max(0.0);
        Ok(vec![
            (Figure::Rate, outcome.requests_per_second),
            (Figure::SystemCalls, calls / outcome.requests.max(1.0)),
        ])
    }

    fn fio(&self, volume: Volume, load: &Load) -> Result<Outcome> {
        let extent = Extent::Time(self.plan.load_time);
        let run = || fio::run(self.cluster.node(0), &volume.device(), load, extent);
        let Some(profiler) = &self.profiler else {
            return run();
        };
        let (outcome, profiles) = profiler.during(run)?;
        for (machine, profile) in self.cluster.nodes().iter().zip(profiles) {
            println!(
                "{} KiB {}, depth {}, on {}, {}:\n{profile}",
                load.block_kib,
                load.pattern,
                load.depth,
                volume.resource(),
                machine.name()
            );
        }
        Ok(outcome)
    }

    fn mirror(&self, volume: Volume) -> Result<Mirror<'_>> {
        Mirror::new(self.cluster, volume).context("a bare disk has nothing to resync")
    }
}

/// Megabytes per second.
fn rate(bytes: f64, time: Duration) -> Figures {
    vec![(Figure::Rate, bytes / MB / time.as_secs_f64().max(1e-6))]
}
