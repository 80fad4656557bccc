// SPDX-License-Identifier: GPL-2.0-only

//! An exhaustive model of the generation protocol in small scopes: every order of steps of two or three nodes, with crashes,
//! lost sessions, promotions, resyncs and packets on their way.
//!
//! Who is right when two disks meet is decided by the engine's own functions (`decide`, `arrange`, `Ancestry`); the rest of
//! the engine is modelled, with one step per durable action: what `machine/change.rs`, `peer_record.rs`, `role.rs`,
//! `negotiate.rs` and `said.rs` do at once happens at once here. Names of rules (G1 and so on) are those of
//! [`scope::Broken`], which breaks them one by one.
//!
//! | what | how |
//! |---|---|
//! | generations | numbered in the order of creation, so that equal histories look equal |
//! | packets | in order per direction, lost with their session |
//! | one step each | a round of the negotiation, a vote, the exchange of bitmaps, a block of a resync, a flush |
//! | power | cut at any step; of what the cache held, any blocks survive |
//! | time | none: whatever can happen may happen next; a promotion may take too long whenever it waits |
//!
//! Not shown: states that change between being told and being decided upon, acknowledgements that overtake records (they
//! have a link of their own), writes to a part of a block, torn metadata (I6), an activity log that is too small,
//! protocols A and B, disks that fail or leave, nodes without disk, a changed set of voters, more than one volume, more
//! than three nodes.
//!
//! Environment: `WEFT_MODEL_THREADS` (1).

mod action;
mod check;
mod cluster;
mod fault;
mod io;
mod meet;
mod record;
mod role;
mod scope;
mod set;
mod state;
mod sync;

use cluster::{catch, explore};
use scope::{Broken, Scope};

/// Two disks of two blocks, without quorum.
const PAIR: Scope = Scope::mirror(2);
/// One of two disks may be put back as it was before.
const OLD_IMAGE: Scope = PAIR.with_rollbacks(1);
/// Three disks of one block.
const THREE: Scope = Scope::mirror(3).with_blocks(1);
/// As above, with one fault, and the writer stays the same.
const THREE_FAULTS: Scope = THREE.with_faults(1).with_promotions(0);
/// As above, with one fault, and nobody writes.
const THREE_ROLES: Scope = THREE.with_faults(1).with_writes(0);

macro_rules! explores {
    ($ignored:meta: $($name:ident: $scope:expr;)*) => {$(
        #[test]
        #[$ignored]
        fn $name() {
            explore(stringify!($name), $scope);
        }
    )*};
}

explores! {
    cfg_attr(debug_assertions, ignore = "too slow without optimisation: scripts/test sim"):
    a_pair: PAIR;
    a_pair_and_two_promotions: PAIR.with_promotions(2);
    a_pair_that_was_just_created: PAIR.with_faults(1).just_created();
    a_pair_with_an_old_image: OLD_IMAGE;
    three_disks_and_one_writer: THREE_FAULTS;
    three_disks_and_two_roles: THREE_ROLES;
    three_disks_and_two_faults: THREE.with_promotions(0).with_writes(0);
    three_disks_with_quorum_and_one_writer: THREE_FAULTS.with_quorum();
    three_disks_with_quorum_and_two_roles: THREE_ROLES.with_quorum();
    three_disks_with_quorum_and_two_faults: THREE.with_promotions(0).with_writes(0).with_quorum();
}

// Half a minute to an hour each, on a core of its own.
explores! {
    ignore = "large: WEFT_MODEL=large scripts/test sim":
    a_pair_and_two_writes: PAIR.with_writes(2);
    three_disks: THREE.with_faults(1);
    three_disks_with_quorum: THREE.with_faults(1).with_quorum();
    three_disks_and_a_lost_write: THREE.with_promotions(0);
    three_disks_with_quorum_and_a_lost_write: THREE.with_promotions(0).with_quorum();
}

macro_rules! catches {
    ($($name:ident: $broken:ident in $scope:expr, by $property:literal;)*) => {$(
        #[test]
        #[cfg_attr(debug_assertions, ignore = "too slow without optimisation: scripts/test sim")]
        fn $name() {
            catch(stringify!($name), $scope.with(Broken::$broken), $property);
        }
    )*};
}

/// Rules broken on purpose, where they are caught, and by which of the properties.
mod canaries {
    use super::*;

    catches! {
        g1_record_in_memory: RecordInMemory in THREE.with_writes(0).with_quorum(), by "I3";
        g2_acknowledge_before_shrink: AcknowledgeBeforeShrink in PAIR, by "I2";
        g3_grow_before_equal: GrowBeforeEqual in PAIR, by "I2";
        g3_tell_early: TellEarly in THREE_FAULTS, by "I7";
        g4_resync_sets_no_bits: ResyncSetsNoBits in THREE_FAULTS, by "I1";
        g4_members_set_no_bits: MembersSetNoBits in THREE_FAULTS, by "I1";
        g4_clear_before_stable: ClearBeforeStable in PAIR, by "I1";
        g4_source_is_unstable: SourceIsUnstable in PAIR, by "I2";
        g4_keep_targets: KeepTargets in THREE_ROLES.with_quorum(), by "I7";
        g4_drop_bits_early: DropBitsEarly in THREE_FAULTS, by "I1";
        g5_trim_before_stable: TrimBeforeStable in PAIR, by "I1";
        g5_record_drops_tail: RecordDropsTail in THREE_FAULTS, by "I1";
        g5_peers_keep_no_tail: PeersKeepNoTail in THREE_FAULTS, by "I1";
        g5_forget_crash: ForgetCrash in THREE.with_promotions(0), by "I2";
        g6_promote_without_majority: PromoteWithoutMajority in THREE_ROLES.with_quorum(), by "I3";
        g6_follow_two_writers: FollowTwoWriters in THREE_FAULTS, by "I7";
        g6_secondaries_go_on: SecondariesGoOn in THREE_FAULTS, by "I5";
        g7_trust_old_images: TrustOldImages in OLD_IMAGE, by "I1";
    }
}
