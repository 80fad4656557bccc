// SPDX-License-Identifier: GPL-2.0-only

//! Faults, the cluster manager that promotes and demotes, and the person who repairs everything in the end.

use crate::checkers;
use crate::link::Cable;
use crate::node::{node_id, VOLUME};
use crate::world::{note, Happening, World, MS, SECOND, US};
use weft_engine::event::Command;
use weft_engine::host::Time;
use weft_uapi::ondisk::FLAG_INCONSISTENT;
use weft_uapi::state::{ConnectionState, DiskState, Protocol, ReplicationState};

/// After the last fault everything must be well within this time.
const REPAIR_MAX: u64 = 300 * SECOND;
/// How often the person looks.
const LOOK: u64 = 200 * MS;
/// For so long everything must have been well before the run ends.
const WELL_FOR: u64 = 3 * SECOND;

/// What the status says of one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub is_primary: bool,
    pub disk: u32,
    pub connection: u32,
    pub replication: u32,
    pub peer_disk: u32,
    /// Packets with data that the peer has not acknowledged.
    pub unacked: u32,
}

impl View {
    pub(crate) fn is_well(&self) -> bool {
        let good = DiskState::UpToDate.number();
        (self.disk, self.peer_disk) == (good, good)
            && self.connection == ConnectionState::Connected.number()
            && self.replication == ReplicationState::Established.number()
    }
}

impl World {
    pub(crate) fn view(&self, node: usize) -> Option<View> {
        let this = &self.nodes[node];
        let engine = this.engine.as_ref()?;
        let (now, peer) = (Time(self.now), node_id(1 - node));
        let towards = engine.peer_volume_info(peer, VOLUME, now)?;
        Some(View {
            is_primary: this.is_primary(),
            disk: engine.volume_info(VOLUME, now)?.disk_state,
            connection: engine.peer_info(peer, now)?.connection,
            replication: towards.replication,
            peer_disk: towards.peer_disk_state,
            unacked: towards.unacked,
        })
    }

    /// Something goes wrong, or an administrator does something.
    pub(crate) fn on_fault(&mut self) {
        self.first_aid();
        if self.faults_left == 0 {
            note!(self, "no more faults");
            self.calm_since = Some(self.now);
            self.after(0, Happening::Calm);
            return;
        }
        self.faults_left -= 1;
        let node = self.random.index(2);
        match self.random.range(0..26) {
            0..=2 => self.crash_by_fault(node),
            3..=5 => self.nodes[node].dies_after = Some(self.random.duration(1..300)),
            6 => {
                self.crash_by_fault(node);
                let delay = self.random.duration(US..100 * MS);
                let life = self.nodes[1 - node].life;
                self.nodes[1 - node].dies_after = (delay % 3 == 0).then_some(delay % 40);
                note!(self, "both die, n{} (life {life}) soon", 1 - node);
            }
            7 | 8 => self.cut(),
            9 | 10 => self.reset_connection(),
            11 => {
                let life = self.nodes[node].life;
                self.on_daemon(node, life, false);
                let delay = self.random.duration(MS..3 * SECOND);
                self.after(
                    delay,
                    Happening::Daemon {
                        node,
                        life,
                        serves: true,
                    },
                );
            }
            12..=14 => self.switch_over(node),
            15 => self.demote(node),
            16 => self.command(node, Command::Primary { force: false }),
            17 if self.random.percent(30) && !self.nodes[node].is_blank() => {
                self.command(node, Command::Primary { force: true });
            }
            18 => {
                self.nodes[node].wants_peer = false;
                self.command(
                    node,
                    Command::Disconnect {
                        peer: node_id(1 - node),
                    },
                );
            }
            19 => self.connect(node, self.nodes[node].may_lose_line),
            20 => {
                self.nodes[node].wants_disk = false;
                self.command(node, Command::Detach { volume: VOLUME });
            }
            21 => {
                self.nodes[node].wants_disk = true;
                self.attach(node);
            }
            22 => {
                self.protocol = *self.random.pick(Protocol::ALL);
                let protocol = self.protocol;
                (0..2).for_each(|node| self.command(node, Command::SetProtocol { protocol }));
            }
            23 => self.resolve_split_brain(),
            24 => self.replace_disk(node),
            _ if self.disks_fail => {
                note!(self, "n{node} disk fails");
                (self.nodes[node].is_failing, self.nodes[node].has_failed) = (true, true);
            }
            _ => {}
        }
        let gap = self.random.duration(MS..4 * SECOND);
        self.after(gap, Happening::Fault);
    }

    /// Whether applications should stop writing, since the run comes to its end.
    pub(crate) fn is_winding_down(&self) -> bool {
        self.calm_since
            .is_some_and(|since| self.now > since + 10 * SECOND)
    }

    /// The machine dies and comes back after a while.
    pub(crate) fn crash_by_fault(&mut self, node: usize) {
        let power = self.random.percent(70);
        self.crash(node, power);
        let delay = self.random.duration(MS..6 * SECOND);
        self.after(delay, Happening::Boot { node });
    }

    /// The machine dies with its disk and comes back with a new one.
    fn replace_disk(&mut self, node: usize) {
        let is_other_good = self.nodes[1 - node].superblock().is_some_and(|block| {
            block.generation.id.0 != 0 && block.flags & FLAG_INCONSISTENT == 0
        });
        if self.nodes[node].engine.is_none() || !is_other_good {
            return;
        }
        self.crash_by_fault(node);
        note!(self, "n{node} gets a new disk");
        self.nodes[node].replace_disk(&mut self.random);
        self.history.forget_excuses(node);
    }

    fn cut(&mut self) {
        let blocked =
            *self
                .random
                .pick(&[[true, true], [true, false], [false, true], [false, false]]);
        let slow = if self.random.coin() {
            self.random.duration(US..50 * MS)
        } else {
            0
        };
        self.on_cable([0, 1], Cable { blocked, slow });
        let delay = self.random.duration(MS..8 * SECOND);
        self.after(
            delay,
            Happening::Cable {
                nodes: [0, 1],
                cable: Cable::default(),
            },
        );
    }

    fn connect(&mut self, node: usize, discard_my_data: bool) {
        self.nodes[node].wants_peer = true;
        self.command(
            node,
            Command::Connect {
                peer: node_id(1 - node),
                discard_my_data,
            },
        );
    }

    fn demote(&mut self, node: usize) {
        self.nodes[node].app.is_leaving = true;
        if !self.nodes[node].app.is_open {
            self.command(node, Command::Secondary);
        }
    }

    /// A cluster manager moves the service to `node`.
    fn switch_over(&mut self, node: usize) {
        if self.nodes[1 - node].is_primary() {
            self.demote(1 - node);
        }
        self.nodes[node].app.is_leaving = false;
        self.command(node, Command::Primary { force: false });
    }

    /// A manager promotes somebody when nobody is primary, and data have to begin somewhere.
    fn first_aid(&mut self) {
        if self.nodes.iter().any(|node| node.is_primary()) {
            return;
        }
        // Two first generations would have nothing in common.
        if self.nodes.iter().any(|node| node.is_forcing) {
            return;
        }
        let node = self.random.index(2);
        let force = self.nodes.iter().all(|node| node.is_blank());
        self.nodes[node].app.is_leaving = false;
        self.command(node, Command::Primary { force });
    }

    /// Chooses a victim when both sides stand alone because of a split brain.
    fn resolve_split_brain(&mut self) {
        let [Some(first), Some(second)] = [0, 1].map(|node| self.view(node)) else {
            return;
        };
        let alone = ConnectionState::StandAlone.number();
        if first.connection != alone && second.connection != alone {
            return;
        }
        let victim = match (first.is_primary, second.is_primary) {
            (true, true) => return self.demote(1),
            (true, false) => 1,
            (false, true) => 0,
            (false, false) => self.random.index(2),
        };
        self.connect(victim, true);
        self.connect(1 - victim, false);
    }

    /// No more faults: repairs what a person would repair, and waits until all is well.
    pub(crate) fn on_calm(&mut self) {
        let since = self.calm_since.unwrap_or(self.now);
        if self.now > since + REPAIR_MAX {
            let views = [0, 1].map(|node| self.view(node));
            let oldest = self.oldest_request();
            return self.fail(
                "progress",
                format!("not well after all faults stopped: {views:?}, oldest request {oldest:?}"),
            );
        }
        if self
            .well_since
            .is_some_and(|well| self.now > well + WELL_FOR)
            && self.is_winding_down()
        {
            checkers::finished(self);
            self.is_done = true;
            return;
        }
        self.after(LOOK, Happening::Calm);
        if !self.cable.is_whole() || self.cable.slow > 0 {
            self.on_cable([0, 1], Cable::default());
        }
        for node in 0..2 {
            self.repair(node);
        }
        let is_well = (0..2).all(|node| self.view(node).is_some_and(|view| view.is_well()))
            && self.nodes.iter().any(|node| node.is_primary())
            && (!self.is_winding_down()
                || self
                    .nodes
                    .iter()
                    .all(|node| node.app.outstanding.is_empty()));
        match (is_well, self.well_since) {
            (true, None) => self.well_since = Some(self.now),
            (false, _) => self.well_since = None,
            _ => {}
        }
        if !is_well {
            self.meet_soon();
        }
    }

    /// What a person does for one node, if it needs something.
    fn repair(&mut self, node: usize) {
        self.nodes[node].dies_after = None;
        if self.nodes[node].engine.is_none() || !self.nodes[node].tokens.is_empty() {
            return;
        }
        if !self.nodes[node].serves {
            let life = self.nodes[node].life;
            self.on_daemon(node, life, true);
        }
        (self.nodes[node].wants_disk, self.nodes[node].wants_peer) = (true, true);
        let Some(view) = self.view(node) else {
            return;
        };
        if !self.nodes[node].is_attached && !view.is_primary {
            return self.attach(node);
        }
        if !self.nodes[node].is_attached && !self.nodes[node].app.is_leaving {
            // A disk is not taken while the node is primary.
            return self.demote(node);
        }
        let is_leaving = self.nodes[node].app.is_leaving;
        if is_leaving && view.is_primary && !self.nodes[node].app.is_open {
            return self.command(node, Command::Secondary);
        }
        if view.connection == ConnectionState::StandAlone.number() {
            return self.reconnect(node);
        }
        let nobody = !self.nodes.iter().any(|node| node.is_primary());
        if nobody && self.nodes.iter().all(|node| node.engine.is_some()) {
            self.first_aid();
        }
    }

    /// Connects a node that stands alone: first as it is, and after a split brain with the other side's data.
    fn reconnect(&mut self, node: usize) {
        let engine = self.nodes[node].engine.as_ref();
        let info = engine.and_then(|engine| engine.peer_info(node_id(1 - node), Time(self.now)));
        let reason = info.map_or(String::new(), |info| {
            String::from_utf8_lossy(&info.reason).into_owned()
        });
        if reason.contains("split brain") || self.nodes.iter().all(|node| node.is_primary()) {
            self.resolve_split_brain();
        } else {
            self.connect(node, false);
        }
    }
}
