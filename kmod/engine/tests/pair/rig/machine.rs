// SPDX-License-Identifier: GPL-2.0-only

//! What people do with whole machines: they start, stop and lead; their disks come, go and are exchanged.

use super::lower::{blank, bytes_of, Lower};
use super::{digest_of, new_engine, node, Rig};
use crate::host::RigHost;
use weft_engine::event::{Command, Cookie, Event, Io, Options, Token};
use weft_engine::load::{DiskInfo, LoadedDisk};
use weft_uapi::control::padded_name;
use weft_uapi::ondisk::{Layout, MetaKind};
use weft_uapi::refusal::Refusal;
use weft_uapi::split_brain::Policies;
use weft_uapi::state::{FenceOutcome, Fencing};
use weft_uapi::units::{NodeSet, VolumeId};

impl Rig {
    /// Attaches the disks of all volumes.
    pub(crate) fn attach(&mut self, number: usize) {
        let volume = self.volume;
        for volume in self.each_volume() {
            self.on(volume.0).attach_with_blocks(number, 512);
        }
        self.volume = volume;
    }

    /// Attaches the disk of the volume; the device has logical blocks of so many bytes.
    pub(crate) fn attach_with_blocks(&mut self, number: usize, block_bytes: u32) {
        let token = self.order_attach(number, block_bytes);
        assert_eq!(self.reply(token), Ok(()));
    }

    /// Hands the disk over and does not wait for the reply.
    pub(crate) fn order_attach(&mut self, number: usize, block_bytes: u32) -> Token {
        let disk = self.load(number, block_bytes).unwrap();
        let (token, volume) = (self.token(), self.volume);
        self.feed(
            number,
            Event::Attach {
                token,
                volume,
                disk: &mut Some(disk),
            },
        );
        token
    }

    /// Why the node's disk is not even read to its end.
    pub(crate) fn load_error(&self, number: usize) -> Option<Refusal> {
        self.load(number, 512).err()
    }

    /// Reads the metadata of the node's disk, as a host does before it hands the disk over.
    fn load(&self, number: usize, block_bytes: u32) -> Result<LoadedDisk<RigHost>, Refusal> {
        let disk = self.disk(number);
        let sectors = disk.sectors();
        let info = DiskInfo {
            disk_sectors: sectors,
            meta_sectors: sectors,
            meta_end: disk.meta_end(),
            can_discard: true,
            block_bytes,
            volume: self.volume,
            node: node(number),
            resource: padded_name("r0").unwrap(),
            meta_kind: MetaKind::Internal,
        };
        let [first, second] =
            Layout::superblock_sectors(MetaKind::Internal, info.meta_end).unwrap();
        let mut loaded = LoadedDisk::begin(info, &disk.block(first), &disk.block(second))?;
        let reads: Vec<_> = loaded.reads().collect();
        for (read, sector) in reads {
            loaded.take(read, &disk.block(sector));
        }
        loaded.finish()?;
        Ok(loaded)
    }

    /// The node's power fails; all it had written is on its disk, if that has no cache.
    pub(crate) fn crash(&mut self, number: usize) {
        let quorum = self.quorum;
        let node = &mut self.nodes[number];
        node.engine = new_engine(number, quorum, node.is_tie_breaker);
        node.queue.clear();
        node.late.clear();
        node.disks.iter_mut().for_each(Lower::lose);
        node.doors.clear();
        self.drop_wires(number);
        self.idle();
    }

    /// A crashed node's disk has zeros where it was written last: its cache was lost.
    pub(crate) fn lose_cache(&mut self, number: usize, sector: u64, bytes: usize) {
        self.disk_mut(number).content[sector as usize * 512..][..bytes].fill(0);
    }

    /// Starts a node that crashed, with its disk.
    pub(crate) fn restart(&mut self, number: usize) {
        self.restart_alone(number);
        self.dial_all(number);
        self.idle();
    }

    /// Starts a node that crashed, with its disk; it wants no connection.
    pub(crate) fn restart_alone(&mut self, number: usize) {
        self.configure(number);
        self.attach(number);
    }

    /// Starts a node that crashed, without its disk.
    pub(crate) fn restart_diskless(&mut self, number: usize) {
        self.configure(number);
        self.dial_all(number);
        self.idle();
    }

    fn dial_all(&mut self, number: usize) {
        for peer in self.peers(number) {
            self.dial(number, peer, false);
        }
    }

    /// A byte of this sector changes on the node's disk, and nobody knows.
    pub(crate) fn flip(&mut self, number: usize, sector: u64) {
        self.disk_mut(number).content[sector as usize * 512] ^= 0x40;
    }

    /// A new disk with fresh metadata takes the place of the node's, which is not attached.
    pub(crate) fn replace_disk(&mut self, number: usize) {
        self.replace_disk_with(number, self.sectors);
    }

    /// As [`Self::replace_disk`], with one of so many sectors.
    pub(crate) fn replace_disk_with(&mut self, number: usize, sectors: u64) {
        self.disk_mut(number).content = blank(self.volume, number, sectors);
    }

    /// A copy of all that the node's disk holds.
    pub(crate) fn image(&self, number: usize) -> Vec<u8> {
        self.disk(number).content.clone()
    }

    /// The node's disk, which is not attached, holds again what an image of it says.
    pub(crate) fn put_back(&mut self, number: usize, image: Vec<u8>) {
        self.disk_mut(number).content = image;
    }

    pub(crate) fn promote(&mut self, number: usize) -> Result<(), Refusal> {
        self.command(number, Command::Primary { force: false })
    }

    /// Makes the node secondary, which has to work, and lets everything settle.
    pub(crate) fn demote(&mut self, number: usize) {
        assert_eq!(
            self.command(number, Command::Secondary { force: false }),
            Ok(())
        );
        self.idle();
    }

    pub(crate) fn detach(&mut self, number: usize) {
        let volume = self.volume;
        assert_eq!(self.command(number, Command::Detach { volume }), Ok(()));
        self.idle();
    }

    /// Sets the policy, and has a daemon there to fence.
    pub(crate) fn set_fencing(&mut self, number: usize, fencing: Fencing) {
        let options = Options {
            fencing: Some(fencing),
            ..Options::default()
        };
        self.set_options(number, options).unwrap();
        let daemon = Event::Daemon {
            served: true,
            connected: NodeSet::EMPTY,
        };
        self.feed(number, daemon);
    }

    /// Sets what is done about a split brain.
    pub(crate) fn set_policies(&mut self, number: usize, policies: Policies) {
        let options = Options {
            split_brain_0: Some(policies.none),
            split_brain_1: Some(policies.one),
            ..Options::default()
        };
        self.set_options(number, options).unwrap();
    }

    /// The peer that the node wants fenced, if it does.
    pub(crate) fn fence_wanted(&self, number: usize) -> Option<usize> {
        self.nodes[number].fence.map(|(peer, _)| peer.index())
    }

    /// Answers the node that wants a peer fenced.
    pub(crate) fn fenced(&mut self, number: usize, outcome: FenceOutcome) {
        let (peer, question) = self.nodes[number].fence.take().expect("a question");
        let answer = Event::Fenced {
            peer,
            number: question,
            outcome,
        };
        self.feed(number, answer);
        self.idle();
    }

    /// The disk is digested.
    pub(super) fn digest(&mut self, number: usize, volume: VolumeId, cookie: Cookie, io: Io) {
        let content = &self.disk_of(number, volume).content[bytes_of(io)];
        let (digest, data) = (digest_of(content), content.into());
        let digested = Event::Digested {
            cookie,
            digest,
            data,
        };
        self.feed(number, digested);
    }
}
