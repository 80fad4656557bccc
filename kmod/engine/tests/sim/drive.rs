// SPDX-License-Identifier: GPL-2.0-only

//! Driving an engine: commands and events go in, effects are carried out, and what it says of itself is watched.

use crate::canary::Canary;
use crate::checkers;
use crate::disk::Op;
use crate::host::{Act, Content, Outbox, SimHost};
use crate::link::pair;
use crate::node::{is_target, node_id, Source};
use crate::world::{note, Happening, World, MS, US};
use std::rc::Rc;
use weft_engine::effect::Level;
use weft_engine::event::{Command, Event, Kept, Token};
use weft_engine::host::Time;
use weft_uapi::ondisk::{Superblock, FLAG_GIVEN_UP, FLAG_INCONSISTENT};
use weft_uapi::refusal::Refusal;
use weft_uapi::state::{ReplicationState, Role};
use weft_uapi::status::SUSPENDED_BROKEN;
use weft_uapi::units::{NodeSet, VolumeId};

impl World {
    pub(crate) fn command(&mut self, node: usize, command: Command) {
        if self.nodes[node].engine.is_none() {
            return;
        }
        note!(self, "n{node} command {command:?}");
        match command {
            Command::Primary { force: true } | Command::NewGeneration => {
                self.nodes[node].is_forcing = true
            }
            Command::Secondary { force: true } => {
                let parts = self.nodes[node].parts_mut();
                parts.for_each(|part| part.app.is_ended = true);
            }
            Command::ResumeIo => self.nodes[node].is_suspended = false,
            _ => {}
        }
        let token = self.token(node, Some(command));
        let command = self.forged(node, command);
        self.feed(node, Event::Command { token, command });
    }

    /// What a canary makes of a command.
    fn forged(&self, node: usize, command: Command) -> Command {
        match (self.plan.canary, command) {
            (Some(Canary::MergeForks), Command::Connect { peer, .. }) => Command::Connect {
                peer,
                discard_my_data: node > peer.index() && !self.nodes[node].is_primary(),
            },
            _ => command,
        }
    }

    pub(crate) fn token(&mut self, node: usize, command: Option<Command>) -> Token {
        self.nodes[node].tokens.insert(self.moment, command);
        let token = Token(self.moment);
        self.moment += 1;
        token
    }

    pub(crate) fn on_timer(&mut self, node: usize, life: u32) {
        let this = &mut self.nodes[node];
        if this.life != life || this.engine.is_none() || this.timer.is_none_or(|at| at > self.now) {
            return;
        }
        this.timer = None;
        self.feed(node, Event::Timer);
    }

    /// Feeds one event and carries out what comes back.
    pub(crate) fn feed(&mut self, node: usize, event: Event<'_, SimHost>) {
        let at = self.at;
        self.handle(node, event);
        self.turn_to(at);
    }

    fn handle(&mut self, node: usize, event: Event<'_, SimHost>) {
        let Some(mut engine) = self.nodes[node].engine.take() else {
            return;
        };
        let mut outbox = Outbox {
            acts: Vec::new(),
            random: &mut self.random,
        };
        engine.handle(Time(self.now), event, &mut outbox);
        let acts = outbox.acts;
        let deadline = engine.deadline();
        self.nodes[node].engine = Some(engine);
        self.observe(node, &acts);
        let life = self.nodes[node].life;
        for act in acts {
            if self.nodes[node].life != life {
                return;
            }
            // Whoever waits at the device is told at once.
            if !matches!(act, Act::Door(..)) {
                self.moment += 1;
                if let Some(left) = &mut self.nodes[node].dies_after {
                    if *left == 0 {
                        return self.crash_by_fault(node);
                    }
                    *left -= 1;
                }
            }
            if let Some(volume) = act.volume() {
                self.turn_to(volume);
            }
            self.carry_out(node, act);
        }
        if let Some(deadline) = deadline {
            self.arm(node, deadline.0);
        }
    }

    fn arm(&mut self, node: usize, at: u64) {
        // Time goes on even for an engine that wants to go on at once.
        let at = at.max(self.now + US);
        let this = &mut self.nodes[node];
        if this
            .timer
            .is_none_or(|armed| armed > at || armed <= self.now)
        {
            this.timer = Some(at);
            let life = this.life;
            self.after(at - self.now, Happening::Timer { node, life });
        }
    }

    /// What the engine says of itself after an event, of which `acts` are what it wants done.
    fn observe(&mut self, node: usize, acts: &[Act]) {
        let this = &self.nodes[node];
        let Some(engine) = &this.engine else {
            return;
        };
        let info = engine.resource_info(Time(self.now));
        if info.suspended & SUSPENDED_BROKEN != 0 {
            let said: Vec<&str> = acts.iter().filter_map(Act::error).collect();
            let text = format!("n{node}: an internal rule was broken: {said:?}");
            return self.fail("engine", text);
        }
        let server = (info.server as usize).checked_sub(1);
        let this = &mut self.nodes[node];
        let was_served = std::mem::replace(&mut this.server, server).is_some();
        let was_role = std::mem::replace(&mut this.role, info.role);
        let is_wanted =
            |command: &Option<Command>| *command == Some(Command::Secondary { force: false });
        let is_orderly = this.tokens.values().any(is_wanted) || this.is_demoted_by_close();
        let roles = [was_role, info.role].map(Role::from_number);
        if let ([Some(old), Some(new)], true) = (roles, was_role != info.role) {
            self.tally.reach.change("role", old, new);
        }
        let is_demoted = was_role == Role::Primary.number() && info.role != was_role;
        self.on_each_volume(|world| {
            // Nobody could make stable what a primary without any disk wrote while it had one.
            let is_bare = !world.nodes[node].is_attached && !was_served;
            if is_demoted && (is_bare || !is_orderly) {
                note!(world, "n{node} lost its role");
                world.nodes[node].tenure += 1;
            }
            world.observe_volume(node);
        });
        if info.role == Role::Primary.number() && was_role != info.role {
            note!(self, "n{node} is primary");
            self.tally.promotions += 1;
            checkers::one_primary(self);
            // Its application must find everything that was promised.
            let disk = self.nodes[node].server.unwrap_or(node);
            self.on_each_volume(|world| {
                checkers::claims(world, disk);
                checkers::elected(world, disk);
            });
        }
    }

    /// What the engine says of a volume after an event.
    fn observe_volume(&mut self, node: usize) {
        let Some(engine) = &self.nodes[node].engine else {
            return;
        };
        let towards = |peer: usize| {
            let info = engine.peer_volume_info(node_id(peer), self.at, Time(self.now));
            let state = info.and_then(|info| ReplicationState::from_number(info.replication));
            let is_victim = info.is_some_and(|info| info.victim == node as u32 + 1);
            (peer, state.unwrap_or(ReplicationState::Off), is_victim)
        };
        let replications: Vec<(usize, ReplicationState, bool)> =
            self.peers(node).map(towards).collect();
        for (peer, state, is_victim) in replications {
            if is_victim && is_target(state) && !is_target(self.nodes[node].replication[peer]) {
                note!(self, "n{node} gives its data up for those of n{peer}");
                self.nodes[node].give_up();
            }
            self.observe_replication(node, peer, state);
        }
        self.observe_verifies(node);
    }

    fn observe_replication(&mut self, node: usize, peer: usize, state: ReplicationState) {
        let was = std::mem::replace(&mut self.nodes[node].replication[peer], state);
        if was != state {
            self.tally.reach.change("replication", was, state);
        }
        if is_target(state) && !is_target(was) {
            note!(self, "n{node} is sync target of n{peer}");
            self.tally.resyncs += 1;
            self.nodes[node].source = Some(Source::Peer(peer));
            self.volume.history.inherit_excuses(node, peer);
        }
    }

    fn carry_out(&mut self, node: usize, act: Act) {
        match act {
            Act::Disk {
                cookie, io, data, ..
            } => self.submit(node, cookie, io, data),
            Act::Meta {
                cookie,
                sector,
                block,
                flush,
                ..
            } => {
                let mark = flush.then(|| self.nodes[node].disk.mark());
                self.submit_meta(
                    node,
                    cookie,
                    Op::Meta {
                        sector: sector.0,
                        block,
                        mark,
                    },
                );
            }
            Act::Send {
                peer,
                session,
                link,
                header,
                body,
                data,
            } => {
                let data = match self.content_of(node, &data) {
                    Ok(data) => data,
                    Err(()) => return,
                };
                self.send(node, (peer.index(), session), link, header, body, data);
            }
            Act::Complete {
                request,
                result,
                data,
            } => self.on_complete(node, request, result, data),
            Act::Offer { peer, session } => {
                self.nodes[node].offers.insert(peer.index(), session);
                self.meet_soon(pair(node, peer.index()));
            }
            Act::EndSession { peer, session } => self.end_session(node, peer.index(), session),
            Act::Door(_, result) => self.on_door(node, result),
            Act::Reply { token, result } => self.on_reply(node, token, result),
            Act::CloseDisk { .. } => {
                note!(self, "n{node} closes its disk");
                if !self.nodes[node].ops.is_empty() {
                    self.fail(
                        "contract",
                        format!("n{node}: the disk is closed while it is in use"),
                    );
                }
                self.nodes[node].is_attached = false;
                self.nodes[node].is_failing = false;
            }
            Act::Measure {
                attach_id, layout, ..
            } => self.measure(node, attach_id, layout),
            Act::Recall { .. } => self.remember(node, None),
            Act::Keep { number, kept, .. } => self.remember(node, Some((number, kept))),
            Act::Log { level, line } => {
                if let Some((_, solved)) = line.split_once("split brain solved by ") {
                    let policy = solved.split(':').next().unwrap_or_default();
                    self.tally.reach.count("recovery", policy);
                }
                if line.ends_with("carries out the requests of this primary") {
                    self.tally.reach.count("client", "served");
                }
                self.tally.reach.read(&line);
                checkers::suspected(self, node, &line);
                if line.contains("split brain") {
                    self.tally.split_brains += u64::from(level == Level::Error);
                }
                note!(self, "n{node} {level:?}: {line}");
            }
        }
    }

    /// Has the daemon hand back, or store, what a tie-breaker has to keep, some time later.
    fn remember(&mut self, node: usize, keep: Option<(u64, Kept)>) {
        let (life, volume) = (self.nodes[node].life, self.at);
        let delay = self.extra.duration(US..30 * MS);
        let memory = Happening::Memory {
            node,
            life,
            volume,
            keep,
        };
        self.after(delay, memory);
        // A machine that dies before it is told finds the old content or the new one.
        if let Some((number, kept)) = keep.filter(|_| self.extra.percent(30)) {
            self.keep(node, number, kept);
        }
    }

    /// A daemon does one after the other, so nothing older takes the place of what is kept.
    fn keep(&mut self, node: usize, number: u64, kept: Kept) {
        let this = &mut self.nodes[node];
        if number < this.kept_number {
            return;
        }
        (this.kept_number, this.kept) = (number, kept);
        note!(
            self,
            "n{node} keeps: promised {} generation {}",
            kept.promised,
            kept.generation.id
        );
        checkers::one_chain(self, node);
    }

    /// The daemon has done so.
    pub(crate) fn on_memory(
        &mut self,
        node: usize,
        life: u32,
        volume: VolumeId,
        keep: Option<(u64, Kept)>,
    ) {
        self.turn_to(volume);
        let this = &mut self.nodes[node];
        if this.life != life || this.engine.is_none() {
            return;
        }
        match keep {
            None => {
                let kept = this.kept;
                self.feed(node, Event::Recalled { volume, kept });
            }
            Some((number, kept)) => {
                self.keep(node, number, kept);
                self.feed(node, Event::Kept { volume, number });
            }
        }
    }

    /// The stable superblock may have changed from `old`.
    pub(crate) fn on_stable_superblock(&mut self, node: usize, old: Option<Rc<Superblock>>) {
        let new = self.nodes[node].superblock().cloned();
        if let (Some(old), Some(new)) = (old, new) {
            let says = |block: &Superblock| (block.generation, block.flags, block.written);
            self.spoil(node, &old, &new);
            if says(&old) != says(&new) {
                note!(
                    self,
                    "n{node} durable: generation {} of {} members {:b} flags {:b} written {}",
                    new.generation.id,
                    new.generation.parent,
                    new.generation.members.0,
                    new.flags,
                    new.written
                );
                checkers::enforce(self, node);
                checkers::line_changed(self, node, &old, &new);
                checkers::departures(self, node, &new);
                checkers::one_chain(self, node);
                let was_target = old.flags & !new.flags & FLAG_INCONSISTENT != 0;
                let is_own = new.generation.writer == Some(node_id(node));
                let is_forced = is_own
                    && old.generation.id != new.generation.id
                    && self.volume.history.is_forgiven(new.generation.id.0);
                if is_forced {
                    self.trust(node, new.generation.members);
                }
                if was_target && !is_forced {
                    self.complete(node);
                }
                checkers::claims(self, node);
                if new.flags & !old.flags & FLAG_GIVEN_UP != 0 && self.is_victim(node) {
                    // Perhaps for the second time, while the first decision was carried out.
                    self.nodes[node].give_up();
                }
                if old.flags & !new.flags & FLAG_GIVEN_UP != 0 {
                    // It is done, or will not be.
                    self.nodes[node].may_lose_line = false;
                }
            }
        }
    }

    /// Whether `node` says that its data were given up for those of a peer.
    fn is_victim(&self, node: usize) -> bool {
        let Some(engine) = &self.nodes[node].engine else {
            return false;
        };
        self.peers(node).any(|peer| {
            let info = engine.peer_volume_info(node_id(peer), self.at, Time(self.now));
            info.is_some_and(|info| info.victim == node as u32 + 1)
        })
    }

    /// The disk of `node` has all that its source had.
    fn complete(&mut self, node: usize) {
        match self.nodes[node].source {
            Some(Source::Peer(peer)) => {
                self.volume.history.replace_excuses(node, peer);
                self.nodes[node].is_void = self.nodes[peer].is_void;
            }
            Some(Source::Former { was_void }) => self.nodes[node].is_void = was_void,
            None => {}
        }
    }

    /// Data of a disk that was exchanged are the right ones from now on, and so are those of the members that have the
    /// same.
    fn trust(&mut self, node: usize, members: NodeSet) {
        if std::mem::replace(&mut self.nodes[node].is_void, false) {
            for member in members.iter() {
                self.nodes[member.index()].is_void = false;
            }
        }
    }

    fn on_reply(&mut self, node: usize, token: Token, result: Result<(), (Refusal, String)>) {
        let Some(command) = self.nodes[node].tokens.remove(&token.0) else {
            return self.fail(
                "contract",
                format!("n{node}: a reply that nobody waits for"),
            );
        };
        match result {
            Ok(()) => {
                self.nodes[node].is_suspended |= command == Some(Command::SuspendIo);
                if matches!(command, Some(Command::Resize { .. })) {
                    self.tally.reach.count("order", "device grown");
                }
                if let Some(Command::Connect {
                    peer,
                    discard_my_data: true,
                }) = command
                {
                    self.on_each_volume(|world| world.discard(node, peer.index()));
                }
                note!(self, "n{node} {command:?}: done");
            }
            Err((refusal, detail)) => {
                self.tally.reach.count("refusal", refusal.name());
                note!(self, "n{node} {command:?}: {} ({detail})", refusal.name())
            }
        }
        if matches!(
            command,
            Some(Command::Primary { force: true } | Command::NewGeneration)
        ) {
            self.nodes[node].is_forcing = false;
        }
    }

    /// A person said that the data of `node` are worth less than those of `peer`.
    fn discard(&mut self, node: usize, peer: usize) {
        self.nodes[node].give_up();
        let [mine, theirs] = [node, peer].map(|it| self.nodes[it].written());
        self.volume.history.discard(mine, theirs);
    }

    pub(crate) fn remember_resync(&mut self, node: usize, content: &Content) {
        let buffers = &mut self.nodes[node].resync_buffers;
        if buffers.len() == 64 {
            buffers.remove(0);
        }
        buffers.push(content.clone());
    }
}
