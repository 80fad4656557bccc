// SPDX-License-Identifier: GPL-2.0-only
//! What a run measures, and for how long.

use std::time::Duration;

use anyhow::{bail, Result};

use super::{
    system::{Lower, System, Volume},
    workload::{Workload, ALL},
};

/// What a run measures.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often everything is measured.
    pub rounds: u32,
    /// Kinds of disks below.
    pub lowers: Vec<Lower>,
    /// The systems side by side.
    pub systems: Vec<System>,
    /// What is done with them.
    pub workloads: Vec<Workload>,
    /// How long a load of fio goes on.
    pub load_time: Duration,
    /// Transactions of a database.
    pub commits: u32,
    /// Whether it is shown where the processors are during loads.
    pub profile: bool,
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// From 0.
    pub round: u32,
    /// What is done.
    pub workload: Workload,
    /// With what.
    pub volume: Volume,
}

impl Plan {
    /// Everything, on disks of both kinds.
    pub fn full(rounds: u32) -> Self {
        Self {
            rounds,
            lowers: Lower::ALL.to_vec(),
            systems: System::ALL.to_vec(),
            workloads: ALL.to_vec(),
            load_time: Duration::from_secs(5),
            commits: 400,
            profile: false,
        }
    }

    /// Shorter loads on RAM disks only, and nothing that is only for information.
    pub fn quick(rounds: u32) -> Self {
        Self {
            lowers: vec![Lower::Ram],
            systems: vec![System::Raw, System::Weft, System::Drbd],
            load_time: Duration::from_secs(2),
            commits: 100,
            ..Self::full(rounds)
        }
    }

    /// Keeps the workloads whose names begin with one of these; all if there are none.
    ///
    /// # Errors
    /// If a name fits nothing.
    pub fn keep(mut self, names: &[String]) -> Result<Self> {
        for name in names {
            if !ALL
                .iter()
                .any(|workload| workload.name.starts_with(name.as_str()))
            {
                let all: Vec<_> = ALL.iter().map(|workload| workload.name).collect();
                bail!("there is no row {name}; there are: {}", all.join(", "));
            }
        }
        if !names.is_empty() {
            self.workloads.retain(|workload| {
                let mut names = names.iter();
                names.any(|name| workload.name.starts_with(name.as_str()))
            });
        }
        Ok(self)
    }

    /// Every volume that takes part.
    pub fn volumes(&self) -> Vec<Volume> {
        let lowers = self.lowers.iter();
        let of = |lower: &Lower| {
            let lower = *lower;
            let systems = self.systems.iter();
            systems.map(move |system| Volume {
                system: *system,
                lower,
            })
        };
        lowers.flat_map(of).collect()
    }

    /// All that is to be done, in its order: the systems take turns at every workload,
    /// and each round another one begins.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for round in 0..self.rounds {
            for lower in &self.lowers {
                for workload in &self.workloads {
                    let mut systems = self.systems.clone();
                    systems.retain(|system| workload.suits(*system));
                    let first = round as usize % systems.len().max(1);
                    systems.rotate_left(first);
                    steps.extend(systems.into_iter().map(|system| Step {
                        round,
                        workload: *workload,
                        volume: Volume {
                            system,
                            lower: *lower,
                        },
                    }));
                }
            }
        }
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_another_system_begins() {
        let plan = Plan::quick(3).keep(&["write-qd1".to_owned()]).unwrap();
        let order: Vec<_> = plan.steps().iter().map(|step| step.volume.system).collect();
        use System::{Drbd, Raw, Weft};
        assert_eq!(order, [Raw, Weft, Drbd, Weft, Drbd, Raw, Drbd, Raw, Weft]);
    }

    #[test]
    fn rows_are_chosen_by_the_beginning_of_their_names() {
        let plan = Plan::full(1).keep(&["resync".to_owned()]).unwrap();
        let names: Vec<_> = plan.workloads.iter().map(|one| one.name).collect();
        assert_eq!(names, ["resync-full", "resync-1"]);
        let error = Plan::full(1).keep(&["writ3".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("write-qd1"));
    }

    #[test]
    fn every_volume_has_a_disk_and_a_minor_number_of_its_own() {
        let volumes = Plan::full(1).volumes();
        for (index, one) in volumes.iter().enumerate() {
            for other in volumes.iter().skip(index + 1) {
                assert_ne!(one.disk(), other.disk());
                assert_ne!(one.minor(), other.minor());
                assert_ne!(one.device(), other.device());
            }
        }
    }
}
