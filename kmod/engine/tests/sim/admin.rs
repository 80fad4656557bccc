// SPDX-License-Identifier: GPL-2.0-only

//! The cluster manager that promotes and demotes, and the person who repairs everything in the end.

use crate::host::SimHost;
use crate::link::Cable;
use crate::node::{node_id, Node};
use crate::world::{Happening, World, MS, SECOND};
use weft_engine::event::Command;
use weft_engine::host::Time;
use weft_engine::Engine;
use weft_uapi::state::{ConnectionState, DiskState, ReplicationState};
use weft_uapi::units::VolumeId;

/// After the last fault everything must be well within this time.
const REPAIR_MAX: u64 = 300 * SECOND;
/// A person who sees that nobody can be promoted for so long uses force.
const INSIST_AFTER: u64 = 200 * SECOND;
/// A person who sees for so long that a disk without whole data is not synced gives it up, and ends an application that waits.
const GIVE_UP_AFTER: u64 = 100 * SECOND;
/// How often the person looks.
const LOOK: u64 = 200 * MS;
/// A brisk history closes when everything has been well for so long, with an application at work.
const CLOSE_AFTER: u64 = SECOND;
/// Writes that it has in this time at most.
const WRITES_WHEN_WELL: usize = 20;
/// For so long everything must have been well before the run ends.
const WELL_FOR: u64 = 3 * SECOND;

/// What the status of one node says of itself and of a peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub disk: DiskState,
    pub connection: ConnectionState,
    pub replication: ReplicationState,
    pub peer_disk: DiskState,
    /// What the two disks should be.
    best: (DiskState, DiskState),
    /// Nothing but that one of them had no disk was decided yet.
    is_undecided: bool,
    /// Packets with data that the peer has not acknowledged.
    pub unacked: u32,
}

impl View {
    pub(crate) fn is_well(&self) -> bool {
        (self.disk, self.peer_disk) == self.best
            && self.is_connected()
            && self.replication == ReplicationState::Established
            && !(self.is_undecided && self.best == (DiskState::UpToDate, DiskState::UpToDate))
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection == ConnectionState::Connected
    }

    /// Connected, with a disk that holds nothing whole and that waits for nothing.
    fn is_useless(&self) -> bool {
        self.is_connected()
            && self.replication == ReplicationState::Established
            && (self.disk, self.peer_disk) == (DiskState::Inconsistent, DiskState::UpToDate)
    }

    fn is_alone(&self) -> bool {
        self.connection == ConnectionState::StandAlone
    }
}

/// Copies that are being compared are mirrored as others are.
fn mirrored(state: ReplicationState) -> ReplicationState {
    match state {
        ReplicationState::VerifySource | ReplicationState::VerifyTarget => {
            ReplicationState::Established
        }
        state => state,
    }
}

impl World {
    /// What `node` says of `peer`; `None` when it is down or not set up.
    pub(crate) fn view(&self, node: usize, peer: usize) -> Option<View> {
        self.view_of(self.at, node, peer)
    }

    fn view_of(&self, volume: VolumeId, node: usize, peer: usize) -> Option<View> {
        let engine = self.nodes[node].engine.as_ref()?;
        let best = |node: usize| match self.nodes[node].is_diskless {
            true => DiskState::Diskless,
            false => DiskState::UpToDate,
        };
        let best = (best(node), best(peer));
        let (now, peer) = (Time(self.now), node_id(peer));
        let towards = engine.peer_volume_info(peer, volume, now)?;
        Some(View {
            disk: DiskState::from_number(engine.volume_info(volume, now)?.disk_state)?,
            connection: ConnectionState::from_number(engine.peer_info(peer, now)?.connection)?,
            replication: mirrored(ReplicationState::from_number(towards.replication)?),
            peer_disk: DiskState::from_number(towards.peer_disk_state)?,
            best,
            is_undecided: towards.rule.starts_with(b"no-disk"),
            unacked: towards.unacked,
        })
    }

    /// What all say of each other, by node and peer.
    fn views(&self) -> Vec<(usize, usize, Option<View>)> {
        let nodes = 0..self.nodes.len();
        let pairs = nodes.flat_map(|node| self.peers(node).map(move |peer| (node, peer)));
        pairs
            .flat_map(|(node, peer)| {
                let volumes = self.each_volume();
                volumes.map(move |volume| (node, peer, self.view_of(volume, node, peer)))
            })
            .collect()
    }

    /// Takes note of the states that status tells now.
    pub(crate) fn count_states(&mut self) {
        self.count_limits();
        self.count_paces();
        for (_, _, view) in self.views() {
            let Some(view) = view else {
                continue;
            };
            let reach = &mut self.tally.reach;
            reach.count("disk states", view.disk.name());
            reach.count("disk states", view.peer_disk.name());
            reach.count("connection states", view.connection.name());
            reach.count("replication states", view.replication.name());
        }
    }

    /// Whether applications should stop writing, since the run comes to its end.
    pub(crate) fn is_winding_down(&self) -> bool {
        let is_late = |since| self.now > since + 10 * SECOND;
        self.is_closing || self.calm_since.is_some_and(is_late)
    }

    pub(crate) fn connect(&mut self, node: usize, peer: usize, discard_my_data: bool) {
        self.nodes[node].wants_peer[peer] = true;
        let peer = node_id(peer);
        self.command(
            node,
            Command::Connect {
                peer,
                discard_my_data,
            },
        );
    }

    pub(crate) fn demote(&mut self, node: usize) {
        self.nodes[node].set_leaving(true);
        if self.nodes[node].is_closed() {
            self.command(node, Command::Secondary { force: false });
        }
    }

    /// A cluster manager moves the service to `node`.
    pub(crate) fn switch_over(&mut self, node: usize) {
        let is_beside = self.two_primaries && self.extra.coin();
        for peer in self.peers(node) {
            if self.nodes[peer].is_primary() && !is_beside {
                self.demote(peer);
            }
        }
        self.nodes[node].set_leaving(false);
        self.command(node, Command::Primary { force: false });
    }

    /// A manager promotes somebody when nobody is primary, and data have to begin somewhere.
    pub(crate) fn first_aid(&mut self) {
        if self.nodes.iter().any(|node| node.is_primary()) {
            return;
        }
        // Two first generations would have nothing in common.
        if self.nodes.iter().any(|node| node.is_forcing) {
            return;
        }
        let node = self.random.index(self.nodes.len());
        let Some(force) = self.needs_force(node) else {
            return;
        };
        if self.calls_disks_equal() {
            return self.command(node, Command::NewGeneration);
        }
        self.nodes[node].set_leaving(false);
        self.command(node, Command::Primary { force });
    }

    /// Whether nobody has data of some volume, so that they begin here by force; `None`: they had better begin elsewhere.
    fn needs_force(&mut self, node: usize) -> Option<bool> {
        let (mut force, mut lacks_data) = (false, self.nodes[node].is_diskless);
        self.on_each_volume(
            |world| match world.nodes.iter().all(|node| node.is_blank()) {
                true => force = true,
                false => lacks_data |= !world.nodes[node].has_good_disk(),
            },
        );
        (!force || !lacks_data).then_some(force)
    }

    /// Whether a volume of `node` never held data: to be promoted by force is to begin anew.
    pub(crate) fn lacks_data(&mut self, node: usize) -> bool {
        let mut lacks_data = false;
        self.on_each_volume(|world| lacks_data |= world.nodes[node].is_blank());
        lacks_data
    }

    /// A person who has tried everything else takes it that what no disk has is lost.
    fn insist(&mut self) {
        let newest = (0..self.nodes.len())
            .filter(|&node| !self.nodes[node].is_diskless)
            .max_by_key(|&node| self.nodes[node].superblock().map(|it| it.generation.term));
        let newest = newest.filter(|&node| self.other.is_none() || !self.lacks_data(node));
        if let Some(node) = newest.filter(|_| !self.nodes.iter().any(|node| node.is_forcing)) {
            self.nodes[node].set_leaving(false);
            self.command(node, Command::Primary { force: true });
        }
    }

    /// When nodes stand alone because of a split brain: chooses one whose data survive; those that have other data give
    /// them up.
    pub(crate) fn resolve_split_brain(&mut self) {
        let mut broken = self.pairs();
        broken.retain(|&[a, b]| match (self.view(a, b), self.view(b, a)) {
            (Some(one), Some(other)) => one.is_alone() || other.is_alone(),
            _ => false,
        });
        if broken.is_empty() {
            return;
        }
        let Some(survivor) = self.choose_survivor() else {
            return;
        };
        let mut survives = vec![true; self.nodes.len()];
        self.on_each_volume(|world| {
            let line = |node: usize| world.volume.history.line(world.nodes[node].written());
            let kept = line(survivor);
            for (node, survives) in survives.iter_mut().enumerate() {
                *survives &= line(node).is_subset(&kept);
            }
        });
        for [a, b] in broken {
            let gives_up =
                |node: usize, peer: usize| peer == survivor || (survives[peer] && !survives[node]);
            let (first, second) = if gives_up(a, b) { (a, b) } else { (b, a) };
            let discards = gives_up(first, second);
            if discards && self.nodes[first].is_primary() {
                // Its application works with another disk, and its own is given up by a secondary only.
                self.demote(first);
                continue;
            }
            self.connect(first, second, discards);
            self.connect(second, first, false);
        }
    }

    /// The node whose data are kept: whose an application sees. `None`: that is more than one, and others are stopped first,
    /// or an application sees nothing.
    fn choose_survivor(&mut self) -> Option<usize> {
        let primaries = (0..self.nodes.len()).filter(|&node| self.nodes[node].is_primary());
        let (stranded, primaries): (Vec<usize>, Vec<usize>) =
            primaries.partition(|&node| self.is_stranded(node));
        if !stranded.is_empty() {
            stranded.into_iter().for_each(|node| self.demote(node));
            return None;
        }
        let served: Vec<(usize, usize)> = primaries
            .into_iter()
            .map(|node| (self.server_of(node).unwrap_or(node), node))
            .collect();
        let Some(&(survivor, _)) = served.first() else {
            let disks: Vec<usize> = (0..self.nodes.len())
                .rev()
                .filter(|&node| !self.nodes[node].is_diskless)
                .collect();
            return Some(*self.random.pick(&disks));
        };
        let others = served.iter().filter(|(server, _)| *server != survivor);
        let others: Vec<usize> = others.map(|&(_, node)| node).collect();
        others.iter().for_each(|&node| self.demote(node));
        others.is_empty().then_some(survivor)
    }

    /// Whether it is a primary that reaches all voters, and too many of their disks were replaced to count as a majority.
    fn lacks_only_trust(&self, node: usize) -> bool {
        let Some(engine) = self.nodes[node].engine.as_ref() else {
            return false;
        };
        let info = engine.resource_info(Time(self.now));
        self.nodes[node].is_primary() && info.has_quorum == 0 && info.voters_present == info.voters
    }

    /// Whether its application has neither a server nor a whole disk.
    fn is_stranded(&self, node: usize) -> bool {
        let is_whole = |volume| {
            let engine = self.nodes[node].engine.as_ref();
            let info = engine.and_then(|engine| engine.volume_info(volume, Time(self.now)));
            info.is_some_and(|info| info.disk_state == DiskState::UpToDate.number())
        };
        self.server_of(node).is_none() && !self.each_volume().all(is_whole)
    }

    /// The node whose data the application of this one sees, if that is another node.
    fn server_of(&self, node: usize) -> Option<usize> {
        let engine = self.nodes[node].engine.as_ref()?;
        let number = engine.resource_info(Time(self.now)).server;
        usize::try_from(number).ok()?.checked_sub(1)
    }

    /// No more faults: repairs what a person would repair, and waits until all is well.
    pub(crate) fn on_calm(&mut self) {
        let since = self.calm_since.unwrap_or(self.now);
        if self.now > since + REPAIR_MAX {
            let ill: Vec<String> = self
                .views()
                .into_iter()
                .filter(|(_, _, view)| view.is_none_or(|view| !view.is_well()))
                .map(|(node, peer, view)| format!("n{node} of n{peer}: {view:?}"))
                .collect();
            let oldest = self.oldest_request();
            let pending =
                |node: &Node| (node.id, node.tokens.values().copied().collect::<Vec<_>>());
            let unanswered: Vec<_> = self.nodes.iter().map(pending).collect();
            return self.fail(
                "progress",
                format!("not well after all faults stopped: unanswered {unanswered:?}, oldest request {oldest:?}, {ill:?}"),
            );
        }
        if self
            .well_since
            .is_some_and(|well| self.now > well + WELL_FOR)
            && self.is_winding_down()
            && self.is_finished()
        {
            self.is_done = true;
            return;
        }
        self.after(LOOK, Happening::Calm);
        for nodes in self.cables.disturbed() {
            self.on_cable(nodes, Cable::default());
        }
        self.on_each_volume(Self::make_disks_equally_large);
        if !self.is_well() {
            self.on_each_volume(Self::recover_sectors);
        }
        for node in 0..self.nodes.len() {
            self.repair(node);
        }
        let is_well = self.is_well();
        let was_well = |since| self.now > since + CLOSE_AFTER;
        self.is_closing |= self.is_brisk() && self.well_since.is_some_and(was_well);
        match (is_well, self.well_since) {
            (true, None) => {
                self.well_since = Some(self.now);
                self.allow_writes(WRITES_WHEN_WELL);
                self.on_each_volume(Self::lose_when_well);
                self.on_each_volume(Self::verify_when_well);
            }
            (true, Some(_)) => {
                self.on_each_volume(Self::repair_when_well);
                self.on_each_volume(Self::resize_when_well);
            }
            (false, _) => self.well_since = None,
        }
        if !is_well {
            for nodes in self.pairs() {
                self.meet_soon(nodes);
            }
        }
    }

    /// All disks are up to date, all are connected, and one node serves an application that waits for nothing.
    fn is_well(&self) -> bool {
        let most = 1 + usize::from(self.two_primaries);
        let primaries = self.nodes.iter().filter(|node| node.is_primary()).count();
        let is_served = (1..=most).contains(&primaries);
        let mut views = self.views().into_iter();
        is_served
            && views.all(|(_, _, view)| view.is_some_and(|view| view.is_well()))
            && (!self.is_winding_down()
                || self
                    .nodes
                    .iter()
                    .flat_map(Node::parts)
                    .all(|part| part.app.outstanding.is_empty()))
    }

    /// What a person does for one node, if it needs something.
    fn repair(&mut self, node: usize) {
        self.nodes[node].dies_after = None;
        self.take_orders_back(node);
        self.take_speed_back(node);
        let is_late = self
            .calm_since
            .is_some_and(|since| self.now > since + GIVE_UP_AFTER);
        let mut pending = self.nodes[node].tokens.values();
        let waits =
            |command: &Option<Command>| *command == Some(Command::Secondary { force: false });
        if is_late && pending.any(waits) {
            // Alone and without a majority it would wait for ever.
            return self.command(node, Command::Secondary { force: true });
        }
        if self.nodes[node].engine.is_none() || !self.nodes[node].tokens.is_empty() {
            return;
        }
        if !self.nodes[node].serves {
            let life = self.nodes[node].life;
            self.on_daemon(node, life, true);
        }
        for part in self.nodes[node].parts_mut() {
            part.wants_disk = true;
        }
        self.nodes[node].wants_peer.fill(true);
        let views = self.views().into_iter();
        let own = views.filter(|&(from, _, _)| from == node);
        let views: Option<Vec<(usize, View)>> =
            own.map(|(_, peer, view)| Some((peer, view?))).collect();
        let Some(views) = views else {
            return;
        };
        let is_primary = self.nodes[node].is_primary();
        let has_all = self.nodes[node].parts().all(|part| part.is_attached);
        let lacks_disk = !has_all && !self.nodes[node].is_diskless;
        let is_client = |engine: &Engine<SimHost>| engine.is_client();
        if lacks_disk && (!is_primary || self.nodes[node].engine.as_ref().is_some_and(is_client)) {
            return self.on_each_volume(|world| world.attach(node));
        }
        if lacks_disk && !self.nodes[node].app.is_leaving {
            // A disk is not taken while the node is primary.
            return self.demote(node);
        }
        let is_leaving = self.nodes[node].app.is_leaving;
        let is_late = self
            .calm_since
            .is_some_and(|since| self.now > since + GIVE_UP_AFTER);
        if is_leaving && is_primary && (is_late || self.nodes[node].is_closed()) {
            let force = !self.nodes[node].is_closed();
            return self.command(node, Command::Secondary { force });
        }
        if let Some((peer, _)) = views.iter().find(|(_, view)| view.is_alone()) {
            return self.reconnect(node, *peer);
        }
        if let Some((peer, _)) = views.iter().find(|(_, view)| is_late && view.is_useless()) {
            // Nobody trusts anybody, and there is nothing whole to be lost here.
            let peer = *peer;
            let force = false;
            self.command(
                node,
                Command::Disconnect {
                    peer: node_id(peer),
                    force,
                },
            );
            return self.connect(node, peer, true);
        }
        let waits_long = self
            .calm_since
            .is_some_and(|since| self.now > since + INSIST_AFTER);
        if waits_long && self.lacks_only_trust(node) {
            return self.command(node, Command::Primary { force: true });
        }
        let has_given_up = |node: &Node| node.parts().any(|part| part.has_given_up);
        let has_given_up = self.nodes.iter().any(has_given_up);
        let nobody = !self.nodes.iter().any(|node| node.is_primary());
        if nobody && self.nodes.iter().all(|node| node.engine.is_some()) {
            match waits_long && has_given_up {
                true => self.insist(),
                false => self.first_aid(),
            }
        }
    }

    /// Gives `node` a new disk for a volume of which it has nothing in common with `peer`, if that is worth more.
    fn replace_unrelated(&mut self, node: usize, peer: usize) -> bool {
        let is_late = self
            .calm_since
            .is_some_and(|since| self.now > since + GIVE_UP_AFTER);
        let [here, there] = [node, peer].map(|it| self.nodes[it].is_primary());
        // Either has data: those of an application are kept.
        let is_less = is_late && !here && (there || node > peer);
        if self.other.is_none() {
            let is_useless = !self.nodes[node].has_good_disk();
            if is_useless {
                self.replace_disk(node);
            }
            return is_useless;
        }
        let life = self.nodes[node].life;
        self.on_each_volume(|world| {
            if world.is_unrelated(node, peer) && (is_less || !world.nodes[node].has_good_disk()) {
                world.replace_disk(node);
            }
        });
        self.nodes[node].life != life
    }

    /// Whether the two have nothing in common of this volume.
    fn is_unrelated(&self, node: usize, peer: usize) -> bool {
        let engine = self.nodes[node].engine.as_ref();
        let info = engine
            .and_then(|engine| engine.peer_volume_info(node_id(peer), self.at, Time(self.now)));
        info.is_some_and(|info| {
            info.rule.starts_with(b"unrelated") || info.rule.starts_with(b"rolled-back")
        })
    }

    /// Connects a node that stands alone: first as it is, and after a split brain with the other side's data.
    fn reconnect(&mut self, node: usize, peer: usize) {
        let engine = self.nodes[node].engine.as_ref();
        let info = engine.and_then(|engine| engine.peer_info(node_id(peer), Time(self.now)));
        let reason = info.map_or(String::new(), |info| {
            String::from_utf8_lossy(&info.reason).into_owned()
        });
        // Of two primaries out of each other's reach one may be a client that has to hear that others went on.
        if reason.contains("split brain") {
            self.resolve_split_brain();
        } else if reason.contains("unrelated") && self.replace_unrelated(node, peer) {
            // It lagged until nobody remembers where it stopped, or began anew beside others.
        } else {
            self.connect(node, peer, false);
        }
    }
}
